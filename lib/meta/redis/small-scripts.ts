/**
 * The scripts beside the commit. Keys are in keys.ts.
 *
 * A session's lease is measured on Redis's clock alone. The scripts of sessions may run above `maxmemory`: a full Redis must not end
 * the sessions of those who would free it.
 */

/**
 * A session of an older Penstock may come and go between two reads of an instant, and its commits keep nothing (instants.ts). It leaves an id that is
 * not known as that of a newer one: this counts it. KEYS 2, 3: last-session, keeping.
 */
export const COUNT_OLDER = `
local last = redis.call('GET', KEYS[2])
if last and last ~= redis.call('HGET', KEYS[3], 'last') then
  redis.call('HINCRBY', KEYS[3], 'older', 1)
  redis.call('HSET', KEYS[3], 'last', last)
end`;

/** KEYS sessions, last-session, keeping, ARGV info (JSON), leaseMs, prefix of session keys, deadKeptMs, seconds of 2020. Returns id, epoch. */
export const OPEN_SESSION_SCRIPT = `#!lua flags=allow-oom${COUNT_OLDER}
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
local sessions = redis.call('HKEYS', KEYS[1])
for _, id in ipairs(sessions) do
  local expiry = redis.call('HGET', ARGV[3] .. id, 'x')
  if not expiry or tonumber(expiry) < now - ARGV[4] then
    redis.call('UNLINK', ARGV[3] .. id)
    redis.call('HDEL', KEYS[1], id)
  end
end
local id = math.max(tonumber(last or '0') + 1, tonumber(time[1]) - ARGV[5])
local name = string.format('%.0f', id)
redis.call('SET', KEYS[2], name)
redis.call('HSET', KEYS[3], 'last', name)
redis.call('HSET', KEYS[1], name, ARGV[1])
redis.call('HSET', ARGV[3] .. name, 'x', string.format('%.0f', now + ARGV[2]), 'r', string.format('%.0f', now))
local epoch = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
return { name, epoch }
`;

/** KEYS session, ARGV epoch, leaseMs. Returns '+', or a letter of the commit script's refusals. */
export const RENEW_SESSION_SCRIPT = `#!lua flags=allow-oom
if not string.find(redis.call('INFO', 'replication'), 'master_replid:' .. ARGV[1], 1, true) then return 'E' end
local expiry = redis.call('HGET', KEYS[1], 'x')
if not expiry then return 'S' end
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
if tonumber(expiry) <= now then return 'L' end
redis.call('HSET', KEYS[1], 'x', string.format('%.0f', now + ARGV[2]), 'r', string.format('%.0f', now))
return '+'
`;

/** KEYS sessions, ARGV prefix of session keys. Returns id, info, renewedMs, live (0 or 1) of each. */
export const LIST_SESSIONS_SCRIPT = `#!lua flags=no-writes
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
local answer = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local record = redis.call('HMGET', ARGV[1] .. all[i], 'x', 'r')
  local n = #answer
  answer[n + 1] = all[i]
  answer[n + 2] = all[i + 1]
  answer[n + 3] = record[2] or '0'
  answer[n + 4] = record[1] and tonumber(record[1]) > now and 1 or 0
end
return answer
`;

/** KEYS sessions, session, ARGV id. */
export const END_SESSION_SCRIPT = `#!lua flags=allow-oom
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('UNLINK', KEYS[2])
return '+'
`;

/**
 * KEYS bucket, ARGV field, prefix of the target's bucket, 2^shift. Returns the record and its target; the record alone where the id
 * is above 2^53 (beyond what a Lua number holds): then the caller reads the target itself.
 */
export const FOLLOW_SCRIPT = `#!lua flags=no-writes
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record or #record < 18 then return { record, false } end
local high, low = struct.unpack('>I4I4', record, 11)
if high >= 2097152 then return { record } end
local id, size = high * 4294967296 + low, tonumber(ARGV[3])
local index = id % size
local bucket = ARGV[2] .. string.format('%.0f', (id - index) / size)
return { record, redis.call('HGET', bucket, string.format('%.0f', index)) }
`;
