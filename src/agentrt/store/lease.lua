-- lease: enter a run into the one timer of the queue
-- KEYS leases
-- ARGV member lease_ms
-- returns {'ok', deadline ms}; sending it again only moves the deadline
-- INCLUDE ownership.lua

local deadline = string.format('%.0f', now_ms() + lease_ms)
redis.call('ZREM', leases, '')  -- a claim must get through when Redis refuses new data, see ownership.lua
redis.call('ZADD', leases, deadline, member)
return {'ok', deadline}
