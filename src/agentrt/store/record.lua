-- record: keep the outcomes of effects, and release their locks with it
-- KEYS session run effects events
-- ARGV op session_id run_id token fence last batch events_ttl ...outcomes
-- outcomes: fours (effect key, outcome as JSON, tool, 'tell' | 'block' where it is in doubt, else '')
-- returns {'ok', cancel flag} | {'fenced'} | {'missing'}
-- An outcome is never overwritten. The first write is an HDEL so that it gets through when Redis refuses new data.
-- INCLUDE ownership.lua
-- INCLUDE log.lua
-- INCLUDE doubts.lua

local known = redis.call('HMGET', run, 'op:' .. op, 'cancel')
if known[1] then return {'ok', known[2] or '0'} end
local refused = refusal(session, token, fence)
if refused then return {refused} end

local doubts
for i = outcomes, #ARGV, 4 do
  redis.call('HDEL', effects, ARGV[i] .. '@')
  if redis.call('HSETNX', effects, ARGV[i] .. '!', ARGV[i + 1]) == 1 and ARGV[i + 3] ~= '' then
    doubts = doubts or read_doubts(redis.call('HGET', session, 'doubts'))
    doubts[#doubts + 1] = {ARGV[i], run_id, ARGV[i + 2], ARGV[i + 3]}
  end
end
if doubts then write_doubts(session, doubts) end
redis.call('HSET', run, 'op:' .. op, '1')
log(run, events, session_id, run_id, last, batch, events_ttl)
return {'ok', known[2] or '0'}
