-- user_vectors: embeddings of memories that are still there
-- KEYS user memories vectors
-- ARGV gen ttl ...pairs
-- pairs: number, vector; and so on
-- returns {'ok'} | {'gone'} the user was erased

local h = redis.call('HMGET', user, 'gen', 'epoch')
if h[1] ~= gen then return {'gone'} end
local wrote = false
for i = pairs, #ARGV, 2 do
  if redis.call('HEXISTS', memories, ARGV[i]) == 1 and redis.call('HEXISTS', vectors, ARGV[i]) == 0 then
    redis.call('HSET', vectors, ARGV[i], ARGV[i + 1])
    wrote = true
  end
end
if wrote then redis.call('EXPIRE', vectors, ttl) end
return {'ok'}
