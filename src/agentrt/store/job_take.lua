-- job_take: jobs whose time has come, each under a lease: for so long nobody else takes it
-- KEYS jobs marks later paces buried
-- ARGV count lease_ms
-- returns {job, mark, tries, ...}; what a lost reply took comes back when its lease is over
-- INCLUDE ownership.lua
-- INCLUDE jobs.lua

local now = now_ms()
for _, job in ipairs(redis.call('ZRANGEBYSCORE', later, '-inf', string.format('%.0f', now), 'LIMIT', 0, count)) do
  redis.call('ZREM', later, job)
  ask(jobs, marks, paces, buried, job, string.match(job, '^[^/]*/([^/]*)'), now)
end
local due = redis.call('ZRANGEBYSCORE', jobs, '-inf', string.format('%.0f', now), 'LIMIT', 0, count)
local taken = {}
for _, job in ipairs(due) do
  redis.call('ZADD', jobs, string.format('%.0f', now + lease_ms), job)
  taken[#taken + 1] = job
  taken[#taken + 1] = redis.call('HGET', marks, job) or '0'
  taken[#taken + 1] = string.format('%.0f', redis.call('HINCRBY', marks, job .. '#', 1))
end
return taken
