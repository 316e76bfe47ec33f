-- intend: take or renew the locks of planned effects; the deadline until which nobody else may judge them
-- KEYS session run effects
-- ARGV token fence lock_ms ...calls
-- calls: effect keys
-- returns {'ok', cancel flag, lock_until ms} | {'fenced'} | {'missing'}; sending it again only moves the deadline
-- INCLUDE ownership.lua

local refused = refusal(session, token, fence)
if refused then return {refused} end
get_through(effects)
local lock_until = string.format('%.0f', now_ms() + lock_ms)
for i = calls, #ARGV do
  redis.call('HSET', effects, ARGV[i] .. '@', lock_until .. ',' .. token)
end
return {'ok', redis.call('HGET', run, 'cancel') or '0', lock_until}
