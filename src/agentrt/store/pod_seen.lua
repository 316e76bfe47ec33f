-- pod_seen: a pod says that it lives; those that have said nothing for `keep_ms` are forgotten
-- KEYS pods
-- ARGV pod told keep_ms
-- told: JSON, what the pod says of itself; empty when it leaves
-- returns {'ok'}; sending it again only moves the time
-- INCLUDE ownership.lua

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
return {'ok'}
