-- queue: entering the queue with a fair tag. Included, never called.
-- score = class * 2^48 + tag. Class 0: recovered or handed over, 1: a client waits, 2: background. The tag is the later
-- one of the tenant's own last tag and the class's time (the tag that was taken last), + 1: so a tenant that begins to
-- queue stands one behind the head, however much others have queued before (start-time fair queueing).

local CLASS = 281474976710656

local function tenant_of(member) return string.match(member, '^[^/]*') end

local function enter(ready, since, tags, member, class, now)
  if redis.call('ZSCORE', ready, member) then return end
  local own = class .. ':' .. tenant_of(member)
  local tagged = redis.call('HMGET', tags, class .. ':', own)
  local tag = math.max(tonumber(tagged[1] or 0), tonumber(tagged[2] or 0)) + 1
  redis.call('HSET', tags, own, string.format('%.0f', tag))
  redis.call('ZADD', ready, string.format('%.0f', class * CLASS + tag), member)
  redis.call('ZADD', since, string.format('%.0f', now), member)
end

-- Only the first entry is told: where others wait already, no pod has room, or one is on its way to them.
local function announce(ready, before, channel)
  if before == 0 and redis.call('ZCARD', ready) > 0 then redis.call('PUBLISH', channel, '') end
end
