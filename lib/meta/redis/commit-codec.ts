/** The request and the answer of the commit script; their layout is in commit-script.ts. */
import assert from 'node:assert/strict';
import { PenstockError } from '../../errors.ts';
import type { CommitResult, Compare, Minitransaction, Mismatch, Patch, Stored, Version } from '../engine.ts';
import { hashTag, overflow } from '../limits.ts';
import { feedKey, instantsKey, sessionKey } from './keys.ts';

export const VERSION_BYTES = 10;
const EPOCH_BYTES = 40;
const ABSENT = 0;
const VERSION = 1;
const EMPTY = 2;
const AT_LEAST = 3;
const AT_MOST = 4;
// A kind, an index into KEYS, the two lengths, and a 64-bit decimal with its sign or a version.
const ITEM_BYTES_MAX = 1 + 2 + 2 + 4 + 20 + VERSION_BYTES;
const HEADER_BYTES_MAX = EPOCH_BYTES + 2 + 65 + VERSION_BYTES + 5 * 2;
const NOT_ASCII = /[^\u0000-\u007f]/;
/** A commit that deletes and writes no more than this for each record that it deletes may run when Redis is full. */
const WRITTEN_PER_DELETE_MAX = 512;

export type Argument = string | Buffer;

/** A latin1 byte string as an argument of a command: the client would send a string as UTF-8, so only ASCII may stay one. */
export function argument(text: string): Argument {
  return NOT_ASCII.test(text) ? Buffer.from(text, 'latin1') : text;
}

export function encodeVersion(session: number, counter: number): Version {
  const bytes = Buffer.allocUnsafe(VERSION_BYTES);
  bytes.writeUInt32BE(session, 0);
  bytes.writeUIntBE(counter, 4, 6);
  return bytes.toString('latin1') as Version; // the brand's maker in this adapter, with decodeStored
}

/** Throws `corrupt` for bytes that are no value record. */
export function decodeStored(bytes: Buffer): Stored {
  if (bytes.length < VERSION_BYTES)
    throw new PenstockError('corrupt', `a value record in Redis has ${bytes.length} bytes: no version`);
  return { version: bytes.toString('latin1', 0, VERSION_BYTES) as Version, value: bytes.subarray(VERSION_BYTES) };
}

/** True when the commit gives memory back, or takes next to none: what must still work when Redis is full. */
export function freesMemory({ write = [], patch = [], whenFull }: Minitransaction): boolean {
  if (whenFull === true || write.length + patch.length === 0) return true;
  let deletes = patch.filter((one) => 'remove' in one).length;
  let written = 0;
  for (const { value } of write) {
    if (value === null) deletes++;
    else written += value.byteLength;
  }
  return deletes > 0 && written <= deletes * WRITTEN_PER_DELETE_MAX;
}

export interface CommitHeader {
  readonly session: number;
  readonly epoch: string;
  readonly database: number;
  readonly version: Version;
  /** Operations that leave the ring. */
  readonly dropped: readonly string[];
}

/** The arguments after the script: the number of keys, the keys, the request. */
export function encodeCommit(header: CommitHeader, transaction: Minitransaction): Argument[] {
  const { compare = [], write = [], patch = [], publish = [], operation = '' } = transaction;
  const keys = new Map<string, number>([
    [sessionKey(header.session), 1],
    [instantsKey(tagOf(transaction)), 2],
  ]);
  const writer = new RequestWriter(requestBytesMax(header, transaction), keys);
  assert.equal(header.epoch.length, EPOCH_BYTES);
  writer.bytes(header.epoch).u16(header.database).short(operation).bytes(header.version);
  writer.u16(compare.length);
  for (const one of compare) encodeCompare(writer, one);
  writer.u16(patch.length);
  for (const one of patch) encodePatch(writer, one);
  writer.u16(write.length);
  for (const { key, value } of write) {
    writer.u8(value === null ? 0 : 1).address(key.bucket, key.field);
    if (value !== null)
      writer
        .u32(VERSION_BYTES + value.byteLength)
        .bytes(header.version)
        .blob(value);
  }
  writer.u16(publish.length);
  for (const { shard, message } of publish) writer.key(feedKey(shard)).u32(message.byteLength).blob(message);
  writer.u16(header.dropped.length);
  for (const name of header.dropped) writer.short(name);
  return [String(keys.size), ...[...keys.keys()].map(argument), writer.finish()];
}

/** The hash tag of what the commit changes; it changes nothing of another. */
export function tagOf({ write = [], patch = [] }: Minitransaction): string {
  const bucket = write[0]?.key.bucket ?? patch[0]?.number.bucket;
  return bucket === undefined ? '' : hashTag(bucket);
}

function encodeCompare(writer: RequestWriter, compare: Compare): void {
  if ('key' in compare) {
    writer.u8(compare.version === null ? ABSENT : VERSION).address(compare.key.bucket, compare.key.field);
    if (compare.version === null) return;
    assert.equal(compare.version.length, VERSION_BYTES, 'a version that this engine has not given');
    writer.bytes(compare.version);
  } else if ('emptyBucket' in compare) {
    writer.u8(EMPTY).address(compare.emptyBucket, '');
  } else {
    const atLeast = 'atLeast' in compare;
    writer.u8(atLeast ? AT_LEAST : AT_MOST).address(compare.number.bucket, compare.number.field);
    writer.short(String(atLeast ? compare.atLeast : compare.atMost));
  }
}

