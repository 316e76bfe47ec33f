-- delete_run: forget the record, journal and log of an ended run; its items stay
-- KEYS session run effects events
-- ARGV known run_id
-- returns {'ok'} | {'missing'} | {'running'} | {'newer', v} | {'older', v}
--         {'in_doubt'} what one of its effects did is not known: its journal is all that there is to resolve it by
-- INCLUDE versions.lua
-- INCLUDE doubts.lua

local status = redis.call('HGET', run, 'status')
if not status then return {'missing'} end
if status == 'running' or status == 'waiting' then return {'running'} end
local s = redis.call('HMGET', session, 'v', 'doubts')
local odd = s[1] and strange(s[1], known)
if odd then return odd end
for _, doubt in ipairs(read_doubts(s[2])) do
  if doubt[2] == run_id then return {'in_doubt'} end
end
redis.call('UNLINK', run, effects, events)
return {'ok'}
