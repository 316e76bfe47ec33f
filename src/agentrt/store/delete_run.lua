-- delete_run: forget the record, journal and log of an ended run; its items stay
-- KEYS run effects events
-- ARGV
-- returns {'ok'} | {'missing'} | {'running'}

local status = redis.call('HGET', run, 'status')
if not status then return {'missing'} end
if status == 'running' or status == 'waiting' then return {'running'} end
redis.call('UNLINK', run, effects, events)
return {'ok'}
