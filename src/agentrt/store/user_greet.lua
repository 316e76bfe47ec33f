-- user_greet: a session of a user is about to begin or go on: enter it in the index, and tell what is known of the user
-- KEYS user sessions
-- ARGV session ttl sessions_ttl
-- sessions_ttl: no shorter than that of a session, or an erasure would not find it
-- returns {generation, facts' revision, epoch, number of memories, profile, facts that it has no room for}; sending it
-- again changes nothing
-- INCLUDE generation.lua

local us = now_us()
begin_life(user, us)
redis.call('HSET', sessions, session, string.format('%.0f', us / 1000))
redis.call('EXPIRE', user, ttl)
redis.call('EXPIRE', sessions, sessions_ttl)
return redis.call('HMGET', user, 'gen', 'frev', 'epoch', 'mseq', 'profile', 'left')
