/**
 * The scripts of instants (instants.ts). What a commit does for them is in commit-script.ts; keys are in keys.ts.
 *
 * Every one asks first whether the instant still stands: its field in penstock:instants:{tag}. The answer 'G' says that it does not.
 */
const STANDS = `
local expiry = redis.call('HGET', KEYS[1], ARGV[1])
if not expiry or expiry == '0' then return 'G' end`;

/**
 * KEYS instants, sessions, ARGV instant, leaseMs, prefix of session keys, the most instants. Answers '+', 'F' (there are as many as may be),
 * or 'O' and the session whose commits would keep nothing.
 */
export const OPEN_INSTANT_SCRIPT = `#!lua
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
local sessions = redis.call('HGETALL', KEYS[2])
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
return '+'
`;

/** KEYS instants, ARGV instant, leaseMs. */
export const RENEW_INSTANT_SCRIPT = `#!lua flags=allow-oom${STANDS}
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', math.floor(time[1] * 1000 + time[2] / 1000) + ARGV[2]))
return '+'
`;

/** KEYS instants, then buckets, ARGV instant, key of what was kept, then an index into KEYS and a field of each record. Returns the records. */
export const READ_INSTANT_SCRIPT = `#!lua flags=no-writes${STANDS}
local kept = redis.call('EXISTS', ARGV[2]) == 1
local answer = {}
for i = 3, #ARGV, 2 do
  local bucket, field = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local before = kept and redis.call('HGET', ARGV[2] .. ':' .. bucket, field)
  if not before then before = redis.call('HGET', bucket, field) end
  answer[#answer + 1] = before ~= '' and before
end
return answer
`;

/**
 * KEYS instants, bucket, ARGV instant, key of what was kept, cursor, count. Returns the next cursor, whether something of the bucket was kept
 * until now, and the fields with their records.
 */
export const SCAN_INSTANT_SCRIPT = `#!lua flags=no-writes${STANDS}
local before = ARGV[2] .. ':' .. KEYS[2]
local kept = redis.call('EXISTS', before)
local page = redis.call('HSCAN', KEYS[2], ARGV[3], 'COUNT', ARGV[4])
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

/** KEYS instants, a hash of what was kept, ARGV instant, cursor, count. Returns the next cursor and its page. */
export const SCAN_BEFORE_SCRIPT = `#!lua flags=no-writes${STANDS}
return redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
`;
