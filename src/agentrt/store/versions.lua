-- versions: which sessions a pod may touch. Included, never called.

-- nil when a pod whose newest version is `known` may work on a session of version `v`, else what to tell it: a pod works
-- on sessions of that version and of the one before, each in its own layout.
local function strange(v, known)
  local found, newest = tonumber(v), tonumber(known)
  if found > newest then return {'newer', v} end
  if found < newest - 1 then return {'older', v} end
  return nil
end
