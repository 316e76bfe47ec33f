-- user_recap: a summary of a part of a conversation becomes a memory, unless something that it rests on was forgotten
-- KEYS user memories sources
-- ARGV gen ttl item raw ...rests
-- rests: ids of the items that it rests on
-- returns {'ok', added} | {'forgotten'} | {'gone'} the user was erased
-- INCLUDE generation.lua

local now = begin_life(user, now_us())
if gen ~= now then return {'gone'} end
for i = rests, #ARGV do
  if redis.call('HGET', sources, ARGV[i]) == '0' then return {'forgotten'} end
end
local added = 0
if redis.call('HEXISTS', sources, item) == 0 then
  added = 1
  local seq = redis.call('HINCRBY', user, 'mseq', 1)
  redis.call('HSET', memories, seq, raw)
  redis.call('HSET', sources, item, seq)
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ttl) end
return {'ok', added}
