-- finish: what is left to do in the queue's slot when a run has ended: its lease goes, its jobs are entered
-- KEYS leases jobs marks paces buried
-- ARGV member tenant ...asked
-- member: the lease, or empty for none. asked: jobs, any number
-- returns {'ok'}; sending it again at most has a job looked at once more
-- INCLUDE ownership.lua
-- INCLUDE jobs.lua

redis.call('ZREM', leases, member)
local now = now_ms()
for i = asked, #ARGV do ask(jobs, marks, paces, buried, ARGV[i], tenant, now) end
return {'ok'}
