-- jobs: entering a job. Included, never called.
-- A tenant's jobs are entered PACE ms apart, so a burst of one tenant leaves room between its jobs for all others'.
-- A job that is there already is only marked: whoever works on it now will see that it was asked for again. Marks begin
-- with the time, not with 1: one that was done and is asked for anew has a mark that no worker has seen.

local PACE = 2

local function ask(jobs, marks, paces, buried, job, tenant, now)
  redis.call('HDEL', buried, job)
  local t = redis.call('TIME')
  redis.call('HSETNX', marks, job, string.format('%.0f', t[1] * 1000000 + t[2]))
  redis.call('HINCRBY', marks, job, 1)
  if redis.call('ZSCORE', jobs, job) then return end
  local due = math.max(now, tonumber(redis.call('HGET', paces, tenant) or 0) + PACE)
  redis.call('HSET', paces, tenant, string.format('%.0f', due))
  redis.call('EXPIRE', paces, 60)
  redis.call('ZADD', jobs, string.format('%.0f', due), job)
end
