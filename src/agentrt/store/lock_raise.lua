-- lock_raise: write a quorum's fence back, so that no later majority can mint a lower one
-- KEYS lock
-- ARGV token fence
-- returns {'ok'} | {'lost'} the lock is not the caller's here; sending it again changes nothing
-- INCLUDE ownership.lua

local s = redis.call('HMGET', lock, 'holder', 'fence')
if s[1] ~= token then return {'lost'} end
if tonumber(s[2]) < tonumber(fence) then
  get_through(lock)
  redis.call('HSET', lock, 'fence', fence)
end
return {'ok'}
