-- plan: keep a step's reply and the effects it asks for; `intended` for those that start at once
-- KEYS session run effects events
-- ARGV op session_id run_id token fence step plan last batch events_ttl lock_ms ttl ...calls
-- calls: triples (effect key, planned effect as JSON, '1' intended | '0' only planned)
-- returns {'ok', flags, lock_until ms} | {'fenced'} | {'missing'}
-- flags: how somebody asked to cancel the run (see cancel.lua), '0' when nobody did
-- INCLUDE ownership.lua
-- INCLUDE log.lua

local known = redis.call('HMGET', run, 'op:' .. op, 'cancel')
if known[1] then
  replicate(run, 'op:' .. op, known[1])
  return {'ok', known[2] or '0', known[1]}
end
local refused = refusal(session, token, fence)
if refused then return {refused} end

get_through(effects)
local lock_until = string.format('%.0f', now_ms() + lock_ms)
redis.call('HSET', run, 'plan:' .. step, plan, 'op:' .. op, lock_until)
for i = calls, #ARGV, 3 do
  redis.call('HSET', effects, ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] == '1' then redis.call('HSET', effects, ARGV[i] .. '@', lock_until .. ',' .. token) end
end
if #ARGV >= calls then redis.call('EXPIRE', effects, ttl) end
log(run, events, session_id, run_id, last, batch, events_ttl)
return {'ok', known[2] or '0', lock_until}
