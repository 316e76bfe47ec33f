-- quota_leave: a run has ended, or was not begun after all
-- KEYS used runs
-- ARGV member tokens turns
-- tokens: what it cost. turns: 1 to give the turn back as well
-- returns {'ok'} | {'gone'} it does not count any more, so sending this again counts nothing
-- INCLUDE ownership.lua

if redis.call('ZREM', runs, member) == 0 then return {'gone'} end
local now = now_ms()
local minute, day = math.floor(now / 60000), math.floor(now / 86400000)
local u = redis.call('HMGET', used, 'minute', 'turns', 'day', 'tokens')
local known = tonumber(u[3] or -1) == day and tonumber(u[4]) or 0
redis.call('HSET', used, 'day', day, 'tokens', string.format('%.0f', known + tokens))
if turns ~= '0' and tonumber(u[1] or -1) == minute then
  redis.call('HSET', used, 'turns', math.max(0, tonumber(u[2]) - turns))
end
redis.call('EXPIRE', used, 172800)
return {'ok'}
