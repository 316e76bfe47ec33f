-- leave: a waiting client goes; its place is kept for a while
-- KEYS session
-- ARGV known run_id token keep_ms
-- returns {'granted'} it was its turn by now: the caller owns the session | {'left', live run, owner token} | {'gone'}
--         also where the session is of another version by now: its line is not this pod's to write
-- INCLUDE versions.lua
-- INCLUDE ownership.lua
-- INCLUDE waiters.lua

local s = redis.call('HMGET', session, 'owner', 'run', 'waiters', 'v')
if s[4] and strange(s[4], known) then return {'gone'} end
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
