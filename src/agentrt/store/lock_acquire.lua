-- lock_acquire: take a named lock, or a place in its line, or stand by the place that one has
-- KEYS lock
-- ARGV token pod lock_ms line_max ttl
-- returns {'held', fence} also when it is the caller's already: its reply was lost, or the lock was handed on to it
--         {'waiting', place in the line from 1, ms until the holder's time runs out} | {'full'}
-- Sending it again only moves a deadline or a sign of life. When Redis refuses new data, newcomers are refused; whoever
-- has the lock or a place in its line gets through.
-- INCLUDE ownership.lua
-- INCLUDE line.lua

local t = redis.call('TIME')
local now = now_ms(t)
local s = redis.call('HMGET', lock, 'holder', 'until', 'fence', 'line')
local ends = tonumber(s[2] or 0)
local until_ms = string.format('%.0f', now + lock_ms)
if s[1] == token and ends > now then
  get_through(lock)
  redis.call('HSET', lock, 'until', until_ms)
  redis.call('EXPIRE', lock, ttl)
  return {'held', s[3]}
end

local list = read_line(s[4])
local place = place_of(list, token)
if place then
  list[place][3] = now
  get_through(lock)
end
if ends <= now then
  local turn = first_present(list, now)
  if turn == (place or #list + 1) then
    local fence = mint(s[3], t)
    local rest = line_text(without_first(list, turn))
    redis.call('HSET', lock, 'holder', token, 'until', until_ms, 'fence', fence, 'line', rest)
    redis.call('EXPIRE', lock, ttl)
    return {'held', fence}
  end
  list, ends = hand_on(lock, list, s[3], ttl, t)
  place = place_of(list, token)
end
if not place then
  if #list >= tonumber(line_max) then
    local present = {}
    for _, w in ipairs(list) do
      if now - w[3] <= PRESENT_MS then present[#present + 1] = w end
    end
    list = present
  end
  if #list >= tonumber(line_max) then return {'full'} end
  list[#list + 1] = {token, pod, now}
  place = #list
end
redis.call('HSET', lock, 'line', line_text(list))
redis.call('EXPIRE', lock, ttl)
return {'waiting', place, ends - now}
