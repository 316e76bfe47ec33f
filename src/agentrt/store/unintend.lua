-- unintend: effects that do not run after all, because replicas did not acknowledge the intent, are only planned again
-- KEYS session run effects
-- ARGV token fence ...calls
-- calls: effect keys
-- returns {'ok', cancel flag} | {'fenced'} | {'missing'}; sending it again changes nothing
-- INCLUDE ownership.lua

local refused = refusal(session, token, fence)
if refused then return {refused} end
for i = calls, #ARGV do
  local intent = redis.call('HGET', effects, ARGV[i] .. '@')
  if intent and string.match(intent, ',(.*)$') == token then redis.call('HDEL', effects, ARGV[i] .. '@') end
end
return {'ok', redis.call('HGET', run, 'cancel') or '0'}
