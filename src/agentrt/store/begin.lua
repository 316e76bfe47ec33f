-- begin: own the session for a run, join the run that is this message, wait in line, or be refused
-- KEYS session run runs
-- ARGV v tenant session_id user agent run_id token pod fp by_key create policy retried parent wait_ms waiters_max ttl input request
-- returns {'owned', fence, seq, rev, attempt, user, metadata}
--         {'joined', run id, owner token, owner's pod}   the run lives: follow it; the lease says whether it really does
--         {'waiting', run id, live run, owner token, owner's pod}
--         {'busy', live run, owner token, owner's pod}   refused by policy, or the line is full
--         {'ended', run id}                   the run has ended: replay its result
--         {'conflict'} same id, other body    {'missing'} no such session      {'fork'} the parent is not the tail
--         {'newer', v} {'older', v} other schema version       {'foreign'} the key holds another tenant's state
-- Sending it again is harmless: the token names the call, and an owner or waiter with that token gets its place again.
-- INCLUDE ownership.lua
-- INCLUDE waiters.lua

local s = redis.call('HMGET', session, 'v', 'tenant', 'owner', 'fence', 'run', 'run_fp', 'waiters', 'seq', 'rev',
  'head', 'last_fp', 'last_end', 'user', 'metadata', 'last_run', 'pod')
local sv, owner, fence, live, live_fp, live_pod = s[1], s[3], s[4], s[5] or '', s[6], s[16] or ''
local r = redis.call('HMGET', run, 'status', 'fp', 'attempt', 'retry', 'n_items', 'first')
local status = r[1]
local now = now_ms()

if sv and sv ~= v then return {tonumber(sv) > tonumber(v) and 'newer' or 'older', sv} end
if sv and s[2] ~= tenant then return {'foreign'} end
if not sv and create ~= '1' then return {'missing'} end

local list = living(read_waiters(s[7]), now)
local waiting
for i, w in ipairs(list) do
  if w[1] == run_id or (by_key == '0' and w[3] == fp) then waiting = w end
end

local mine = sv and owner == token and live == run_id
if not mine then
  -- The same message by its key.
  if status then
    if r[2] ~= fp then return {'conflict'} end
    if status ~= 'waiting' and status ~= 'running' then
      local tail = s[10] == run_id and tonumber(s[8]) == tonumber(r[6]) + tonumber(r[5] or 0)
      if r[4] ~= '1' or not tail then return {'ended', run_id} end
    elseif live == run_id then
      return {'joined', run_id, owner, live_pod}
    end
  end
  -- The same message by its fingerprint: live, waiting, or just ended and said to be a retry.
  if by_key == '0' and not status and sv then
    if live ~= '' and live_fp == fp and owner == token then return {'waiting', live, live, token, pod} end
    if live ~= '' and live_fp == fp then return {'joined', live, owner, live_pod} end
    if not waiting and live == '' and retried == '1' and s[11] == fp and now - tonumber(s[12] or 0) <= 60000 then
      return {'ended', s[15]}
    end
  end
  -- A chained request forks unless its parent is the tail of (head, live run, waiting runs).
  if parent ~= '' and not waiting and not status then
    local tail = #list > 0 and list[#list][1] or (live ~= '' and live or s[10])
    if tail ~= parent then return {'fork'} end
  end
  if sv and owner and owner ~= '' then
    if waiting then
      if waiting[5] == 1 and waiting[2] ~= token then return {'joined', waiting[1], waiting[2], waiting[4]} end
      waiting[2], waiting[4], waiting[5], waiting[6] = token, pod, 1, now + wait_ms
    else
      if policy ~= 'wait' or #list >= tonumber(waiters_max) then return {'busy', live, owner, live_pod} end
      waiting = {run_id, token, fp, pod, 1, now + wait_ms}
      list[#list + 1] = waiting
      redis.call('HSET', run, 'status', 'waiting', 'fp', fp, 'input', input, 'request', request, 'created', now, 'log', -1)
      redis.call('EXPIRE', run, ttl)
      redis.call('RPUSH', runs, run_id)
    end
    write_waiters(session, list)
    return {'waiting', waiting[1], live, owner, live_pod}
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
  redis.call('HSET', session, 'v', v, 'tenant', tenant, 'user', user, 'created', now, 'rev', 0, 'seq', 0, 'head', '',
    'waiters', '', 'metadata', '{}')
  s[8], s[9], s[13], s[14] = 0, 0, user, '{}'
end
if not mine then
  fence = mint(fence)
  redis.call('HSET', session, 'owner', token, 'pod', pod, 'run', run_id, 'run_fp', fp, 'fence', fence)
end
local attempt = tonumber(r[3] or 0)
local kept = redis.call('HGET', run, 'token')
if kept ~= token then
  attempt = attempt + 1
  local first = s[8]
  if status and status ~= 'waiting' and r[6] then first = r[6] end
  if not status then
    redis.call('HSET', run, 'fp', fp, 'input', input, 'request', request, 'created', now, 'log', -1)
  end
  redis.call('HSET', run, 'status', 'running', 'token', token, 'fence', fence, 'pod', pod, 'attempt', attempt, 'first', first)
  redis.call('HDEL', run, 'retry', 'ended', 'result')
  if not status then redis.call('RPUSH', runs, run_id) end
  redis.call('HSET', session, 'agent', agent, 'updated', now)
  redis.call('EXPIRE', run, ttl)
  redis.call('EXPIRE', runs, ttl)
  redis.call('EXPIRE', session, ttl)
end
return {'owned', fence, s[8], s[9], attempt, s[13] or '', s[14] or '{}'}
