-- erase_item: delete one item, and with it what the summary says of it; its number stays empty for good
-- KEYS session items
-- ARGV known number expected summary rest
-- summary: as it was read, empty for none; rest: what of it does not rest on the item
-- returns {'ok'} | {'missing'} also when another item stands there | {'busy', live run} | {'newer', v} | {'older', v}
-- | {'moved'} another summary was written since it was read
-- INCLUDE versions.lua

local s = redis.call('HMGET', session, 'v', 'run', 'summary')
if not s[1] then return {'missing'} end
local odd = strange(s[1], known)
if odd then return odd end
if s[2] and s[2] ~= '' then return {'busy', s[2]} end
if redis.call('LINDEX', items, number) ~= expected then return {'missing'} end
if (s[3] or '') ~= summary then return {'moved'} end
redis.call('LSET', items, number, '')
redis.call('HINCRBY', session, 'rev', 1)
redis.call('HINCRBY', session, 'gone', 1)
if rest ~= summary then redis.call('HSET', session, 'summary', rest) end
return {'ok'}
