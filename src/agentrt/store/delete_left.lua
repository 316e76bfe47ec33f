-- delete_left: a run of a session that was deleted goes, unless it is of the session that has this id by now
-- KEYS session runs run effects events
-- ARGV run_id
-- returns {'ok'} | {'kept'}; sending it again changes nothing
-- A message under its key may come back between the two steps of a deletion: the session begins anew, and so may the
-- run. What is of the new session is no older than it.

local s = redis.call('HMGET', session, 'created', 'run')
local created = redis.call('HGET', run, 'created')
if s[1] and (s[2] == run_id or (created and tonumber(created) >= tonumber(s[1]))) then return {'kept'} end
redis.call('UNLINK', run, effects, events)
redis.call('LREM', runs, 1, run_id)
return {'ok'}
