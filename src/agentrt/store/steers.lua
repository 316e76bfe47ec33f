-- steers: the messages that came to a run while it was at work. Included, never called.

-- A run that failed, and may go on, keeps them in its own record. Where it goes on they are the session's again, before
-- those that have come since it was granted.
local function take_steers(session, run)
  local before = redis.call('HGET', run, 'steers')
  if not before then return end
  local all, since = cjson.decode(before), redis.call('HGET', session, 'steers')
  for _, message in ipairs(since and cjson.decode(since) or {}) do all[#all + 1] = message end
  redis.call('HSET', session, 'steers', cjson.encode(all))
  redis.call('HDEL', run, 'steers')
end
