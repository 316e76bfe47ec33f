-- generation: which life of a user this is. Included, never called.
-- An erasure begins a new one; whatever was begun in an older one is refused from then on.

local function begin_life(user, now_us)
  local gen = redis.call('HGET', user, 'gen')
  if not gen then
    gen = string.format('%.0f', now_us)
    redis.call('HSET', user, 'gen', gen, 'frev', 0, 'mseq', 0, 'epoch', 0, 'profile', '')
  end
  return gen
end

local function now_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
