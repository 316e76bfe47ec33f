-- delete: a session goes; whatever a run in flight still wants to write is refused from here on
-- KEYS session items runs
-- ARGV known
-- returns {existed '1' | '0', run id, ...}: the caller removes the keys of these runs next; they have a TTL should it die
--         {'newer', v}: it may have keys that this pod does not know of
-- INCLUDE versions.lua

local v = redis.call('HGET', session, 'v')
local odd = v and strange(v, known)
if odd and odd[1] == 'newer' then return odd end
local ids = redis.call('LRANGE', runs, 0, -1)
table.insert(ids, 1, v and '1' or '0')
redis.call('UNLINK', session, items, runs)
return ids
