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

local function take_notes(session, items, notes, seq)
  seq = tonumber(seq)
  for _, note in ipairs(cjson.decode(notes)) do
    redis.call('RPUSH', items, note[1] .. string.format('%.0f', seq) .. note[2])
    seq = seq + 1
  end
  redis.call('HSET', session, 'seq', seq)
  redis.call('HDEL', session, 'notes')
  return string.format('%.0f', seq)
end
