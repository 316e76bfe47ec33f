-- claim: displace the owner of a run whose lease has run out; the only script that does
-- KEYS session run effects items
-- ARGV known session_id run_id old_token token pod early
-- early: '1' before the lease has run out, because the owner's pod seems gone; refused while an intent is open
-- returns 'fence|first|attempt|user|doubts|approvals|metadata' to the new owner | {'lost'} idle again, or at another run
--         {'lost', owner's token, its pod} it has another owner
--         {'waiting', live run, its owner's token, its pod} the run waits in line: it is not its turn yet; or it is
--         another one that was begun under this token
--         {'intents'} too early | {'missing'} session or run are gone: a session without its run is free again
--         {'newer', v} | {'older', v}
-- Compare and set on the owner's token: of many claimants one wins; the winner's second sending is answered alike.
-- INCLUDE versions.lua
-- INCLUDE ownership.lua
-- INCLUDE waiters.lua
-- INCLUDE doubts.lua
-- INCLUDE steers.lua

local s = redis.call('HMGET', session, 'v', 'owner', 'fence', 'run', 'seq', 'user', 'metadata', 'doubts')
if not s[1] then return {'missing'} end
local odd = strange(s[1], known)
if odd then return odd end
if s[4] ~= run_id then
  -- Begun for a message that has its place under another id already, by a pod that died before it could enter that one.
  if s[2] == old_token then return {'waiting', s[4], s[2], redis.call('HGET', session, 'pod') or ''} end
  for _, w in ipairs(living(read_waiters(redis.call('HGET', session, 'waiters')), now_ms())) do
    if w[1] == run_id and w[2] == old_token and w[5] == 1 then
      return {'waiting', s[4] or '', s[2] or '', redis.call('HGET', session, 'pod') or ''}
    end
  end
  return {'lost'}
end
local attempt = tonumber(redis.call('HGET', run, 'attempt') or 0)
local function reply(fence, tries)
  local approvals = redis.call('HGET', run, 'approvals') or ''
  return table.concat({fence, s[5], tries, s[6] or '', s[8] or '', approvals, s[7] or '{}'}, '|')
end
if s[2] == token then return reply(s[3], attempt) end
if s[2] ~= old_token then return {'lost', s[2] or '', redis.call('HGET', session, 'pod') or ''} end
if redis.call('EXISTS', run) == 0 then  -- nothing to go on with, for anybody
  redis.call('HDEL', session, 'steers')
  local line = redis.call('HGET', session, 'waiters')
  grant(session, session_id, s[3], blocker(s[8]) and {} or read_waiters(line), now_ms())
  return {'missing'}
end

if early == '1' then
  for _, field in ipairs(redis.call('HKEYS', effects)) do
    if string.sub(field, -1) == '@' then return {'intents'} end
  end
end

get_through(session)
local fence = mint(s[3])
local r = redis.call('HMGET', run, 'first', 'status')
redis.call('HSET', session, 'owner', token, 'pod', pod, 'fence', fence)
redis.call('HSET', run, 'status', 'running', 'token', token, 'fence', fence, 'pod', pod, 'attempt', attempt + 1)
-- A granted waiter whose pod died before its first read has no first item yet.
if not r[1] then
  local more = redis.call('HMGET', session, 'notes', 'approvals')
  s[5] = take_along(session, run, items, more[1], more[2], s[5])
  redis.call('HSET', run, 'first', s[5])
end
take_steers(session, run)
return reply(fence, attempt + 1)
