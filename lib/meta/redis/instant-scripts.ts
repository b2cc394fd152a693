/**
 * The scripts of instants (instants.ts). What a commit does for them is in commit-script.ts; keys are in keys.ts.
 *
 * Every one asks first whether the instant still stands: its field in penstock:instants:{tag}, and that no session of an older Penstock was opened
 * since. The answer 'G' says that it does not. KEYS 1 to 3: instants, last-session, keeping; ARGV 1 and 2: the instant, what `older` was.
 *
 * All of them may run above `maxmemory`: a backup must be possible before somebody frees a full Redis, and what was kept must be freed there.
 */
import { COUNT_OLDER } from './small-scripts.ts';

const STANDS = `
local expiry = redis.call('HGET', KEYS[1], ARGV[1])
if not expiry or expiry == '0' then return 'G' end
local keeping = redis.call('HMGET', KEYS[3], 'last', 'older')
if keeping[1] ~= redis.call('GET', KEYS[2]) or (keeping[2] or '0') ~= ARGV[2] then return 'G' end`;

/**
 * KEYS instants, last-session, keeping, sessions, ARGV instant, leaseMs, prefix of session keys, the most instants. Answers '+' and `older`, 'F' (there
 * are as many as may be), or 'O' and the session whose commits would keep nothing.
 */
export const OPEN_INSTANT_SCRIPT = `#!lua flags=allow-oom${COUNT_OLDER}
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
local sessions = redis.call('HGETALL', KEYS[4])
for i = 1, #sessions, 2 do
  local expiry = redis.call('HGET', ARGV[3] .. sessions[i], 'x')
  if expiry and tonumber(expiry) > now and not string.find(sessions[i + 1], '"instants":true', 1, true) then
    return 'O' .. sessions[i]
  end
end
local count, all = 0, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i], -1) ~= 'b' and tonumber(all[i + 1]) > now then count = count + 1 end
end
if count >= tonumber(ARGV[4]) then return 'F' end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + ARGV[2]))
return '+' .. (redis.call('HGET', KEYS[3], 'older') or '0')
`;

/** ARGV[3] leaseMs. */
export const RENEW_INSTANT_SCRIPT = `#!lua flags=allow-oom${STANDS}
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', math.floor(time[1] * 1000 + time[2] / 1000) + ARGV[3]))
return '+'
`;

/** KEYS instants, ARGV bytesMax. Returns those that are over, and those for which more than that was kept. */
export const SPENT_INSTANTS_SCRIPT = `#!lua flags=no-writes
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local all, kept, spent = redis.call('HGETALL', KEYS[1]), {}, {}
for i = 1, #all, 2 do kept[all[i]] = tonumber(all[i + 1]) end
for id, expiry in pairs(kept) do
  if string.sub(id, -1) ~= 'b' and (expiry <= now or (kept[id .. 'b'] or 0) > tonumber(ARGV[1])) then
    spent[#spent + 1] = id
  end
end
return spent
`;

/** KEYS instants, ARGV instant. Nothing is kept for it any more. */
export const END_INSTANT_SCRIPT = `#!lua flags=allow-oom
redis.call('HSET', KEYS[1], ARGV[1], '0')
return '+'
`;

/** KEYS[4..] buckets, ARGV[3..] key of what was kept, then an index into KEYS and a field of each record. Returns the records. */
export const READ_INSTANT_SCRIPT = `#!lua flags=no-writes${STANDS}
local kept = redis.call('EXISTS', ARGV[3]) == 1
local answer = {}
for i = 4, #ARGV, 2 do
  local bucket, field = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local before = kept and redis.call('HGET', ARGV[3] .. ':' .. bucket, field)
  if not before then before = redis.call('HGET', bucket, field) end
  answer[#answer + 1] = before ~= '' and before
end
return answer
`;

/**
 * KEYS[4] bucket, ARGV[3..] key of what was kept, cursor, count. Returns the next cursor, whether something of the bucket was kept
 * until now, and the fields with their records.
 */
export const SCAN_INSTANT_SCRIPT = `#!lua flags=no-writes${STANDS}
local before = ARGV[3] .. ':' .. KEYS[4]
local kept = redis.call('EXISTS', before)
local page = redis.call('HSCAN', KEYS[4], ARGV[4], 'COUNT', ARGV[5])
if kept == 0 then return { page[1], 0, page[2] } end
local found, records = page[2], {}
for i = 1, #found, 2 do
  local record = redis.call('HGET', before, found[i]) or found[i + 1]
  if record ~= '' then
    records[#records + 1] = found[i]
    records[#records + 1] = record
  end
end
return { page[1], 1, records }
`;

/** KEYS[4] a hash of what was kept, ARGV[3..] cursor, count. Returns the next cursor and its page. */
export const SCAN_BEFORE_SCRIPT = `#!lua flags=no-writes${STANDS}
return redis.call('HSCAN', KEYS[4], ARGV[3], 'COUNT', ARGV[4])
`;
