-- update: the metadata of a session
-- KEYS session
-- ARGV v metadata
-- returns {'ok'} | {'missing'} | {'newer', v} | {'older', v}

local sv = redis.call('HGET', session, 'v')
if not sv then return {'missing'} end
if sv ~= v then return {tonumber(sv) > tonumber(v) and 'newer' or 'older', sv} end
redis.call('HSET', session, 'metadata', metadata)
return {'ok'}
