-- revive: a run that was given up may be tried again, with all its attempts
-- KEYS session run
-- ARGV known
-- returns {'ok', fingerprint, agent's request, input, user} | {'missing'} | {'ended', status} it was not given up
--         {'newer', v} | {'older', v}
-- INCLUDE versions.lua

local r = redis.call('HMGET', run, 'status', 'attempt', 'fp', 'request', 'input')
local s = redis.call('HMGET', session, 'v', 'user')
if not r[1] or not s[1] then return {'missing'} end
local odd = strange(s[1], known)
if odd then return odd end
if r[1] ~= 'failed' then return {'ended', r[1]} end
redis.call('HSET', run, 'retry', '1', 'spared', r[2])
return {'ok', r[3], r[4], r[5], s[2] or ''}
