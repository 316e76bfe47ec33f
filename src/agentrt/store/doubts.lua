-- doubts: effects of the session whose outcome is not known, and what their resolutions say. Included, never called.
-- An entry is {effect key, run, tool, 'tell' | 'block'}. A note is {text before, text after} the number of the item that
-- it becomes when the next run begins.

local function read_doubts(text)
  if not text or text == '' then return {} end
  return cjson.decode(text)
end

local function write_doubts(session, list)
  if #list > 0 then redis.call('HSET', session, 'doubts', cjson.encode(list)) else redis.call('HDEL', session, 'doubts') end
end

-- The first one that holds up the whole session; nil when none does.
local function blocker(text)
  for _, doubt in ipairs(read_doubts(text)) do
    if doubt[4] == 'block' then return doubt end
  end
  return nil
end

-- A run that begins takes along what came to the session since the last one: notes become items, what waits for an
-- approval becomes the run's to answer. Returns the number of the run's first item, and the approvals.
local function take_along(session, run, items, notes, approvals, seq)
  if notes and notes ~= '' then
    seq = tonumber(seq)
    for _, note in ipairs(cjson.decode(notes)) do
      redis.call('RPUSH', items, note[1] .. string.format('%.0f', seq) .. note[2])
      seq = seq + 1
    end
    seq = string.format('%.0f', seq)
    redis.call('HSET', session, 'seq', seq)
    redis.call('HDEL', session, 'notes')
  end
  if approvals and approvals ~= '' then
    redis.call('HDEL', session, 'approvals')
    redis.call('HSET', run, 'approvals', approvals)
  end
  return seq, approvals or ''
end
