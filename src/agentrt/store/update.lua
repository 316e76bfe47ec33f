-- update: the metadata of a session
-- KEYS session
-- ARGV known metadata
-- returns {'ok'} | {'missing'} | {'newer', v} | {'older', v}
-- INCLUDE versions.lua

local sv = redis.call('HGET', session, 'v')
if not sv then return {'missing'} end
local odd = strange(sv, known)
if odd then return odd end
redis.call('HSET', session, 'metadata', metadata)
return {'ok'}
