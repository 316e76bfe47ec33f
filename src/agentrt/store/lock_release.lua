-- lock_release: give a named lock back, or leave its line; the next one in it holds the lock from here on
-- KEYS lock
-- ARGV token ttl
-- returns {'released'} | {'left'} it was only waiting | {'other'} it was neither, or sends this again
-- INCLUDE ownership.lua
-- INCLUDE line.lua

local s = redis.call('HMGET', lock, 'holder', 'fence', 'line')
local list = read_line(s[3])
if s[1] == token then
  hand_on(lock, list, s[2], ttl)
  return {'released'}
end
local place = place_of(list, token)
if not place then return {'other'} end
table.remove(list, place)
get_through(lock)
redis.call('HSET', lock, 'line', line_text(list))
return {'left'}
