-- user_resolve: facts as they stand after some change, if nobody else changed them since they were read
-- KEYS user facts pending
-- ARGV op gen frev profile left ttl puts ...parts
-- left: how many facts hold that are not in the profile
-- parts: `puts` times fact id and JSON, an empty one to drop the fact; then the items that are settled by it
-- returns {'ok', revision} | {'moved'} | {'gone'} the user was erased
-- | {'settled', items...} nothing was written: these were forgotten, or settled by somebody else, since they were read

local h = redis.call('HMGET', user, 'gen', 'frev', 'op')
if h[1] ~= gen then return {'gone'} end
if h[3] == op then return {'ok', h[2]} end
if h[2] ~= frev then return {'moved'} end
local late = {'settled'}
for i = parts + 2 * puts, #ARGV do
  if redis.call('HEXISTS', pending, ARGV[i]) == 0 then late[#late + 1] = ARGV[i] end
end
if #late > 1 then return late end
local at = parts
for _ = 1, puts do
  if ARGV[at + 1] == '' then redis.call('HDEL', facts, ARGV[at]) else redis.call('HSET', facts, ARGV[at], ARGV[at + 1]) end
  at = at + 2
end
for i = at, #ARGV do redis.call('HDEL', pending, ARGV[i]) end
local rev = string.format('%.0f', tonumber(frev) + 1)
redis.call('HSET', user, 'frev', rev, 'profile', profile, 'left', left, 'op', op)
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ttl) end
return {'ok', rev}
