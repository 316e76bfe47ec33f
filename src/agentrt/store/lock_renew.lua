-- lock_renew: move the deadline of a named lock that the caller holds
-- KEYS lock
-- ARGV token lock_ms ttl
-- returns {'held'} | {'lost'}; sending it again only moves the deadline
-- A time that ran out is not taken up again: the caller was to stop by then, and the next in line may be about to ask.
-- INCLUDE ownership.lua

local s = redis.call('HMGET', lock, 'holder', 'until')
local now = now_ms()
if s[1] ~= token or tonumber(s[2]) <= now then return {'lost'} end
get_through(lock)
redis.call('HSET', lock, 'until', string.format('%.0f', now + lock_ms))
redis.call('EXPIRE', lock, ttl)
return {'held'}
