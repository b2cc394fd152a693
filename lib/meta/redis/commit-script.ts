/**
 * The minitransaction as one Lua script. It is the hot path of the file system, so it makes few `redis.call`s (0.3 to 0.7 us each)
 * and takes its request as one packed argument, which `struct.unpack` reads faster than Redis would make forty arguments of it.
 *
 *   KEYS[1]   the session's record
 *   KEYS[2]   the instants of the hash tag
 *   KEYS[3..] the buckets and feed keys, each once; `k` below is an index into KEYS
 *   ARGV[1]   the request, big-endian; a field is `u16 length, bytes`, a decimal `u8 length, digits`
 *
 *   40 bytes  epoch                                   u16  patches:  u8 0 add | 1 max | 2 remove, u16 k, field,
 *   u16       database                                               decimal unless remove
 *   u8 + ..   operation id, empty for none            u16  writes:   u8 0 delete | 1 set, u16 k, field,
 *   10 bytes  version for the written records                        for set: u32 length, version and value
 *   u16       compares: u8 kind, u16 k, field, then   u16  messages: u16 k, u32 length, bytes
 *             0 absent | 1 version: 10 bytes          u16  operations to drop from the ring: u8 + bytes
 *             2 bucket empty (field empty)
 *             3 at least | 4 at most: decimal
 *
 * Answer: a string, `+` result (applied), `R` result (applied before), `E` (another epoch), `S` (no such session), `L` (its lease ran
 * out), `O` k, field (a number would overflow); or an array `-`, then for each mismatch its index, then the raw record or nil, the
 * number of records, or the number.
 *
 * Invariants
 * - Nothing is changed before every compare held. After it only a number's overflow can stop the script (Redis checks memory
 *   before a script starts); patches come first and are undone then. (A number that is 0 may be absent after such an undoing:
 *   it counts as 0 either way.)
 * - Numbers are compared as decimal strings: Lua's numbers are doubles, exact only up to 2^53.
 * - While an instant stands (instants.ts), the record as it was is kept for it before its first change. An instant whose lease has run out, or for
 *   which too much is kept, ends here, in the commit that is the first not to keep anything for it.
 * - The epoch is read from Redis itself in every run (`INFO replication`: 1.3 us, measured): a client that never saw a failover
 *   cannot write by an old compare.
 */

/** What is kept for one instant: a Redis that is nearly full must not be filled by a copy. */
const BEFORE_BYTES_MAX = 64 << 20;
/** What a field of a hash takes beside its name and value. */
const KEPT_BYTES_EACH = 64;

