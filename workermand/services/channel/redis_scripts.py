"""What redis does for a Channel in one step, in Lua.

    wm:e:EVENT   pub/sub: an event              wm:q:QUEUE   stream: the items, with the group "wm" over them
    wm:c:CLIENT  pub/sub: for this client alone   wm:l:QUEUE   sorted set: items in hands, by the end of their deadline
    wm:w:QUEUE   pub/sub: there is work         wm:z:QUEUE   sorted set: items for later, by when they are due
    wm:s:NAME    sorted set: who subscribes     wm:d:QUEUE   stream: the dead
    wm:patterns  set: the patterns among NAMEs    wm:turn:EVENT, wm:sequence   counters

A client is alive as long as somebody is subscribed to wm:c:CLIENT, which redis itself knows: no leases to renew.
XAUTOCLAIM knows one idle time for all items; a deadline is that of whoever holds the item, hence wm:l.
"""

from __future__ import annotations

from typing import Final

LEASE: Final = 24 * 3600
"""Seconds that wm:s:NAME is kept, unless somebody subscribes again."""

COMMON: Final = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function alive(client)
  return redis.call('PUBSUB', 'NUMSUB', 'wm:c:' .. client)[2] > 0
end
local function forget(name, client)
  redis.call('ZREM', 'wm:s:' .. name, client)
  if string.find(name, '*', 1, true) and redis.call('EXISTS', 'wm:s:' .. name) == 0 then
    redis.call('SREM', 'wm:patterns', name)
  end
end
local function later(queue, due, attempts, envelope)
  local number = redis.call('INCR', 'wm:sequence')
  redis.call('ZADD', 'wm:z:' .. queue, due, string.format('%016x%08x', number, attempts) .. envelope)
end
local function put(queue, attempts, envelope)
  redis.call('XADD', 'wm:q:' .. queue, '*', 'a', attempts, 'e', envelope)
end
local function bury(queue, attempts, envelope)
  redis.call('XADD', 'wm:d:' .. queue, '*', 'a', attempts, 'e', envelope)
end
local function drop(queue, id)
  redis.call('XACK', 'wm:q:' .. queue, 'wm', id)
  redis.call('XDEL', 'wm:q:' .. queue, id)
  redis.call('ZREM', 'wm:l:' .. queue, id)
end
-- An item that is in somebody's hands: the attempt that this is, its envelope, whose hands.
local function held(queue, id)
  local pending = redis.pcall('XPENDING', 'wm:q:' .. queue, 'wm', id, id, 1)[1]
  local entry = pending and redis.call('XRANGE', 'wm:q:' .. queue, id, id)[1]
  if not entry then
    return nil
  end
  return entry[2][2] + pending[4], entry[2][4], pending[2]
end
"""

JOIN: Final = """
for index = 2, #ARGV do
  local name = ARGV[index]
  redis.call('ZADD', 'wm:s:' .. name, 'NX', redis.call('INCR', 'wm:sequence'), ARGV[1])
  redis.call('EXPIRE', 'wm:s:' .. name, LEASE)
  if string.find(name, '*', 1, true) then
    redis.call('SADD', 'wm:patterns', name)
  end
  -- Three by chance: what clients left behind that are no more does not pile up.
  for _, client in ipairs(redis.call('ZRANDMEMBER', 'wm:s:' .. name, 3)) do
    if not alive(client) then
      forget(name, client)
    end
  end
end
"""
"""client, names..."""

LEAVE: Final = """
for index = 2, #ARGV do
  forget(ARGV[index], ARGV[1])
