-- log: writing a batch of events, and telling the pods that follow. Included, never called.
-- Numbers only grow; a batch that was written before (a lost reply) is passed over.

local function tell(followers, session_id, run_id)
  if not followers or followers == '' then return end
  local message = cjson.encode({'logged', session_id, run_id})
  for pod in string.gmatch(followers, '[^,]+') do
    redis.call('PUBLISH', 'agentrt:pod:' .. pod, message)
  end
end

local function log(run, events, session_id, run_id, last, batch, ttl)
  if batch == '' then return end
  local state = redis.call('HMGET', run, 'log', 'followers')
  last = tonumber(last)
  if state[1] and tonumber(state[1]) >= last then return end
  redis.call('XADD', events, string.format('%.0f-0', last + 1), 'e', batch)
  redis.call('EXPIRE', events, ttl)
  redis.call('HSET', run, 'log', string.format('%.0f', last))
  tell(state[2], session_id, run_id)
end
