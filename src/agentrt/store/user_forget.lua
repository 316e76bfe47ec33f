-- user_forget: memories go, with all that was kept for them
-- KEYS user memories vectors sources pending
-- ARGV gen ttl keep ...items
-- gen: the generation in which the work was begun; empty: this one. keep: '1' to keep the ids of the items as forgotten,
-- also of those that are not remembered yet: whoever read them before will not remember them afterwards
-- returns {'ok', how many} | {'gone'} the user was erased
-- INCLUDE generation.lua

local now = keep == '1' and begin_life(user, now_us()) or redis.call('HGET', user, 'gen')
if gen ~= '' and gen ~= now then return {'gone'} end
local gone = 0
for i = items, #ARGV do
  local number = redis.call('HGET', sources, ARGV[i])
  if number and number ~= '0' then
    redis.call('HDEL', memories, number)
    redis.call('HDEL', vectors, number)
    redis.call('HDEL', sources, ARGV[i])
    redis.call('HDEL', pending, ARGV[i])
    gone = gone + 1
  end
  if keep == '1' then redis.call('HSET', sources, ARGV[i], '0') end
end
if gone > 0 then redis.call('HINCRBY', user, 'epoch', 1) end
if keep == '1' then
  redis.call('EXPIRE', user, ttl)
  redis.call('EXPIRE', sources, ttl)
end
return {'ok', gone}
