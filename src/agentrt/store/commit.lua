-- commit: end a run: append its items, keep its result, disown the session, grant the next waiter
-- KEYS session run items effects events runs
-- ARGV session_id run_id token fence status result retry head planned approvals skip steered asked last batch events_ttl ttl run_ttl doubts_ttl ...lines
-- lines: the run's items in order, an empty one for a number that stays empty; the first `skip` are in the list already
-- head: '1' when the run becomes the newest of its session. planned: '1' when it has a journal
-- approvals: JSON [[id of the request, run, effect key], ...] that the next input may answer, or empty
-- retry: '1' when sending the message again shall resume it
-- steered: how many of the messages that came to the run meanwhile it has taken in
-- asked: how many of its items are its input
-- doubts_ttl: how long all of it is kept at least while the outcome of an effect of the session is not known
-- returns {'ok', rev} | {'continue'} more messages came: nothing is written, take them in first
--         | {'fenced'} | {'missing'} | {'corrupt', items in the list}
-- The first write is an HDEL so that it gets through when Redis refuses new data.
-- INCLUDE ownership.lua
-- INCLUDE waiters.lua
-- INCLUDE log.lua
-- INCLUDE doubts.lua

local r = redis.call('HMGET', run, 'op:commit', 'first', 'followers')
local known = r[1]
if known then
  local by, rev = string.match(known, '^([^,]+),(.*)$')
  if by == token then
    replicate(run, 'op:commit', known)
    return {'ok', rev}
  end
end
local s = redis.call('HMGET', session, 'owner', 'fence', 'rev', 'waiters', 'doubts', 'run_fp', 'steers', 'v')
local refused = refusal(session, token, fence, s)
if refused then return {refused} end
if s[7] and #cjson.decode(s[7]) > tonumber(steered) then return {'continue'} end
local count = math.max(#ARGV - lines + 1, tonumber(skip))
local length = redis.call('LLEN', items)
if length ~= tonumber(r[2]) + tonumber(skip) then return {'corrupt', length} end

redis.call('HDEL', session, 'owner', 'steers')
if retry == '1' then  -- the run may go on: what belongs to it waits with it, and what it did not use goes back
  if s[7] then redis.call('HSET', run, 'steers', s[7]) end
  local unused = count == 0 and redis.call('HGET', run, 'approvals')
  if unused then
    redis.call('HDEL', run, 'approvals')
    redis.call('HSET', session, 'approvals', unused)
  end
end
for i = lines + skip, #ARGV, 500 do redis.call('RPUSH', items, unpack(ARGV, i, math.min(i + 499, #ARGV))) end
local rev = string.format('%.0f', tonumber(s[3]) + 1)
local now = now_ms()
redis.call('HSET', run, 'status', status, 'result', result, 'retry', retry, 'ended', now, 'n_items', count,
  'op:commit', token .. ',' .. rev)
if tonumber(s[8]) >= 2 and count > 0 and status ~= 'failed' then  -- it cannot be resumed, and the history has it
  redis.call('HDEL', run, 'input')
  redis.call('HSET', run, 'asked', asked)
end
redis.call('HSET', session, 'rev', rev, 'seq', tonumber(r[2]) + count, 'updated', now,
  'last_run', run_id, 'last_fp', s[6], 'last_end', now)
if head == '1' then redis.call('HSET', session, 'head', run_id) end
log(run, events, session_id, run_id, last, batch, events_ttl)
if batch == '' then tell(r[3], session_id, run_id) end  -- it ended before anything of it was logged
if approvals ~= '' then redis.call('HSET', session, 'approvals', approvals) end
-- Whoever waits learns by asking again that an effect in doubt holds up the session.
grant(session, session_id, fence, blocker(s[5]) and {} or read_waiters(s[4]), now)
if s[5] and s[5] ~= '' then
  ttl, run_ttl = math.max(tonumber(ttl), tonumber(doubts_ttl)), math.max(tonumber(run_ttl), tonumber(doubts_ttl))
  redis.call('EXPIRE', runs, ttl)
end
redis.call('EXPIRE', session, ttl)
redis.call('EXPIRE', items, ttl)
redis.call('EXPIRE', run, run_ttl)
if planned == '1' then redis.call('EXPIRE', effects, run_ttl) end
return {'ok', rev}
