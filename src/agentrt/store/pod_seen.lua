-- pod_seen: a pod says that it lives, and learns which schema version is written; the silent ones are forgotten
-- KEYS pods schema
-- ARGV pod told known keep_ms
-- told: JSON, what the pod says of itself; empty when it leaves. known: the newest schema version that it knows
-- returns {'ok', writes}; sending it again only moves the time
-- The first pod of a deployment has its own version written; where pods are there already, what all of them know.
-- INCLUDE ownership.lua
-- INCLUDE pods.lua

local now = now_ms()
if told == '' then
  redis.call('HDEL', pods, pod)
else
  redis.call('HSET', pods, pod, string.format('%.0f', now) .. '\n' .. told)
end
local all = redis.call('HGETALL', pods)
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%d+')) < now - keep_ms then redis.call('HDEL', pods, all[i]) end
end
redis.call('PEXPIRE', pods, keep_ms)
local writes = redis.call('HGET', schema, 'writes')
if not writes then
  writes = tonumber(known)
  each_live(pods, now, keep_ms, function(_, entry) writes = math.min(writes, newest_known(entry)) end)
  if told ~= '' then redis.call('HSET', schema, 'writes', writes) end
end
return {'ok', tostring(writes)}
