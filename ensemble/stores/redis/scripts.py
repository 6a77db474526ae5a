"""What Redis does in one step. Ids and events are arguments, never text of a script."""

WRITTEN, CONFLICT, GUARDED = 1, 0, -1
"""What `WRITE` answers: all is written; somebody else has written to a user; the guard is another."""

WRITE = """
-- KEYS: guard, users, and of each user head and chunks. ARGV: what the guard must be, milliseconds for which
-- it is kept from now on or 0, users, and of each user id, mark as it was read, value, places to drop (first,
-- end), twice the number of chunks, and place and value of each.
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return -1 end
local at, key = 4, 3
for user = 1, tonumber(ARGV[3]) do
  local mark = redis.call('GETRANGE', KEYS[key], 0, 11)
  if mark ~= ARGV[at + 1] then
    -- Sent again after its answer was lost.
    if mark == string.sub(ARGV[at + 2], 1, 12) then return 1 end
    return 0
  end
  at, key = at + 6 + tonumber(ARGV[at + 5]), key + 2
end
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
at, key = 4, 3
for user = 1, tonumber(ARGV[3]) do
  if ARGV[at + 1] == '' then redis.call('ZADD', KEYS[2], 0, ARGV[at]) end
  redis.call('SET', KEYS[key], ARGV[at + 2])
  local last = at + 5 + tonumber(ARGV[at + 5])
  for pair = at + 6, last, 2 do redis.call('HSET', KEYS[key + 1], ARGV[pair], ARGV[pair + 1]) end
  for place = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]) - 1 do
    redis.call('HDEL', KEYS[key + 1], string.format('%.0f', place))
  end
  at, key = last + 1, key + 2
end
return 1
"""

DELETE = """
-- KEYS: generation, users, head and chunks of the user, notices. ARGV: generation, user id, notice,
-- milliseconds for which notices stay. Returns what the user's head was, or -1 where the guard is another.
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return -1 end
local value = redis.call('GET', KEYS[3]) or ''
redis.call('DEL', KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[2], ARGV[2])
-- Times are numbers too, so that a number that was lost with the server is not given again.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local last = redis.call('ZRANGE', KEYS[5], -1, -1, 'WITHSCORES')[2]
local number = math.max(now, (tonumber(last) or 0) + 1)
redis.call('ZADD', KEYS[5], string.format('%.0f', number), ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', string.format('(%.0f', now - tonumber(ARGV[4])))
return value
"""

SWITCH = """
-- KEYS: generation, who makes one. ARGV: the new one, who made it. Returns whether it counts now.
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

CLEAR = """
-- KEYS: who makes a generation, the one that counts, users, and keys of all that are given. ARGV: who clears,
-- milliseconds for which nobody else makes one, the generation to clear, and users. Returns whether they go.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if (redis.call('GET', KEYS[2]) or '0') == ARGV[3] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for key = 4, #KEYS do redis.call('UNLINK', KEYS[key]) end
for user = 4, #ARGV do redis.call('ZREM', KEYS[3], ARGV[user]) end
return 1
"""

RELEASE = """
-- KEYS: who makes a generation. ARGV: who no longer does.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
