-- quota_hold: runs that are being worked on go on counting
-- KEYS runs
-- ARGV hold_ms ...members
-- returns {'ok'}; sending it again only moves the time
-- INCLUDE ownership.lua

local until_ms = string.format('%.0f', now_ms() + hold_ms)
for i = members, #ARGV do redis.call('ZADD', runs, until_ms, ARGV[i]) end
redis.call('PEXPIRE', runs, hold_ms)
return {'ok'}