end
"""
"""client, names..."""

ONE: Final = """
local event = ARGV[1]
local payload = struct.pack('>H', #event) .. event .. ARGV[2]
local found, seen = {}, {}
local function collect(name)
  for _, client in ipairs(redis.call('ZRANGE', 'wm:s:' .. name, 0, -1)) do
    if not seen[client] then
      seen[client] = true
      found[#found + 1] = {client, name}
    end
  end
end
collect(event)
for _, pattern in ipairs(redis.call('SMEMBERS', 'wm:patterns')) do
  local expression = string.gsub(pattern, '[%(%)%.%%%+%-%?%[%]%^%$]', '%%%0')
  if string.find(event, '^' .. string.gsub(expression, '%*', '.*') .. '$') then
    collect(pattern)
  end
end
if #found == 0 then
  return 0
end
local turn = redis.call('INCR', 'wm:turn:' .. event)
redis.call('EXPIRE', 'wm:turn:' .. event, LEASE)
for index = 1, #found do
  local client, name = unpack(found[(turn + index) % #found + 1])
  if redis.call('PUBLISH', 'wm:c:' .. client, payload) > 0 then
    return 1
  end
  forget(name, client)
end
return 0
"""
"""event, envelope -> 1, or 0 when there is nobody."""

PUT: Final = """
if tonumber(ARGV[2]) > 0 then
  later(ARGV[1], now() + ARGV[2], 0, ARGV[3])
else
  put(ARGV[1], 0, ARGV[3])
end
redis.call('PUBLISH', 'wm:w:' .. ARGV[1], '')
"""
"""queue, delay in ms, envelope"""

TAKE: Final = """
local queue, client, count, deadline, retries = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local q, z, l = 'wm:q:' .. queue, 'wm:z:' .. queue, 'wm:l:' .. queue
local time = now()
if redis.call('EXISTS', q) == 0 or #redis.call('XINFO', 'GROUPS', q) == 0 then
  redis.call('XGROUP', 'CREATE', q, 'wm', '0', 'MKSTREAM')
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', z, '-inf', time, 'LIMIT', 0, 1000)) do
  put(queue, tonumber(string.sub(member, 17, 24), 16), string.sub(member, 25))
  redis.call('ZREM', z, member)
end
for _, consumer in ipairs(ARGV[6] == '1' and redis.call('XINFO', 'CONSUMERS', q, 'wm') or {}) do
  local name, pending = consumer[2], consumer[4]
  if not alive(name) then
    for _, item in ipairs(pending > 0 and redis.call('XPENDING', q, 'wm', '-', '+', 1000, name) or {}) do
      redis.call('ZADD', l, 0, item[1])
    end
    if pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', q, 'wm', name)
    end
  end
end
local items = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', l, '-inf', time, 'LIMIT', 0, 1000)) do
  local attempts, envelope = held(queue, id)
  if not attempts then
    redis.call('ZREM', l, id)
  elseif attempts > retries then
    bury(queue, attempts, envelope)
    drop(queue, id)
  elseif #items < count then
    redis.call('XCLAIM', q, 'wm', client, 0, id)
    redis.call('ZADD', l, time + deadline, id)
    items[#items + 1] = {id, attempts + 1, envelope}
  end
end
if #items < count then
  local found = redis.call('XREADGROUP', 'GROUP', 'wm', client, 'COUNT', count - #items, 'STREAMS', q, '>')
  for _, entry in ipairs(found and found[1][2] or {}) do
    redis.call('ZADD', l, time + deadline, entry[1])
    items[#items + 1] = {entry[1], entry[2][2] + 1, entry[2][4]}
  end
end
local due = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
local ends = redis.call('ZRANGE', l, 0, 0, 'WITHSCORES')[2]
return {math.max(0, math.min(due or time + 60000, ends or time + 60000) - time), items}
"""
"""queue, client, count, deadline in ms, retries, 1: look for dead clients -> ms until there may be more, items"""

DONE: Final = """
local attempt, envelope, client = held(ARGV[1], ARGV[2])
if attempt ~= tonumber(ARGV[3]) then
  return 0
end
drop(ARGV[1], ARGV[2])
return 1
"""
"""queue, id, attempt"""

REFUSE: Final = """
local attempt, envelope, client = held(ARGV[1], ARGV[2])
if attempt ~= tonumber(ARGV[3]) then
  return 0
end
drop(ARGV[1], ARGV[2])
if ARGV[5] == '1' then
  bury(ARGV[1], attempt, envelope)
else
  later(ARGV[1], now() + ARGV[4], attempt, envelope)
  redis.call('PUBLISH', 'wm:w:' .. ARGV[1], '')
end
return 1
"""
"""queue, id, attempt, delay in ms, 1: dead"""

REPLAY: Final = """
local d, count = 'wm:d:' .. ARGV[1], 0
local function replay(entry)
  put(ARGV[1], 0, entry[2][4])
  redis.call('XDEL', d, entry[1])
  count = count + 1
end
for index = 2, #ARGV do
  for _, entry in ipairs(redis.call('XRANGE', d, ARGV[index], ARGV[index])) do
    replay(entry)
  end
end
if #ARGV == 1 then
  for _, entry in ipairs(redis.call('XRANGE', d, '-', '+')) do
    replay(entry)
  end
end
redis.call('PUBLISH', 'wm:w:' .. ARGV[1], '')
return count
"""
"""queue, ids..., none: all"""

SCRIPTS: Final = {
    name: COMMON + text.replace("LEASE", str(LEASE))
    for name, text in {
        "join": JOIN,
        "leave": LEAVE,
        "one": ONE,
        "put": PUT,
        "take": TAKE,
        "done": DONE,
        "refuse": REFUSE,
        "replay": REPLAY,
    }.items()
}
