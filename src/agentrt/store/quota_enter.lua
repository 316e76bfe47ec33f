-- quota_enter: count a run that begins against its tenant's quota
-- KEYS used runs
-- ARGV member runs_max turns_max tokens_max hold_ms
-- a limit of 0 is none. hold_ms: a run that nobody ends or holds stops to count after this time
-- returns {'ok' | 'known', runs, turns, tokens used by now, ms until the minute, until the day ends}
--   | {'runs' | 'turns' | 'tokens', the limit, ms until it is worth to come again}
-- `known`: this run is counted already, so sending this again counts nothing.
-- INCLUDE ownership.lua

local now = now_ms()
redis.call('ZREMRANGEBYSCORE', runs, '-inf', now)
local minute, day = math.floor(now / 60000), math.floor(now / 86400000)
local u = redis.call('HMGET', used, 'minute', 'turns', 'day', 'tokens')
local turns = tonumber(u[1] or -1) == minute and tonumber(u[2]) or 0
local tokens = tonumber(u[3] or -1) == day and tonumber(u[4]) or 0
local minute_ms, day_ms = (minute + 1) * 60000 - now, (day + 1) * 86400000 - now
local in_flight = redis.call('ZCARD', runs)
if redis.call('ZSCORE', runs, member) then return {'known', in_flight, turns, tokens, minute_ms, day_ms} end
if tonumber(runs_max) > 0 and in_flight >= tonumber(runs_max) then return {'runs', runs_max, 1000} end
if tonumber(turns_max) > 0 and turns >= tonumber(turns_max) then return {'turns', turns_max, minute_ms} end
if tonumber(tokens_max) > 0 and tokens >= tonumber(tokens_max) then return {'tokens', tokens_max, day_ms} end
redis.call('ZADD', runs, string.format('%.0f', now + hold_ms), member)
redis.call('PEXPIRE', runs, hold_ms)
redis.call('HSET', used, 'minute', minute, 'turns', turns + 1, 'day', day, 'tokens', tokens)
redis.call('EXPIRE', used, 172800)
return {'ok', in_flight + 1, turns + 1, tokens, minute_ms, day_ms}
