-- append: items by the client, between turns
-- KEYS session items
-- ARGV op known seq keyed keyed_max ttl ...lines
-- seq: the number the first line was given; another writer in between is told
-- keyed: a digest of what was asked where `op` comes from a client's key, which may come again at any time; else empty
-- returns {'ok', rev} | {'again', seq of then} | {'other'} | {'busy', live run} | {'missing'} | {'moved', seq} | {'newer', v} | {'older', v}
-- INCLUDE versions.lua

local s = redis.call('HMGET', session, 'v', 'run', 'seq', 'rev', 'append_op', 'appends')
if not s[1] then return {'missing'} end
local odd = strange(s[1], known)
if odd then return odd end
local appends = keyed ~= '' and cjson.decode(s[6] or '[]') or nil
for _, one in ipairs(appends or {}) do
  if one[1] == op then return one[3] == keyed and {'again', one[2]} or {'other'} end
end
if s[5] == op then return {'ok', s[4]} end
-- Another append came between this one and its second sending: an item's id is of one append only.
if tonumber(s[3]) > tonumber(seq) and redis.call('LINDEX', items, seq) == ARGV[lines] then return {'ok', s[4]} end
if s[2] and s[2] ~= '' then return {'busy', s[2]} end
if s[3] ~= seq then return {'moved', s[3]} end
for i = lines, #ARGV do redis.call('RPUSH', items, ARGV[i]) end
local rev = string.format('%.0f', tonumber(s[4]) + 1)
redis.call('HSET', session, 'rev', rev, 'seq', tonumber(seq) + #ARGV - lines + 1, 'append_op', op)
if appends then
  appends[#appends + 1] = {op, seq, keyed}
  if #appends > tonumber(keyed_max) then table.remove(appends, 1) end
  redis.call('HSET', session, 'appends', cjson.encode(appends))
end
redis.call('EXPIRE', session, ttl)
redis.call('EXPIRE', items, ttl)
return {'ok', rev}
