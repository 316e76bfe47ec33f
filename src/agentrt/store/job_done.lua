-- job_done: a job was done; it stays when it was asked for again meanwhile
-- KEYS jobs marks
-- ARGV job mark
-- returns {'done'} | {'again'}
-- INCLUDE ownership.lua

redis.call('HDEL', marks, job .. '#')
if (redis.call('HGET', marks, job) or '0') == mark then
  redis.call('ZREM', jobs, job)
  redis.call('HDEL', marks, job)
  return {'done'}
end
redis.call('ZADD', jobs, 'XX', string.format('%.0f', now_ms()), job)
return {'again'}
