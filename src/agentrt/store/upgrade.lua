-- upgrade: replace a header of an older schema version by its upcast
-- KEYS session
-- ARGV from_v ttl ...fields
-- fields: pairs (name, value)
-- returns {'ok'} | {'moved'} another pod was faster, or the session is busy | {'missing'}

local s = redis.call('HMGET', session, 'v', 'owner', 'fence')
local created = redis.call('EXISTS', session)
if created == 0 then return {'missing'} end
if s[1] ~= from_v or (s[2] and s[2] ~= '') then return {'moved'} end
redis.call('DEL', session)
for i = fields, #ARGV, 2 do redis.call('HSET', session, ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', session, ttl)
return {'ok'}
