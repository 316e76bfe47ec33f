-- append: items by the client, between turns
-- KEYS session items
-- ARGV op known seq ttl ...lines
-- seq: the number the first line was given; another writer in between is told
-- returns {'ok', rev} | {'busy', live run} | {'missing'} | {'moved', seq} | {'newer', v} | {'older', v}
-- INCLUDE versions.lua

local s = redis.call('HMGET', session, 'v', 'run', 'seq', 'rev', 'append_op')
if not s[1] then return {'missing'} end
local odd = strange(s[1], known)
if odd then return odd end
if s[5] == op then return {'ok', s[4]} end
-- Another append came between this one and its second sending: an item's id is of one append only.
if tonumber(s[3]) > tonumber(seq) and redis.call('LINDEX', items, seq) == ARGV[lines] then return {'ok', s[4]} end
if s[2] and s[2] ~= '' then return {'busy', s[2]} end
if s[3] ~= seq then return {'moved', s[3]} end
for i = lines, #ARGV do redis.call('RPUSH', items, ARGV[i]) end
local rev = string.format('%.0f', tonumber(s[4]) + 1)
redis.call('HSET', session, 'rev', rev, 'seq', tonumber(seq) + #ARGV - lines + 1, 'append_op', op)
redis.call('EXPIRE', session, ttl)
redis.call('EXPIRE', items, ttl)
return {'ok', rev}
