-- delete: a session goes; whatever a run in flight still wants to write is refused from here on
-- KEYS session items runs
-- ARGV known
-- returns {existed '1' | '0', run id, ...}: the caller removes what these runs left next, see delete_left.lua; the list
--         of them goes last, so whoever finds it without a session, this script sent again too, ends the deletion
--         {'newer', v}: it may have keys that this pod does not know of
-- INCLUDE versions.lua

local v = redis.call('HGET', session, 'v')
local odd = v and strange(v, known)
if odd and odd[1] == 'newer' then return odd end
local ids = redis.call('LRANGE', runs, 0, -1)
local existed = (v or #ids > 0) and '1' or '0'
redis.call('UNLINK', session, items)
table.insert(ids, 1, existed)
return ids
