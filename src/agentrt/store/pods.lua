-- pods: what the pods say of themselves. Included, never called.

-- The newest schema version that a pod knows; those that do not say so are of before there was a second one.
local function newest_known(entry)
  local told = cjson.decode(string.sub(entry, string.find(entry, '\n', 1, true) + 1))
  return tonumber(told['schema']) or 1
end

-- Calls `look(name, entry)` for every pod that gave a sign of life within `keep_ms`.
local function each_live(pods, now, keep_ms, look)
  local all = redis.call('HGETALL', pods)
  for i = 1, #all, 2 do
    if tonumber(string.match(all[i + 1], '^%d+')) >= now - keep_ms then look(all[i], all[i + 1]) end
  end
end
