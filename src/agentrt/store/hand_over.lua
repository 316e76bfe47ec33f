-- hand_over: the owner of a run lets go of it so that another pod goes on; that is no attempt
-- KEYS session run
-- ARGV token fence status
-- status: what readers see meanwhile, `waiting` for a run that nobody has worked on; empty to leave it
-- returns {'ok'} | {'fenced'} | {'missing'}
-- The session keeps its owner until a claim displaces it: whoever dies behind this leaves a lease that runs out.
-- INCLUDE ownership.lua

if redis.call('HGET', run, 'over') == token then return {'ok'} end
local refused = refusal(session, token, fence)
if refused then return {refused} end
get_through(run)
redis.call('HINCRBY', run, 'spared', 1)
redis.call('HSET', run, 'over', token)
if status ~= '' then redis.call('HSET', run, 'status', status) end
return {'ok'}
