-- ownership: the guard of every write, the clock, and the minting of fences. Included, never called.

local function now_ms(t)
  t = t or redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A fence only grows, even when a failover lost the last ones: a clock stands in for the lost counter.
-- '%.0f' because Lua's own number formatting rounds to 14 digits.
local function mint(previous, t)
  t = t or redis.call('TIME')
  local fence = t[1] * 1000000 + t[2]
  local floor = tonumber(previous or '') or 0
  if fence <= floor then fence = floor + 1 end
  return string.format('%.0f', fence)
end

-- Redis that is out of memory refuses a script's write unless it has written before: removing nothing counts. What a run
-- that has begun must still write gets through by this; only `begin`, which sheds load, goes without.
local function get_through(key) redis.call('HDEL', key, '') end

-- A script that is sent again finds its work done and would write nothing; but WAIT counts the writes of its own
-- connection only, and would be answered at once. So what stands is written once more.
local function replicate(key, field, value)
  get_through(key)
  redis.call('HSET', key, field, value)
end

-- Whether a message's fingerprint is among those of a run: its own, and those of the messages that steered it.
local function is_of(fps, fp) return fp ~= '' and fps and string.find(',' .. fps .. ',', ',' .. fp .. ',', 1, true) end

-- nil when the caller owns the session, else why not. `held`: its owner and fence, where the caller has read them.
local function refusal(session, token, fence, held)
  held = held or redis.call('HMGET', session, 'owner', 'fence')
  if not held[2] then return 'missing' end
  if held[1] ~= token or tonumber(fence) < tonumber(held[2]) then return 'fenced' end
  return nil
end
