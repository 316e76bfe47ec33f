-- user_forget: memories go, with all that was kept for them
-- KEYS user memories vectors sources pending
-- ARGV gen ...items
-- returns {'ok', how many} | {'gone'} the user was erased

local h = redis.call('HMGET', user, 'gen', 'epoch')
if h[1] ~= gen then return {'gone'} end
local gone = 0
for i = items, #ARGV do
  local number = redis.call('HGET', sources, ARGV[i])
  if number then
    redis.call('HDEL', memories, number)
    redis.call('HDEL', vectors, number)
    redis.call('HDEL', sources, ARGV[i])
    redis.call('HDEL', pending, ARGV[i])
    gone = gone + 1
  end
end
if gone > 0 then redis.call('HSET', user, 'epoch', string.format('%.0f', tonumber(h[2]) + 1)) end
return {'ok', gone}
