-- resolve: say what became of an effect in doubt
-- KEYS session effects
-- ARGV known key resolution note_before note_after
-- note: the item that tells the model, around the number that it gets when the next run begins
-- returns {'ok', resolution} also when it was resolved before: the first one stands
--         {'settled'} it is not in doubt | {'missing'} | {'newer', v} | {'older', v}
-- INCLUDE versions.lua
-- INCLUDE doubts.lua

local v = redis.call('HGET', session, 'v')
if not v then return {'missing'} end
local odd = strange(v, known)
if odd then return odd end
local r = redis.call('HMGET', effects, key, key .. '!', key .. '=')
if not r[1] then return {'missing'} end
if r[3] then return {'ok', r[3]} end
if not r[2] or cjson.decode(r[2])['state'] ~= 'in_doubt' then return {'settled'} end

redis.call('HSET', effects, key .. '=', resolution)
local s = redis.call('HMGET', session, 'doubts', 'notes')
local kept = {}
for _, doubt in ipairs(read_doubts(s[1])) do
  if doubt[1] ~= key then kept[#kept + 1] = doubt end
end
write_doubts(session, kept)
local notes = s[2] and cjson.decode(s[2]) or {}
notes[#notes + 1] = {note_before, note_after}
redis.call('HSET', session, 'notes', cjson.encode(notes))
return {'ok', resolution}
