-- job_fail: a job did not succeed: later, or into the dead letters with it
-- KEYS jobs marks buried
-- ARGV job mark delay_ms letter counts
-- letter: JSON for the dead letters, or empty: again after the delay. counts: '0' when this was no try
-- returns {'ok'} | {'gone'} it was dropped meanwhile, by an erasure
-- | {'again'} it was not buried: it was asked for again since it was taken, and has all its tries
-- INCLUDE ownership.lua

if not redis.call('ZSCORE', jobs, job) then return {'gone'} end
if counts == '0' then redis.call('HDEL', marks, job .. '#') end
if letter == '' then
  redis.call('ZADD', jobs, string.format('%.0f', now_ms() + delay_ms), job)
elseif (redis.call('HGET', marks, job) or '0') ~= mark then
  redis.call('HDEL', marks, job .. '#')
  redis.call('ZADD', jobs, string.format('%.0f', now_ms()), job)
  return {'again'}
else
  redis.call('ZREM', jobs, job)
  redis.call('HDEL', marks, job, job .. '#')
  redis.call('HSET', buried, job, letter)
end
return {'ok'}
