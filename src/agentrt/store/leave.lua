-- leave: a waiting client goes; its place is kept for a while
-- KEYS session
-- ARGV run_id token keep_ms
-- returns {'granted'} it was its turn by now: the caller owns the session | {'left', live run, owner token} | {'gone'}
-- INCLUDE ownership.lua
-- INCLUDE waiters.lua

local s = redis.call('HMGET', session, 'owner', 'run', 'waiters')
if s[1] == token and s[2] == run_id then return {'granted'} end
local now = now_ms()
local list = living(read_waiters(s[3]), now)
for i, w in ipairs(list) do
  if w[1] == run_id and w[2] == token then
    w[5], w[6] = 0, now + keep_ms
    write_waiters(session, list)
    return {'left', s[2] or '', s[1] or ''}
  end
end
return {'gone'}
