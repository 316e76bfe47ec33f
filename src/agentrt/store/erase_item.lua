-- erase_item: delete one item; its number stays empty for good
-- KEYS session items
-- ARGV v number expected
-- returns {'ok'} | {'missing'} also when another item stands there | {'busy', live run} | {'newer', v} | {'older', v}

local s = redis.call('HMGET', session, 'v', 'run')
if not s[1] then return {'missing'} end
if s[1] ~= v then return {tonumber(s[1]) > tonumber(v) and 'newer' or 'older', s[1]} end
if s[2] and s[2] ~= '' then return {'busy', s[2]} end
if redis.call('LINDEX', items, number) ~= expected then return {'missing'} end
redis.call('LSET', items, number, '')
redis.call('HINCRBY', session, 'rev', 1)
return {'ok'}
