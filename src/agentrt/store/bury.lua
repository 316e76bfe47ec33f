-- bury: keep a run that was given up; the first reason stays
-- KEYS dead
-- ARGV name letter
-- returns {'ok'}

redis.call('HDEL', dead, '')  -- get through, see ownership.lua
redis.call('HSETNX', dead, name, letter)
return {'ok'}
