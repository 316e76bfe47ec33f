-- emit: append a batch of events to the run's log
-- KEYS session run events
-- ARGV session_id run_id token fence last batch events_ttl
-- returns {'ok', cancel flag} | {'fenced'} | {'missing'}; a batch that is in the log already is passed over
-- INCLUDE ownership.lua
-- INCLUDE log.lua

local refused = refusal(session, token, fence)
if refused then return {refused} end
get_through(run)
log(run, events, session_id, run_id, last, batch, events_ttl)
return {'ok', redis.call('HGET', run, 'cancel') or '0'}
