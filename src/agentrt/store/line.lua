-- line: who waits for a named lock, first in, first out. Included, never called.
-- An entry is {token, pod, when it last asked in ms}. Asking is also the sign of life: whoever has not asked for
-- PRESENT_MS (two polls) is taken for dead, loses its place, and is never handed the lock.
local PRESENT_MS = 2000
-- What was handed on belongs to the next one for this long; then it must have taken it, or the one after it may.
local CLAIM_MS = 2000

local function read_line(text)
  if not text or text == '' then return {} end
  return cjson.decode(text)
end

local function line_text(list) return #list > 0 and cjson.encode(list) or '' end

local function without_first(list, count)
  local kept = {}
  for i = count + 1, #list do kept[#kept + 1] = list[i] end
  return kept
end

local function place_of(list, token)
  for i, w in ipairs(list) do
    if w[1] == token then return i end
  end
  return nil
end

-- The place of the first one that is there; one behind the last when nobody is.
local function first_present(list, now)
  for i, w in ipairs(list) do
    if now - w[3] <= PRESENT_MS then return i end
  end
  return #list + 1
end

-- The caller has found that the lock is free, or has run out, or is the caller's to give back: it goes to the first
-- waiter that is there, with a fence of its own, or is free. Returns what is left of the line, and when the claim ends.
-- The first write is an HDEL so that it gets through when Redis refuses new data.
local function hand_on(lock, list, fence, ttl, t)
  redis.call('HDEL', lock, 'holder', 'until', 'line')
  if #list == 0 then return list, 0 end
  t = t or redis.call('TIME')
  local now = now_ms(t)
  local place = first_present(list, now)
  local heir = list[place]
  if not heir then return {}, 0 end
  local rest = without_first(list, place)
  redis.call('HSET', lock, 'holder', heir[1], 'until', string.format('%.0f', now + CLAIM_MS), 'fence', mint(fence, t),
    'line', line_text(rest))
  redis.call('EXPIRE', lock, ttl)
  redis.call('PUBLISH', 'agentrt:pod:' .. heir[2], cjson.encode({'lock', lock, heir[1]}))
  return rest, now + CLAIM_MS
end
