-- park: let a lease run out at a given time
-- KEYS leases
-- ARGV member until_ms
-- returns {'ok'}

redis.call('ZREM', leases, '')  -- get through, see ownership.lua
redis.call('ZADD', leases, until_ms, member)
return {'ok'}
