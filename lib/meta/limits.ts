/**
 * What both adapters check before they touch storage: the limits of a minitransaction and the shape of addresses. The same check
 * on the embedded engine finds a transaction that Redis would refuse.
 */
import assert from 'node:assert/strict';
import { PenstockError } from '../errors.ts';
import { COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX, INSTANTS_MAX, VALUE_BYTES_MAX, type Minitransaction } from './engine.ts';

export const OPERATION_BYTES_MAX = 64;
/** A page of a scan is an array in memory, and on Redis one blocking call. */
export const SCAN_LIMIT_MAX = 10_000;
/** Commits and reads that wait for the engine in one process; a caller that goes on beyond it has lost its own bound. */
export const WAITING_MAX = 65_536;
const INT64_MAX = 2n ** 63n - 1n;
const INT64_MIN = -(2n ** 63n);
// Any character above one byte: it would be cut to its low byte, and name another record. NUL is a legal byte.
const NOT_LATIN1 = /[^\u0000-\u00ff]/;

/** Of each name in each commit: the message is built for the one that is none. */
function assertLatin1(text: string): void {
  if (NOT_LATIN1.test(text)) assert.fail(`not a latin1 byte string: ${JSON.stringify(text)}`);
}

/** The hash tag that a bucket or shard begins with, braces included. */
export function hashTag(name: string): string {
  const end = name.indexOf('}');
  if (!name.startsWith('{') || end < 2) assert.fail(`'${name}' does not begin with the hash tag of a volume`);
  return name.slice(0, end + 1);
}

export function assertBucket(bucket: string): void {
  hashTag(bucket);
  assertLatin1(bucket);
}

/** The beginning of a bucket's name: at least the brace of its hash tag, so that it finds nothing of the engine's own. */
export function assertBucketPrefix(prefix: string): void {
  assert.ok(prefix.startsWith('{'), `'${prefix}' is not the beginning of a bucket`);
  assertLatin1(prefix);
}

export function assertKey(key: { readonly bucket: string; readonly field: string }): void {
  assertBucket(key.bucket);
  assertLatin1(key.field);
}

export function isInt64(value: bigint): boolean {
  return value >= INT64_MIN && value <= INT64_MAX;
}

export function assertInt64(value: bigint): void {
  if (!isInt64(value)) assert.fail(`${value} is not a signed 64-bit integer`);
}

export function overflow(bucket: string, field: string): PenstockError {
  return new PenstockError(
    'too-large',
    `the number ${bucket} ${field} would leave the range of 64 bits; nothing was changed`,
  );
}

export function tooManyInstants(url: string, tag: string): PenstockError {
  return new PenstockError(
    'held',
    `${url}: ${INSTANTS_MAX} copies or dumps of ${tag} are being made: wait for one of them`,
  );
}

function tooLarge(what: string, count: number, max: number): PenstockError {
  return new PenstockError('too-large', `a commit with ${count} ${what}: at most ${max}`);
}

/** Throws `too-large` for what is above a limit; an address of another volume, or one that is not latin1, is a broken invariant. */
export function checkMinitransaction(transaction: Minitransaction): void {
  const { compare = [], write = [], patch = [], publish = [], operation } = transaction;
  if (compare.length > COMMIT_RECORDS_MAX) throw tooLarge('compares', compare.length, COMMIT_RECORDS_MAX);
  if (write.length + patch.length > COMMIT_RECORDS_MAX) {
    throw tooLarge('writes and patches', write.length + patch.length, COMMIT_RECORDS_MAX);
  }
  if (publish.length > COMMIT_RECORDS_MAX) throw tooLarge('messages', publish.length, COMMIT_RECORDS_MAX);
  if (operation !== undefined && Buffer.byteLength(operation) > OPERATION_BYTES_MAX) {
    throw tooLarge('bytes of operation id', Buffer.byteLength(operation), OPERATION_BYTES_MAX);
  }
  let tag: string | undefined;
  const sameTag = (name: string): void => {
    assertLatin1(name);
    if (tag !== undefined && name.startsWith(tag)) return;
    assert.ok(
      tag === undefined,
      `one commit names '${name}' and records of ${tag ?? ''}: a commit stays within one hash tag`,
    );
    tag = hashTag(name);
  };
  for (const one of compare) {
    if ('emptyBucket' in one) sameTag(one.emptyBucket);
    else {
      const key = 'key' in one ? one.key : one.number;
      sameTag(key.bucket);
      assertLatin1(key.field);
      if ('atLeast' in one) assertInt64(one.atLeast);
      if ('atMost' in one) assertInt64(one.atMost);
    }
  }
  let bytes = 0;
  for (const { key, value } of write) {
    sameTag(key.bucket);
    assertLatin1(key.field);
    const length = value?.byteLength ?? 0;
    if (length > VALUE_BYTES_MAX)
      throw tooLarge(`bytes in the value of ${key.bucket} ${key.field}`, length, VALUE_BYTES_MAX);
    bytes += length;
  }
  for (const one of patch) {
    sameTag(one.number.bucket);
    assertLatin1(one.number.field);
    if ('add' in one) assertInt64(one.add);
    if ('max' in one) assertInt64(one.max);
  }
  for (const { shard, message } of publish) {
    sameTag(shard);
    bytes += message.byteLength;
  }
  if (bytes > COMMIT_BYTES_MAX) throw tooLarge('bytes of values and messages', bytes, COMMIT_BYTES_MAX);
}
