-- evidence: the late result of a call whose run went on elsewhere; ignores the fence, and decides nothing
-- KEYS effects
-- ARGV key result
-- returns {'ok'} | {'missing'}; never overwrites

if redis.call('HEXISTS', effects, key) == 0 then return {'missing'} end
redis.call('HDEL', effects, '')  -- get through, see ownership.lua
redis.call('HSETNX', effects, key .. '~', result)
return {'ok'}
