-- waiters: the line of runs that wait for the session. Included, never called.
-- An entry is {run, token, fingerprint, pod, present, until}; present = 0 keeps the place of a client that was told to
-- come back, until its time has passed.

local function read_waiters(text)
  if not text or text == '' then return {} end
  return cjson.decode(text)
end

local function write_waiters(session, list)
  redis.call('HSET', session, 'waiters', #list > 0 and cjson.encode(list) or '')
end

local function living(list, now)
  local kept = {}
  for _, w in ipairs(list) do
    if tonumber(w[6]) > now then kept[#kept + 1] = w end
  end
  return kept
end

-- Hand the session to the first waiter that is there, or leave it idle. The caller has ended the old ownership.
local function grant(session, session_id, fence, list, now)
  list = living(list, now)
  for i, w in ipairs(list) do
    if w[5] == 1 then
      table.remove(list, i)
      write_waiters(session, list)
      redis.call('HSET', session, 'owner', w[2], 'pod', w[4], 'run', w[1], 'run_fp', w[3], 'fence', mint(fence))
      redis.call('PUBLISH', 'agentrt:pod:' .. w[4], cjson.encode({'granted', session_id, w[1]}))
      return w[1]
    end
  end
  write_waiters(session, list)
  redis.call('HSET', session, 'owner', '', 'pod', '', 'run', '', 'run_fp', '')
  return ''
end
