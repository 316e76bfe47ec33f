-- schema_bump: have the pods write a newer version of the schema from now on
-- KEYS pods schema
-- ARGV to force keep_ms
-- force: '1' although live pods do not know that version
-- returns {'ok'} also when it is written already | {'behind', pod, ...} these do not know it: nothing is changed
-- INCLUDE ownership.lua
-- INCLUDE pods.lua

if tonumber(redis.call('HGET', schema, 'writes') or 0) >= tonumber(to) then return {'ok'} end
local now, behind = now_ms(), {'behind'}
each_live(pods, now, keep_ms, function(name, entry)
  if newest_known(entry) < tonumber(to) then behind[#behind + 1] = name end
end)
if #behind > 1 and force ~= '1' then return behind end
redis.call('HSET', schema, 'writes', to, 'bumped', string.format('%.0f', now))
return {'ok'}
