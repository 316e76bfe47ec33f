-- copy: items of a session that is about to be created: a portion of them, see copying.py; its header comes last
-- KEYS session items
-- ARGV at ttl ...lines
-- at: the number of the first line, and so how many items were copied before
-- returns {'ok'} they are there, or the session is | {'moved', items in the list} what was copied before is gone
-- Sending it again changes nothing. What a copy to this id left behind that is not this one's is written over: no
-- session says yet that it is there.

if redis.call('EXISTS', session) == 1 then return {'ok'} end
local there, from = redis.call('LLEN', items), tonumber(at)
if there < from then return {'moved', there} end
local count = #ARGV - lines + 1
if there >= from + count then
  local same = true
  for i = 0, count - 1, count > 1 and count - 1 or 1 do
    same = same and redis.call('LINDEX', items, from + i) == ARGV[lines + i]
  end
  if same then return {'ok'} end
end
if from == 0 then redis.call('UNLINK', items) else redis.call('LTRIM', items, 0, from - 1) end
for i = lines, #ARGV, 500 do redis.call('RPUSH', items, unpack(ARGV, i, math.min(i + 499, #ARGV))) end
redis.call('EXPIRE', items, ttl)
return {'ok'}
