-- job_done: a job was done; it stays when it was asked for again meanwhile
-- KEYS jobs marks
-- ARGV job mark
-- returns {'done'} | {'again'}; sent again it finds the job gone, or has one that was asked for since looked at
-- soon: marks are never given twice
-- INCLUDE ownership.lua

local asked = redis.call('HGET', marks, job)
if not asked or asked == mark then
  redis.call('ZREM', jobs, job)
  redis.call('HDEL', marks, job, job .. '#')
  return {'done'}
end
redis.call('HDEL', marks, job .. '#')
redis.call('ZADD', jobs, 'XX', string.format('%.0f', now_ms()), job)
return {'again'}
