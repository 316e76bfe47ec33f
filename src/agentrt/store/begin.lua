-- begin: own the session for a run, join the run that is this message, wait in line, or be refused
-- KEYS session run runs items
-- ARGV known writes tenant session_id user agent run_id token pod fp by_key create policy retried parent wait_ms waiters_max ttl alone acknowledged input request
-- returns 'fence|first|attempt|user|doubts|approvals|metadata' to the owner: one string, a table costs Redis more
--         {'joined', run id, owner token, owner's pod}   the run lives: follow it; the lease says whether it really does
--         {'waiting', run id, live run, owner token, owner's pod}
--         {'busy', live run, owner token, owner's pod}   refused by policy, or the line is full
--         {'ended', run id}                   the run has ended: replay its result
--         {'steered', run id}                 the message was given to that run
--         {'blocked', run id, effect key}     an effect in doubt holds up the session until it is resolved
--         {'conflict'} same id, other body    {'missing'} no such session      {'fork'} the parent is not the tail
--         {'left'} this id's session was deleted, and not all of its runs yet: remove them, and come again
--         {'newer', v} {'older', v} bring it up first          {'foreign'} the key holds another tenant's state
-- known: the newest schema version that this pod knows; writes: the one that new sessions get, and idle ones are brought to
-- acknowledged: '1' where replicas are waited for, which counts what this connection writes: so something is written
-- Sending it again is harmless: the token names the call, and an owner or waiter with that token gets its place again.
-- INCLUDE versions.lua
-- INCLUDE ownership.lua
-- INCLUDE waiters.lua
-- INCLUDE doubts.lua
-- INCLUDE steers.lua

local s = redis.call('HMGET', session, 'v', 'tenant', 'owner', 'fence', 'run', 'run_fp', 'waiters', 'seq', 'user', 'metadata',
  'doubts', 'notes', 'approvals', 'alone')
local sv, owner, fence, live, live_fp, seq = s[1], s[3], s[4], s[5] or '', s[6], s[8]
local r = redis.call('HMGET', run, 'status', 'fp', 'token', 'attempt', 'retry', 'n_items', 'first', 'forked', 'approvals')
local status, attempt, first = r[1], tonumber(r[4] or 0), r[7]
local time = redis.call('TIME')
local now = now_ms(time)
local function live_pod() return redis.call('HGET', session, 'pod') or '' end

if sv then
  local odd = strange(sv, known)
  if odd then return odd end
  if tonumber(sv) < tonumber(writes) and (not owner or owner == '') then return {'older', sv} end
end
if sv and s[2] ~= tenant then return {'foreign'} end
if not sv and create ~= '1' then return {'missing'} end
if not sv and redis.call('EXISTS', runs) == 1 then return {'left'} end
if s[14] and alone ~= '1' then return {'missing'} end  -- of one run: no other message can name it

if sv and acknowledged == '1' then redis.call('HSET', session, 'v', sv) end

local list = living(read_waiters(s[7]), now)
local waiting
for _, w in ipairs(list) do  -- its own place; the same words under another id only where it has none
  if w[1] == run_id then waiting = w break end
  if by_key == '0' and w[3] == fp then waiting = w end
end

local mine = sv and owner == token and live == run_id
if not mine then
  -- The same message by its key.
  if status then
    if r[2] ~= fp then return {'conflict'} end
    if status == 'steered' then return {'steered', redis.call('HGET', run, 'into')} end
    if status ~= 'waiting' and status ~= 'running' then
      if r[5] ~= '1' then return {'ended', run_id} end
      -- A failure that may pass is resumed; if it left items in the history, only while nothing stands behind them.
      if tonumber(r[6] or 0) == 0 then
        first = nil
        redis.call('HDEL', run, 'first')
      else
        if live ~= '' then return {'ended', run_id} end
        if redis.call('HGET', session, 'head') ~= run_id or tonumber(seq) ~= tonumber(first) + tonumber(r[6]) then
          redis.call('HSET', run, 'retry', '0')  -- too late for good: asking again must not be advised any more
          return {'ended', run_id}
        end
      end
      redis.call('HDEL', run, 'cancel')
    elseif live == run_id then
      return {'joined', run_id, owner, live_pod()}
    end
  end
  -- The same message by its fingerprint: live, waiting, or just ended and said to be a retry.
  if by_key == '0' and not status and sv then
    if live ~= '' and is_of(live_fp, fp) then
      if owner == token then return {'waiting', live, live, token, pod} end
      return {'joined', live, owner, live_pod()}
    end
    if not waiting and live == '' and retried == '1' then
      local last = redis.call('HMGET', session, 'last_run', 'last_fp', 'last_end')
      if is_of(last[2], fp) and now - tonumber(last[3]) <= 60000 then return {'ended', last[1]} end
    end
  end
  -- A chained request forks unless its parent is the tail of (head, live run, waiting runs).
  if parent ~= '' and not waiting and not status then
    local tail = #list > 0 and list[#list][1] or (live ~= '' and live or redis.call('HGET', session, 'head'))
    if r[8] or tail ~= parent then
      -- Under a key for good: should the parent become the tail once more, the message is still the fork's.
      if by_key == '1' and not r[8] then
        redis.call('HSET', run, 'forked', '1')
        redis.call('EXPIRE', run, ttl)
      end
      return {'fork'}
    end
  end
  local blocked = blocker(s[11])
  if blocked then return {'blocked', blocked[2], blocked[1]} end
  if sv and owner and owner ~= '' then
    if waiting then
      if waiting[5] == 1 and waiting[2] ~= token then return {'joined', waiting[1], waiting[2], waiting[4]} end
      waiting[2], waiting[4], waiting[5], waiting[6] = token, pod, 1, now + wait_ms
    else
      if policy ~= 'wait' or #list >= tonumber(waiters_max) then return {'busy', live, owner, live_pod()} end
      waiting = {run_id, token, fp, pod, 1, now + wait_ms}
      list[#list + 1] = waiting
      if status then  -- it waited, or failed, before: its event log goes on
        redis.call('HSET', run, 'status', 'waiting')
        redis.call('HDEL', run, 'retry', 'ended', 'result')
      else
        redis.call('HSET', run, 'status', 'waiting', 'fp', fp, 'input', input, 'request', request, 'created', now,
          'log', -1)
        redis.call('RPUSH', runs, run_id)
      end
      redis.call('EXPIRE', run, ttl)
    end
    write_waiters(session, list)
    return {'waiting', waiting[1], live, owner, live_pod()}
  end
  -- Idle. A place in the line that was kept for this very message is used up by now.
  if waiting then
    for i = #list, 1, -1 do if list[i][1] == waiting[1] then table.remove(list, i) end end
    write_waiters(session, list)
    if waiting[1] ~= run_id then
      -- The caller must come back under the id that its message already has.
      redis.call('HSET', session, 'owner', token, 'pod', pod, 'run', waiting[1], 'run_fp', fp, 'fence', mint(fence))
      return {'waiting', waiting[1], waiting[1], token, pod}
    end
  end
end

if not sv then
  redis.call('HSET', session, 'v', writes, 'tenant', tenant, 'user', user, 'created', now, 'rev', 0, 'seq', 0, 'head', '',
    'waiters', '', 'metadata', '{}')
  if alone == '1' then redis.call('HSET', session, 'alone', '1') end
  seq = 0
elseif (s[9] or '') == '' and user ~= '' then
  redis.call('HSET', session, 'user', user)  -- it was begun for nobody in particular, and is of the first who is named
end
local whose = (s[9] or '') ~= '' and s[9] or user
if not mine then
  fence = mint(fence, time)
  redis.call('HSET', session, 'owner', token, 'pod', pod, 'run', run_id, 'run_fp', fp, 'fence', fence, 'agent', agent,
    'updated', now)
end
local approvals = r[9] or ''
if r[3] ~= token then
  attempt = attempt + 1
  if not first then
    local waiting_approvals
    seq, waiting_approvals = take_along(session, run, items, s[12], s[13], seq)
    if waiting_approvals ~= '' then approvals = waiting_approvals end
  end
  if not status then
    redis.call('HSET', run, 'status', 'running', 'fp', fp, 'token', token, 'fence', fence, 'pod', pod, 'attempt', attempt,
      'first', seq, 'log', -1, 'created', now, 'request', request, 'input', input)
    redis.call('RPUSH', runs, run_id)
  else
    if not first then first = seq end
    -- Its sender asked for it anew: what was tried before does not count against it.
    redis.call('HSET', run, 'status', 'running', 'token', token, 'fence', fence, 'pod', pod, 'attempt', attempt,
      'first', first, 'spared', attempt - 1)
    take_steers(session, run)
    redis.call('HDEL', run, 'retry', 'ended', 'result')
  end
  redis.call('EXPIRE', run, ttl)
  redis.call('EXPIRE', runs, ttl)
  redis.call('EXPIRE', session, ttl)
  redis.call('EXPIRE', items, ttl)
else
  redis.call('HSET', run, 'token', token)  -- as `replicate`, in a script that Redis may refuse
end
return table.concat({fence, seq, attempt, whose, s[11] or '', approvals, s[10] or '{}'}, '|')
