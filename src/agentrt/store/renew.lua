-- renew: move the deadlines of all leases of a pod
-- KEYS leases ready since
-- ARGV lease_ms ...members
-- returns the members that were missing: somebody took them, their holder must check its ownership
-- One that was swept and that nobody has taken yet is its holder's again: it was late, not dead.
-- INCLUDE ownership.lua

local deadline = string.format('%.0f', now_ms() + lease_ms)
local missing = {}
redis.call('ZREM', leases, '')  -- so that the rest gets through when Redis is out of memory, see ownership.lua
for i = members, #ARGV do
  local member = ARGV[i]
  if redis.call('ZADD', leases, 'XX', 'CH', deadline, member) == 0 and not redis.call('ZSCORE', leases, member) then
    if redis.call('ZREM', ready, member) == 1 then
      redis.call('ZREM', since, member)
      redis.call('ZADD', leases, deadline, member)
    else
      missing[#missing + 1] = member
    end
  end
end
return missing
