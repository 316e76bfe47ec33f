-- create: begin a session, with its first items
-- KEYS session items
-- ARGV op v tenant user head metadata ttl at ...lines
-- at: how many items are there already, see copy.lua
-- returns {'ok', created ms} | {'exists'} | {'moved', items in the list} those that should be there are not
-- INCLUDE ownership.lua

local s = redis.call('HMGET', session, 'v', 'create_op', 'created')
if s[1] then
  if s[2] == op then return {'ok', s[3]} end
  return {'exists'}
end
local there, from = redis.call('LLEN', items), tonumber(at)
if there < from then return {'moved', there} end
if from == 0 then redis.call('UNLINK', items) else redis.call('LTRIM', items, 0, from - 1) end
local now = now_ms()
for i = lines, #ARGV do redis.call('RPUSH', items, ARGV[i]) end
redis.call('HSET', session, 'v', v, 'tenant', tenant, 'user', user, 'created', now, 'updated', now, 'rev', 0,
  'seq', from + #ARGV - lines + 1, 'fence', mint(), 'head', head, 'waiters', '', 'owner', '', 'run', '', 'metadata', metadata,
  'create_op', op)
redis.call('EXPIRE', session, ttl)
redis.call('EXPIRE', items, ttl)
return {'ok', string.format('%.0f', now)}
