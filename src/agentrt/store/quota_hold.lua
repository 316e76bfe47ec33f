-- quota_hold: runs that are being worked on go on counting
-- KEYS runs
-- ARGV hold_ms again ...members
-- again: '1' for runs that may have stopped to count. Else one that counts no longer has ended: it must not come back
-- returns {'ok'}; sending it again only moves the time
-- INCLUDE ownership.lua

local until_ms = string.format('%.0f', now_ms() + hold_ms)
for i = members, #ARGV do
  if again == '1' then redis.call('ZADD', runs, until_ms, ARGV[i]) else redis.call('ZADD', runs, 'XX', until_ms, ARGV[i]) end
end
redis.call('PEXPIRE', runs, hold_ms)
return {'ok'}
