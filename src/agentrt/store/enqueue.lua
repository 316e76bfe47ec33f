-- enqueue: a run that is to go on wherever there is room; its lease becomes its place in the queue
-- KEYS leases ready since tags
-- ARGV member urgency channel
-- returns {'ok'}; sending it again changes nothing, or leaves an entry that its claim drops
-- INCLUDE ownership.lua
-- INCLUDE queue.lua

redis.call('ZREM', leases, member)
local before = redis.call('ZCARD', ready)
enter(ready, since, tags, member, urgency, now_ms())
announce(ready, before, channel)
return {'ok'}
