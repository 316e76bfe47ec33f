-- revive: a run that was given up may be tried again, with all its attempts
-- KEYS session run
-- ARGV
-- returns {'ok', fingerprint, agent's request, input, user} | {'missing'} | {'ended', status} it was not given up

local r = redis.call('HMGET', run, 'status', 'attempt', 'fp', 'request', 'input')
if not r[1] or redis.call('EXISTS', session) == 0 then return {'missing'} end
if r[1] ~= 'failed' then return {'ended', r[1]} end
redis.call('HSET', run, 'retry', '1', 'spared', r[2])
return {'ok', r[3], r[4], r[5], redis.call('HGET', session, 'user') or ''}
