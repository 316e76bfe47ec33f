-- renew: move the deadlines of all leases of a pod
-- KEYS leases
-- ARGV lease_ms ...members
-- returns the members that were missing: somebody took them, their holder must check its ownership
-- INCLUDE ownership.lua

local deadline = string.format('%.0f', now_ms() + lease_ms)
local missing = {}
redis.call('ZREM', leases, '')  -- so that the rest gets through when Redis is out of memory, see ownership.lua
for i = members, #ARGV do
  if redis.call('ZADD', leases, 'XX', 'CH', deadline, ARGV[i]) == 0 and not redis.call('ZSCORE', leases, ARGV[i]) then
    missing[#missing + 1] = ARGV[i]
  end
end
return missing
