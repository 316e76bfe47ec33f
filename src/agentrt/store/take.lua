-- take: the first entries of the queue for a pod that has room; each gets a lease with the pop
-- KEYS leases ready since tags takes
-- ARGV op pod count lease_ms
-- returns the members; the same ones again to the same op. An entry keeps its token, the one that a claim displaces: a
-- pod that dies between take and claim leaves a lease that runs out, and the entry comes back.
-- INCLUDE ownership.lua
-- INCLUDE queue.lua

local KEEP_MS = 60000
local now = now_ms()
local known = redis.call('HGET', takes, pod)
if known then
  local last = cjson.decode(known)
  if last[1] == op then return last[2] end
else  -- a pod that is new here pays for those that went: a busy queue's hash never expires as a whole
  local all = redis.call('HGETALL', takes)
  for i = 1, #all, 2 do
    if now - (cjson.decode(all[i + 1])[3] or 0) > KEEP_MS then redis.call('HDEL', takes, all[i]) end
  end
end
redis.call('ZREM', leases, '')  -- get through, see ownership.lua
local deadline = string.format('%.0f', now + lease_ms)
local taken = {}
for _ = 1, count do
  local popped = redis.call('ZPOPMIN', ready)
  local member = popped[1]
  if not member then break end
  local score = tonumber(popped[2])
  local class = math.floor(score / CLASS)
  local tag = string.format('%.0f', score - class * CLASS)
  local own = class .. ':' .. tenant_of(member)
  redis.call('HSET', tags, class .. ':', tag)
  if redis.call('HGET', tags, own) == tag then redis.call('HDEL', tags, own) end  -- nothing of the tenant waits any more
  redis.call('ZREM', since, member)
  redis.call('ZADD', leases, deadline, member)
  taken[#taken + 1] = member
end
if #taken > 0 then
  if redis.call('ZCARD', ready) == 0 then redis.call('DEL', tags) end
  redis.call('HSET', takes, pod, cjson.encode({op, taken, now}))
  redis.call('PEXPIRE', takes, KEEP_MS)
end
return taken
