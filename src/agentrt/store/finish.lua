-- finish: a run has ended or was handed on; its lease goes
-- KEYS leases
-- ARGV member
-- returns {'ok'}; sending it again finds nothing to do

redis.call('ZREM', leases, member)
return {'ok'}
