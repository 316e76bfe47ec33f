-- sweep: leases that have run out become entries of the queue, ahead of everything else
-- KEYS leases ready since tags
-- ARGV limit channel
-- returns {how many were moved, how many wait}
-- INCLUDE ownership.lua
-- INCLUDE queue.lua

local now = now_ms()
redis.call('ZREM', leases, '')  -- get through, see ownership.lua
local before = redis.call('ZCARD', ready)
local due = redis.call('ZRANGEBYSCORE', leases, '-inf', string.format('%.0f', now), 'LIMIT', 0, limit)
for _, member in ipairs(due) do
  redis.call('ZREM', leases, member)
  enter(ready, since, tags, member, 0, now)
end
announce(ready, before, channel)
return {#due, redis.call('ZCARD', ready)}
