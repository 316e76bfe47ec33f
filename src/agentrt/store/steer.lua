-- steer: give the live run of a session one more message, which it takes in at its next step
-- KEYS session run runs
-- ARGV known session_id run_id live fp by_key input steers_max ttl
-- run_id: the run that the message would have been; under a key its record says into which run it went
-- returns {'steered', run, owner token, owner's pod} it is that run's, now or since before
--         {'conflict'} another message has this key
--         {'gone'} the live run has ended by now     {'full'} as many, or as long ones, wait as may wait
--         {'newer', v} | {'older', v}
-- INCLUDE versions.lua
-- INCLUDE ownership.lua

-- As much may wait for a step together: the field is read whole with each message, and by commit.
local BYTES_MAX = 1048576

local s = redis.call('HMGET', session, 'owner', 'pod', 'run', 'run_fp', 'steers', 'v', 'last_run', 'last_fp')
local odd = s[6] and strange(s[6], known)
if odd then return odd end
if by_key == '1' then
  local known = redis.call('HMGET', run, 'into', 'fp')
  if known[1] and known[2] ~= fp then return {'conflict'} end
  if known[1] then return {'steered', known[1], s[1] or '', s[2] or ''} end
end
-- Without one by what it says: it went into that run, which has ended since.
if by_key == '0' and s[7] == live and is_of(s[8], fp) then return {'steered', live, s[1] or '', s[2] or ''} end
if s[3] ~= live or not s[1] or s[1] == '' then return {'gone'} end
if by_key == '0' and is_of(s[4], fp) then return {'steered', live, s[1], s[2]} end
if #(s[5] or '') + #input > BYTES_MAX then return {'full'} end
local steers = s[5] and cjson.decode(s[5]) or {}
if #steers >= tonumber(steers_max) then return {'full'} end
steers[#steers + 1] = input
redis.call('HSET', session, 'steers', cjson.encode(steers), 'run_fp', s[4] .. ',' .. fp)
if by_key == '1' then
  redis.call('HSET', run, 'status', 'steered', 'fp', fp, 'into', live, 'created', now_ms())
  redis.call('EXPIRE', run, ttl)
  redis.call('RPUSH', runs, run_id)
  redis.call('EXPIRE', runs, ttl)
end
redis.call('PUBLISH', 'agentrt:pod:' .. s[2], cjson.encode({'steer', session_id, live}))
return {'steered', live, s[1], s[2]}