function encodePatch(writer: RequestWriter, patch: Patch): void {
  const kind = 'add' in patch ? 0 : 'max' in patch ? 1 : 2;
  writer.u8(kind).address(patch.number.bucket, patch.number.field);
  if ('add' in patch) writer.short(String(patch.add));
  else if ('max' in patch) writer.short(String(patch.max));
}

function requestBytesMax(header: CommitHeader, transaction: Minitransaction): number {
  const { compare = [], write = [], patch = [], publish = [] } = transaction;
  let bytes = HEADER_BYTES_MAX + ITEM_BYTES_MAX * (compare.length + write.length + patch.length + publish.length);
  for (const one of compare) {
    if ('key' in one) bytes += one.key.field.length;
    else if ('number' in one) bytes += one.number.field.length;
  }
  for (const { key, value } of write) bytes += key.field.length + (value?.byteLength ?? 0);
  for (const { number } of patch) bytes += number.field.length;
  for (const { message } of publish) bytes += message.byteLength;
  // UTF-8 takes at most three bytes for a unit of a string.
  for (const name of header.dropped) bytes += 1 + name.length * 3;
  return bytes;
}

/** Writes into one buffer of sufficient size; collects the keys. */
class RequestWriter {
  readonly #buffer: Buffer;
  readonly #keys: Map<string, number>;
  #at = 0;

  constructor(bytesMax: number, keys: Map<string, number>) {
    this.#buffer = Buffer.allocUnsafe(bytesMax);
    this.#keys = keys;
  }

  u8(value: number): this {
    this.#at = this.#buffer.writeUInt8(value, this.#at);
    return this;
  }

  u16(value: number): this {
    this.#at = this.#buffer.writeUInt16BE(value, this.#at);
    return this;
  }

  u32(value: number): this {
    this.#at = this.#buffer.writeUInt32BE(value, this.#at);
    return this;
  }

  bytes(latin1: string): this {
    this.#at += this.#buffer.write(latin1, this.#at, 'latin1');
    return this;
  }

  blob(bytes: Uint8Array): this {
    this.#buffer.set(bytes, this.#at);
    this.#at += bytes.byteLength;
    return this;
  }

  /** At most 255 bytes of UTF-8 behind their number. */
  short(text: string): this {
    const length = this.#buffer.write(text, this.#at + 1);
    this.#buffer.writeUInt8(length, this.#at);
    this.#at += 1 + length;
    return this;
  }

  key(name: string): this {
    let index = this.#keys.get(name);
    if (index === undefined) {
      index = this.#keys.size + 1;
      this.#keys.set(name, index);
    }
    return this.u16(index);
  }

  address(bucket: string, field: string): this {
    return this.key(bucket).u16(field.length).bytes(field);
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#at);
  }
}

/** Why a commit is refused: the first letter of the script's answer. */
const REFUSALS: Readonly<Record<string, string>> = {
  E: 'Redis has another replication id: it was restarted, restored or failed over since the session was opened',
  S: 'the session was ended',
  L: 'the lease of the session ran out',
};

/** The text of a refusal of the commit or the renewal script, or undefined for another answer. */
export function refusal(letter: string): string | undefined {
  return REFUSALS[letter];
}

/** Throws `fenced` and `too-large` (an overflow) as the script says. */
export function decodeCommit(answer: unknown, transaction: Minitransaction): CommitResult {
  if (Array.isArray(answer)) return { ok: false, mismatches: decodeMismatches(answer, transaction.compare ?? []) };
  assert.ok(Buffer.isBuffer(answer), 'the commit script answers with a string or an array');
  const letter = String.fromCharCode(answer.readUInt8(0));
  if (letter === 'O') {
    const patched = transaction.patch?.find(({ number }) => number.field === answer.toString('latin1', 3));
    throw overflow(patched?.number.bucket ?? '', answer.toString('latin1', 3));
  }
  const refused = refusal(letter);
  if (refused !== undefined) throw new PenstockError('fenced', refused);
  const numbers = answer.toString('latin1', 1 + VERSION_BYTES);
  return {
    ok: true,
    version: answer.toString('latin1', 1, 1 + VERSION_BYTES) as Version, // as encodeVersion made it
    numbers:
      transaction.patch === undefined || transaction.patch.length === 0
        ? []
        : numbers.split(',').map((text) => (text === '' ? null : BigInt(text))),
    repeated: letter === 'R',
  };
}

function decodeMismatches(answer: readonly unknown[], compares: readonly Compare[]): Mismatch[] {
  const mismatches: Mismatch[] = [];
  for (let i = 1; i < answer.length; i += 2) {
    const index = Number(answer[i]);
    const fresh = answer[i + 1];
    const compare = compares[index];
    assert.ok(compare !== undefined, 'the commit script names a compare of the request');
    if ('emptyBucket' in compare) mismatches.push({ index, kind: 'bucket', count: Number(fresh) });
    else if ('number' in compare) mismatches.push({ index, kind: 'number', current: BigInt(String(fresh)) });
    else mismatches.push({ index, kind: 'value', current: Buffer.isBuffer(fresh) ? decodeStored(fresh) : null });
  }
  return mismatches;
}
