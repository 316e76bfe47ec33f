-- doubt_enter: say where effects are about to be recorded as in doubt
-- KEYS index
-- ARGV ttl ...places
-- returns {'ok'}; sending it again changes nothing
-- INCLUDE ownership.lua

redis.call('ZREM', index, '')  -- what was begun must get through when Redis refuses new data, see ownership.lua
local now = string.format('%.0f', now_ms())
for i = places, #ARGV do redis.call('ZADD', index, 'NX', now, ARGV[i]) end
redis.call('EXPIRE', index, ttl)
return {'ok'}
