-- follow: a pod wants to hear of a run's new events
-- KEYS run
-- ARGV pod acknowledged
-- returns {status, last event number, result, retry} | {'missing'}
-- acknowledged: '1' where replicas are waited for, which counts what this connection writes: so something is written
-- INCLUDE ownership.lua

local r = redis.call('HMGET', run, 'status', 'log', 'result', 'followers', 'retry')
if not r[1] then return {'missing'} end
if r[1] == 'running' or r[1] == 'waiting' then
  local followers = r[4] or ''
  if not string.find(',' .. followers .. ',', ',' .. pod .. ',', 1, true) then
    get_through(run)
    redis.call('HSET', run, 'followers', followers == '' and pod or followers .. ',' .. pod)
  end
end
if acknowledged == '1' then replicate(run, 'status', r[1]) end
return {r[1], r[2] or '-1', r[3] or '', r[5] or '0'}
