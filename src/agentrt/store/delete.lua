-- delete: a session goes; whatever a run in flight still wants to write is refused from here on
-- KEYS session items runs
-- ARGV
-- returns {existed '1' | '0', run id, ...}: the caller removes the keys of these runs next; they have a TTL should it die

local ids = redis.call('LRANGE', runs, 0, -1)
table.insert(ids, 1, redis.call('EXISTS', session) == 1 and '1' or '0')
redis.call('UNLINK', session, items, runs)
return ids
