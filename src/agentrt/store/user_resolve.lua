-- user_resolve: facts as they stand after some change, if nobody else changed them since they were read
-- KEYS user facts pending
-- ARGV op gen frev profile ttl puts ...parts
-- parts: `puts` times fact id and JSON, an empty one to drop the fact; then the items that are settled by it
-- returns {'ok', revision} | {'moved'} | {'gone'} the user was erased

local h = redis.call('HMGET', user, 'gen', 'frev', 'op')
if h[1] ~= gen then return {'gone'} end
if h[3] == op then return {'ok', h[2]} end
if h[2] ~= frev then return {'moved'} end
local at = parts
for _ = 1, puts do
  if ARGV[at + 1] == '' then redis.call('HDEL', facts, ARGV[at]) else redis.call('HSET', facts, ARGV[at], ARGV[at + 1]) end
  at = at + 2
end
for i = at, #ARGV do redis.call('HDEL', pending, ARGV[i]) end
local rev = string.format('%.0f', tonumber(frev) + 1)
redis.call('HSET', user, 'frev', rev, 'profile', profile, 'op', op)
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ttl) end
return {'ok', rev}
