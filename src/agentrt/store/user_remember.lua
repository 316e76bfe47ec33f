-- user_remember: raw turns become memories; what is remembered already is passed over
-- KEYS user memories sources pending
-- ARGV gen ttl ...turns
-- gen: the generation in which the work was begun; empty: this one. turns: item id, '1' if facts are to be drawn from it,
-- JSON; and so on
-- returns {'ok', added, memories now} | {'gone'} the user was erased
-- INCLUDE generation.lua

local now = begin_life(user, now_us())
if gen ~= '' and gen ~= now then return {'gone'} end
local seq, added = tonumber(redis.call('HGET', user, 'mseq')), 0
for i = turns, #ARGV, 3 do
  if redis.call('HEXISTS', sources, ARGV[i]) == 0 then
    seq, added = seq + 1, added + 1
    redis.call('HSET', memories, seq, ARGV[i + 2])
    redis.call('HSET', sources, ARGV[i], seq)
    if ARGV[i + 1] == '1' then redis.call('HSET', pending, ARGV[i], cjson.encode({seq, 0, ''})) end
  end
end
redis.call('HSET', user, 'mseq', seq)
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ttl) end
return {'ok', added, seq}
