-- summarize: the summary of a session, if nobody else wrote one, and no item was deleted, since it was read
-- KEYS session
-- ARGV known user expected gone summary
-- user: whose session it is, lest a summary outlive an erasure; expected, gone: the summary, and how many items had been
-- deleted, as they were read; empty and 0 for none
-- returns {'ok'} | {'moved'} | {'missing'} | {'newer', v} | {'older', v}
-- INCLUDE versions.lua

local h = redis.call('HMGET', session, 'v', 'summary', 'user', 'gone')
if not h[1] or (h[3] or '') ~= user then return {'missing'} end
local odd = strange(h[1], known)
if odd then return odd end
local held = h[2] or ''
if (h[4] or '0') ~= gone then return {'moved'} end
if held == summary then return {'ok'} end
if held ~= expected then return {'moved'} end
redis.call('HSET', session, 'summary', summary)
return {'ok'}
