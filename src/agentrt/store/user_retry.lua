-- user_retry: no facts could be drawn from an item: how often it was tried, and why
-- KEYS user pending
-- ARGV gen item state
-- state: JSON [number, tries, reason]
-- returns {'ok'} | {'gone'} the user was erased, or the item forgotten

if redis.call('HGET', user, 'gen') ~= gen or redis.call('HEXISTS', pending, item) == 0 then return {'gone'} end
redis.call('HSET', pending, item, state)
return {'ok'}
