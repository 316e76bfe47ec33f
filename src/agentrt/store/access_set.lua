-- access_set: keep, or forget, one API key or one tenant's quota; pods see the new revision and read all again
-- KEYS entries rev
-- ARGV field value
-- value: JSON, or empty to forget
-- returns {'ok'}; sending it again changes nothing but the revision

if value == '' then redis.call('HDEL', entries, field) else redis.call('HSET', entries, field, value) end
redis.call('INCR', rev)
return {'ok'}
