-- watch: how long the lease of an owner still lasts; an owner without one gets one, so that it is found again
-- KEYS leases ready
-- ARGV member lease_ms
-- returns {'ok', ms left, negative when it ran out} | {'queued'} it waits in the queue for a pod
-- INCLUDE ownership.lua

local deadline = redis.call('ZSCORE', leases, member)
local now = now_ms()
if not deadline then
  if redis.call('ZSCORE', ready, member) then return {'queued'} end
  deadline = now + lease_ms
  redis.call('ZREM', leases, '')  -- get through, see ownership.lua
  redis.call('ZADD', leases, string.format('%.0f', deadline), member)
end
return {'ok', string.format('%.0f', tonumber(deadline) - now)}
