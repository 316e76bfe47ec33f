-- user_erase: a new generation begins with nothing; only the index of sessions stays until the cascade has gone over it
-- KEYS user facts memories vectors sources pending
-- ARGV op ttl channel name
-- returns {generation, ms, facts, memories, vectors}; sending it again to the same op tells the same
-- The first write is an HDEL so that it gets through when Redis refuses new data.
-- INCLUDE generation.lua

local known = redis.call('HMGET', user, 'erase_op', 'erase_reply')
if known[1] == op then return cjson.decode(known[2]) end
redis.call('HDEL', user, '')
local us = now_us()
local ms = string.format('%.0f', us / 1000)
local gen = string.format('%.0f', math.max(us, tonumber(redis.call('HGET', user, 'gen') or 0) + 1))
local reply = {gen, ms, tostring(redis.call('HLEN', facts)), tostring(redis.call('HLEN', memories)),
  tostring(redis.call('HLEN', vectors))}
redis.call('UNLINK', user, facts, memories, vectors, sources, pending)
redis.call('HSET', user, 'gen', gen, 'frev', 0, 'mseq', 0, 'epoch', 0, 'profile', '', 'left', 0, 'erased', ms,
  'erase_op', op, 'erase_reply', cjson.encode(reply))
redis.call('EXPIRE', user, ttl)
redis.call('PUBLISH', channel, name)
return reply
