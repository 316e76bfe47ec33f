-- upgrade: replace a header of an older schema version by its upcast
-- KEYS session
-- ARGV count ...fields
-- count: how many of the fields are the header as it was read
-- fields: pairs (name, value), first the header as it was read, then as it shall be
-- returns {'ok'} | {'moved'} it is not as it was read, or somebody works on the session | {'missing'}

if redis.call('EXISTS', session) == 0 then return {'missing'} end
local owner = redis.call('HGET', session, 'owner')
if owner and owner ~= '' then return {'moved'} end
local behind = fields + 2 * count
if redis.call('HLEN', session) ~= tonumber(count) then return {'moved'} end
for i = fields, behind - 1, 2 do
  if redis.call('HGET', session, ARGV[i]) ~= ARGV[i + 1] then return {'moved'} end
end
local left_ms = redis.call('PTTL', session)
redis.call('DEL', session)
for i = behind, #ARGV, 2 do redis.call('HSET', session, ARGV[i], ARGV[i + 1]) end
if left_ms > 0 then redis.call('PEXPIRE', session, left_ms) end
return {'ok'}
