-- cancel: ask the owner of a run to end it; a waiting run ends at once
-- KEYS session run
-- ARGV known session_id run_id mode result ttl
-- mode: '1' to keep what was done, 'rollback' to drop it where that is still possible; the first one asked counts
-- returns {'asked'} the owner will see it | {'ended', status} | {'cancelled'} it was waiting | {'missing'}
--         {'newer', v} | {'older', v}
-- INCLUDE versions.lua
-- INCLUDE ownership.lua
-- INCLUDE waiters.lua

local r = redis.call('HMGET', run, 'status', 'pod')
if not r[1] then return {'missing'} end
if r[1] ~= 'running' and r[1] ~= 'waiting' then return {'ended', r[1]} end
local s = redis.call('HMGET', session, 'run', 'waiters', 'v')
local odd = s[3] and strange(s[3], known)
if odd then return odd end
get_through(run)  -- whoever ends a run frees memory
if s[1] == run_id then
  redis.call('HSETNX', run, 'cancel', mode)
  local how = redis.call('HGET', run, 'cancel')
  if r[2] then redis.call('PUBLISH', 'agentrt:pod:' .. r[2], cjson.encode({'cancel', session_id, run_id, how})) end
  return {'asked'}
end
local list, kept = read_waiters(s[2]), {}
for _, w in ipairs(list) do if w[1] ~= run_id then kept[#kept + 1] = w end end
if s[2] then write_waiters(session, kept) end
redis.call('HSET', run, 'status', 'cancelled', 'result', result, 'ended', now_ms(), 'n_items', 0)
redis.call('EXPIRE', run, ttl)
return {'cancelled'}
