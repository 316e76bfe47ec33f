-- job_take: jobs whose time has come, each under a lease: for so long nobody else takes it
-- KEYS jobs marks
-- ARGV count lease_ms
-- returns {job, mark, tries, ...}; what a lost reply took comes back when its lease is over
-- INCLUDE ownership.lua

local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', jobs, '-inf', string.format('%.0f', now), 'LIMIT', 0, count)
local taken = {}
for _, job in ipairs(due) do
  redis.call('ZADD', jobs, string.format('%.0f', now + lease_ms), job)
  taken[#taken + 1] = job
  taken[#taken + 1] = redis.call('HGET', marks, job) or '0'
  taken[#taken + 1] = string.format('%.0f', redis.call('HINCRBY', marks, job .. '#', 1))
end
return taken
