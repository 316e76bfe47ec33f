-- erase_item: delete one item; its number stays empty for good
-- KEYS session items
-- ARGV known number expected
-- returns {'ok'} | {'missing'} also when another item stands there | {'busy', live run} | {'newer', v} | {'older', v}
-- INCLUDE versions.lua

local s = redis.call('HMGET', session, 'v', 'run')
if not s[1] then return {'missing'} end
local odd = strange(s[1], known)
if odd then return odd end
if s[2] and s[2] ~= '' then return {'busy', s[2]} end
if redis.call('LINDEX', items, number) ~= expected then return {'missing'} end
redis.call('LSET', items, number, '')
redis.call('HINCRBY', session, 'rev', 1)
return {'ok'}