const BODY = `
local spread = unpack
local call, unpack, sub, format, byte = redis.call, struct.unpack, string.sub, string.format, string.byte
local keys, request = KEYS, ARGV[1]
local epoch, db, operation, version, compares, p = unpack('>c40HBc0c10H', request)
if not string.find(call('INFO', 'replication'), 'master_replid:' .. epoch, 1, true) then return 'E' end

local session, expiry, done = keys[1], nil, nil
if operation == '' then
  expiry = call('HGET', session, 'x')
else
  operation = 'o' .. operation
  local record = call('HMGET', session, 'x', operation)
  expiry, done = record[1], record[2]
end
if not expiry then return 'S' end
local time = call('TIME')
if tonumber(expiry) <= time[1] * 1000 + time[2] / 1000 then return 'L' end
if done then return 'R' .. done end

local function less(a, b)
  local negative = byte(a) == 45
  if negative ~= (byte(b) == 45) then return negative end
  if #a ~= #b then return (#a < #b) ~= negative end
  if negative then return b < a end
  return a < b
end

local mismatches = nil
for i = 0, compares - 1 do
  local kind, k, field, expected, fresh, holds
  kind, k, field, p = unpack('>BHHc0', request, p)
  if kind == 0 then
    fresh = call('HGET', keys[k], field)
    holds = not fresh
  elseif kind == 1 then
    expected, p = unpack('c10', request, p)
    fresh = call('HGET', keys[k], field)
    holds = fresh and sub(fresh, 1, 10) == expected
  elseif kind == 2 then
    fresh = call('HLEN', keys[k])
    holds = fresh == 0
  else
    expected, p = unpack('Bc0', request, p)
    fresh = call('HGET', keys[k], field) or '0'
    if kind == 3 then holds = not less(fresh, expected) else holds = not less(expected, fresh) end
  end
  if not holds then
    mismatches = mismatches or { '-' }
    mismatches[#mismatches + 1] = i
    mismatches[#mismatches + 1] = fresh
  end
end
if mismatches then return mismatches end

local instants = call('HGETALL', keys[2])
local keep = nil
if instants[1] then
  local before, now, standing = 'penstock:before:' .. sub(keys[2], 19), time[1] * 1000 + time[2] / 1000, {}
  for i = 1, #instants, 2 do
    local id, ends = instants[i], tonumber(instants[i + 1])
    if byte(id, -1) ~= 98 and ends > 0 then
      if ends > now then standing[id] = true else call('HSET', keys[2], id, '0') end
    end
  end
  keep = function(key, field)
    local old = nil
    for id in pairs(standing) do
      local name = before .. id .. ':' .. key
      if call('HEXISTS', name, field) == 0 then
        if not old then old = call('HGET', key, field) or '' end
        call('HSET', name, field, old)
        call('HSET', before .. id, key, '')
        if call('HINCRBY', keys[2], id .. 'b', #field + #old + ${KEPT_BYTES_EACH}) > ${BEFORE_BYTES_MAX} then
          call('HSET', keys[2], id, '0')
          standing[id] = nil
        end
      end
    end
  end
end

local numbers, undo, patches = {}, {}, nil
patches, p = unpack('>H', request, p)
for i = 1, patches do
  local kind, k, field, operand, after
  kind, k, field, p = unpack('>BHHc0', request, p)
  local key = keys[k]
  if keep then keep(key, field) end
  if kind == 2 then
    undo[i] = { key, field, call('HGET', key, field) }
    if undo[i][3] then call('HDEL', key, field) end
    after = ''
  else
    operand, p = unpack('Bc0', request, p)
    if kind == 0 then
      after = redis.pcall('HINCRBY', key, field, operand)
      if type(after) == 'table' then
        for j = i - 1, 1, -1 do
          local u = undo[j]
          if u[4] then
            local back = byte(u[4]) == 45 and sub(u[4], 2) or '-' .. u[4]
            if call('HINCRBY', u[1], u[2], back) == 0 then call('HDEL', u[1], u[2]) end
          elseif u[3] then call('HSET', u[1], u[2], u[3])
          else call('HDEL', u[1], u[2]) end
        end
        return 'O' .. struct.pack('>H', k) .. field
      end
      undo[i] = { key, field, nil, operand }
      if after < 9007199254740992 and after > -9007199254740992 then after = format('%.0f', after)
      else after = call('HGET', key, field) end
    else
      local before = call('HGET', key, field)
      undo[i] = { key, field, before }
      if before and not less(before, operand) then after = before
      else
        call('HSET', key, field, operand)
        after = operand
      end
    end
  end
  numbers[i] = after
end

local writes, messages, drops
writes, p = unpack('>H', request, p)
for _ = 1, writes do
  local kind, k, field, value
  kind, k, field, p = unpack('>BHHc0', request, p)
  if keep then keep(keys[k], field) end
  if kind == 1 then
    value, p = unpack('>I4c0', request, p)
    call('HSET', keys[k], field, value)
  else
    call('HDEL', keys[k], field)
  end
end

messages, p = unpack('>H', request, p)
for _ = 1, messages do
  local k, message
  k, message, p = unpack('>HI4c0', request, p)
  local key = keys[k]
  call('PUBLISH', key .. '@' .. db, struct.pack('>I6', call('INCR', key)) .. message)
end

local result = version .. table.concat(numbers, ',')
if operation ~= '' then call('HSET', session, operation, result) end
drops, p = unpack('>H', request, p)
if drops > 0 then
  local old = {}
  for i = 1, drops do
    local name
    name, p = unpack('Bc0', request, p)
    old[i] = 'o' .. name
  end
  call('HDEL', session, spread(old))
end
return '+' .. result
`;

// Two flavours of one body: Redis refuses the first when it is above `maxmemory`, before it changes anything.
export const COMMIT_SCRIPT = `#!lua\n${BODY}`;
/** For commits that free memory: they must work when Redis is full. */
export const COMMIT_SCRIPT_WHEN_FULL = `#!lua flags=allow-oom\n${BODY}`;
