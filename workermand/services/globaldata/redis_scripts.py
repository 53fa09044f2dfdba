"""What redis does for GlobalData in one step, in Lua.

wm:g:KEY    hash: "v" the value, "n" its version; redis ends it by its ttl
wm:k:KEY    pub/sub: it has changed, or its ttl has
wm:version  counter: versions grow over all keys, so that those of a key grow across its deletion
"""

from __future__ import annotations

from typing import Final

COMMON: Final = """
local function changed(key)
  redis.call('PUBLISH', 'wm:k:' .. key, '')
end
local function write(key, value)
  local version = redis.call('INCR', 'wm:version')
  redis.call('HSET', 'wm:g:' .. key, 'v', value, 'n', version)
  changed(key)
  return version
end
local function live(key, ttl)
  if ttl == '' then
    redis.call('PERSIST', 'wm:g:' .. key)
  else
    redis.call('PEXPIRE', 'wm:g:' .. key, ttl)
  end
end
local function value(key)
  return redis.call('HGET', 'wm:g:' .. key, 'v')
end
"""

SET: Final = """
local version
for index = 2, #ARGV, 2 do
  version = write(ARGV[index], ARGV[index + 1])
  live(ARGV[index], ARGV[1])
end
return version
"""
"""ttl in ms or "", then key, value, key, value ... -> the last version"""

ADD: Final = """
if value(ARGV[2]) then
  return 0
end
local version = write(ARGV[2], ARGV[3])
live(ARGV[2], ARGV[1])
return version
"""
"""ttl, key, value"""

CAS: Final = """
if value(ARGV[1]) ~= ARGV[2] then
  return 0
end
return write(ARGV[1], ARGV[3])
"""
"""key, old, new"""

CAS_VERSION: Final = """
if (redis.call('HGET', 'wm:g:' .. ARGV[1], 'n') or '0') ~= ARGV[2] then
  return 0
end
return write(ARGV[1], ARGV[3])
"""
"""key, version, value"""

INCREMENT: Final = """
-- MessagePack's integers alone, and none that a double would round: false sends the client the long way.
local old = value(ARGV[1])
if not old then
  return {}
end
local first, second = string.byte(old, 1, 2)
local is_integer = first and (first < 128 or first >= 224 or (first >= 204 and first <= 211))
if ARGV[2] == '' or not is_integer or (first == 207 and second > 0) then -- 207: cmsgpack makes 2^63 negative
  return {old}
end
local number, step = cmsgpack.unpack(old), tonumber(ARGV[2])
local limit = 4503599627370496
if math.abs(number) > limit or math.abs(step) > limit then
  return {old}
end
write(ARGV[1], cmsgpack.pack(number + step))
return {old, number + step}
"""
"""key, an integer or "" -> the old value and the new number; the old value: not done; nothing: no such key"""

DELETE: Final = """
local old = value(ARGV[1])
if not old or (#ARGV > 1 and old ~= ARGV[2]) then
  return 0
end
redis.call('DEL', 'wm:g:' .. ARGV[1])
changed(ARGV[1])
return 1
"""
"""key, and what it must hold"""

EXPIRE: Final = """
local old = value(ARGV[2])
if not old or (#ARGV > 2 and old ~= ARGV[3]) then
  return 0
end
live(ARGV[2], ARGV[1])
changed(ARGV[2])
return 1
"""
"""ttl or "", key, and what it must hold; a ttl below 1 ends it at once"""

LOOK: Final = """
local found = {}
for index, key in ipairs(ARGV) do
  local entry = redis.call('HMGET', 'wm:g:' .. key, 'v', 'n')
  found[index] = entry[1] and {entry[1], tonumber(entry[2]), redis.call('PTTL', 'wm:g:' .. key)} or {}
end
return found
"""
"""keys... -> for each its value, version and ms left (-1: for ever), or nothing"""

SCRIPTS: Final = {
    name: COMMON + text
    for name, text in {
        "set": SET,
        "add": ADD,
        "cas": CAS,
        "cas_version": CAS_VERSION,
        "increment": INCREMENT,
        "delete": DELETE,
        "expire": EXPIRE,
        "look": LOOK,
    }.items()
}
