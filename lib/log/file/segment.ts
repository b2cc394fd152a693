/**
 * Reading a segment file: batch after batch, from any offset.
 *
 * Invariants: `limit` (the durable end, or the size of a segment that is full) is the caller's: nothing behind it is looked at. Every
 * batch handed out has a valid checksum and the offset that its place demands.
 * Failure: whatever is not a whole, valid, next batch is `corrupt`, with the file and the byte. What stands behind a damaged batch can be
 * read all the same: the next intact one is found by the length that the damaged one claims or, where that leads nowhere, by looking at
 * every byte for a batch whose checksum holds and which another one, or the end, follows.
 * Limits: a sparse index of one entry per INDEX_BYTES is built in memory as the file is read; reading from an offset costs at most
 * that many bytes of looking for it, the first time a whole segment.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { PenstockError, fromSystemError, isCode } from '../../errors.ts';
import {
  BATCH_HEADER_BYTES,
  BATCH_PREFIX_BYTES,
  batchBytes,
  checkBatchCrc,
  readBatchHeader,
  type BatchHeader,
} from '../record-batch.ts';
import { segmentPath } from './layout.ts';

const INDEX_BYTES = 64 * 1024;
const SCAN_BYTES = 256 * 1024;
/** Where a batch has its version, and which. */
const MAGIC_AT = 16;
const MAGIC = 2;

export interface IndexEntry {
  readonly offset: bigint;
  readonly position: number;
}

export interface Damage {
  /** The bytes [position, end) are no valid batches. */
  readonly position: number;
  readonly end: number;
  /** The batch behind them; undefined: they reach to the limit. */
  readonly next: IndexEntry | undefined;
}

export class Segment {
  readonly base: bigint;
  readonly path: string;
  readonly #fd: number;
  readonly #index: IndexEntry[];

  constructor(directory: string, base: bigint) {
    this.base = base;
    this.path = segmentPath(directory, base);
    this.#index = [{ offset: base, position: 0 }];
    try {
      this.#fd = openSync(this.path, 'r');
    } catch (error) {
      throw fromSystemError(error, `cannot open ${this.path}`);
    }
  }

  size(): number {
    return fstatSync(this.#fd).size;
  }

  close(): void {
    closeSync(this.#fd);
  }

  /**
   * Visits the headers from `from`, whose batch has offset `offset`, up to `limit`. The visitor returns false to stop. Bodies are passed
   * over unread where they are large; checksums are not looked at.
   */
  scan(from: number, offset: bigint, limit: number, visit: (header: BatchHeader, position: number) => boolean): void {
    const buffer = Buffer.allocUnsafe(Math.min(SCAN_BYTES, Math.max(limit - from, BATCH_HEADER_BYTES)));
    let position = from;
    let expected = offset;
    let loadedAt = 0;
    let loaded = 0;
    while (position < limit) {
      if (position + BATCH_HEADER_BYTES > loadedAt + loaded) {
        loadedAt = position;
        loaded = this.#read(buffer, position, limit);
      }
      const header = this.#header(buffer, position - loadedAt, loaded, position, limit, expected);
      this.#remember(expected, position);
      if (!visit(header, position)) return;
      position += header.bytes;
      expected += BigInt(header.lastOffsetDelta + 1);
    }
  }

  /** The position of the batch that holds `offset`, or undefined when it is not below `limit`. */
  locate(offset: bigint, limit: number): IndexEntry | undefined {
    const nearest = this.#index.findLast((entry) => entry.offset <= offset && entry.position < limit);
    if (nearest === undefined) return undefined;
    let found: IndexEntry | undefined;
    this.scan(nearest.position, nearest.offset, limit, (header, position) => {
      if (header.baseOffset + BigInt(header.lastOffsetDelta) < offset) return true;
      found = { offset: header.baseOffset, position };
      return false;
    });
    return found;
  }

  /** Whole batches from `start`, about `maxBytes`, at least one; their checksums are checked. */
  read(start: IndexEntry, limit: number, maxBytes: number): { batches: Buffer[]; nextOffset: bigint } {
    let bytes = Buffer.allocUnsafe(Math.min(Math.max(maxBytes, BATCH_HEADER_BYTES), limit - start.position));
    let filled = this.#read(bytes, start.position, limit);
    const first = filled >= BATCH_PREFIX_BYTES ? batchBytes(bytes, 0) : NaN;
    if (first > filled && start.position + first <= limit) {
      bytes = Buffer.allocUnsafe(first);
      filled = this.#read(bytes, start.position, limit);
    }
    const batches: Buffer[] = [];
    let at = 0;
    let expected = start.offset;
    do {
      // A batch that does not fit behind the first one is for the next call.
      if (batches.length > 0 && (at + BATCH_HEADER_BYTES > filled || at + batchBytes(bytes, at) > filled)) break;
      const position = start.position + at;
      let header: BatchHeader;
      try {
        header = this.#header(bytes, at, filled, position, limit, expected);
        if (at + header.bytes > filled) throw this.#corrupt(position, 'the file ends in the middle of a batch');
        checkBatchCrc(bytes.subarray(at, at + header.bytes), header, this.#at(position));
      } catch (error) {
        // What stands in front of the flaw is good: the next call, which begins at the flaw, reports it.
        if (batches.length > 0) break;
        throw error;
      }
      this.#remember(expected, position);
      batches.push(bytes.subarray(at, at + header.bytes));
      at += header.bytes;
      expected += BigInt(header.lastOffsetDelta + 1);
    } while (start.position + at < limit);
    return { batches, nextOffset: expected };
  }

  /** Reads from the batch that holds `offset`, which is below the limit; also when there is a damaged one somewhere in front of it. */
  readFrom(offset: bigint, limit: number, maxBytes: number): { batches: Buffer[]; nextOffset: bigint } {
    try {
      return this.#readAt(offset, limit, maxBytes);
    } catch (error) {
      // Looking for what is damaged leaves in the index what is behind it.
      if (!isCode(error, 'corrupt') || this.damageAt(offset, limit) !== undefined) throw error;
      return this.#readAt(offset, limit, maxBytes);
    }
  }

  #readAt(offset: bigint, limit: number, maxBytes: number): { batches: Buffer[]; nextOffset: bigint } {
    const start = this.locate(offset, limit);
    if (start === undefined) {
      throw new PenstockError('corrupt', `${this.path} ends at byte ${limit}, before offset ${offset}`);
    }
    return this.read(start, limit, maxBytes);
  }

  /** What keeps `offset` from being read; undefined when nothing does. Reads everything from the last indexed batch on. */
  damageAt(offset: bigint, limit: number): Damage | undefined {
    let start = this.#index.findLast((entry) => entry.offset <= offset && entry.position < limit);
    while (start !== undefined) {
      const flaw = this.verify(start, limit);
      if (flaw.offset > offset) return undefined;
      const next = flaw.position < limit ? this.#nextIntact(flaw, limit) : undefined;
      if (next === undefined || next.offset > offset) {
        return { position: flaw.position, end: next?.position ?? limit, next };
      }
      this.#addToIndex(next);
      start = next;
    }
    return { position: limit, end: limit, next: undefined };
  }

  /** Copies a piece of the file. */
  async copyTo(path: string, from: number, to: number): Promise<void> {
    const handle = await open(path, 'w');
    try {
      const buffer = Buffer.allocUnsafe(Math.min(SCAN_BYTES, to - from));
      for (let position = from; position < to;) {
        const bytes = buffer.subarray(0, this.#read(buffer, position, to));
        if (bytes.length === 0) break;
        await handle.writeFile(bytes);
        position += bytes.length;
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  /** The end of the whole, valid batches from `start`: the limit, or the first flaw. */
  verify(start: IndexEntry, limit: number): IndexEntry {
    let { offset, position } = start;
    while (position < limit) {
      try {
        const { batches, nextOffset } = this.read({ offset, position }, limit, SCAN_BYTES);
        for (const batch of batches) position += batch.length;
        offset = nextOffset;
      } catch (error) {
        if (isCode(error, 'corrupt')) break;
        throw error;
      }
    }
    return { offset, position };
  }

  /** Whether a whole valid batch stands behind the flawed one at `position`, going by the length that one claims. */
  hasBatchBehind(position: number, limit: number): boolean {
    const prefix = Buffer.alloc(BATCH_PREFIX_BYTES);
    if (this.#read(prefix, position, limit) < BATCH_PREFIX_BYTES) return false;
    const behind = position + batchBytes(prefix, 0);
    if (!(behind < limit) || this.#read(prefix, behind, limit) < BATCH_PREFIX_BYTES) return false;
    return this.verify({ offset: prefix.readBigInt64BE(0), position: behind }, limit).position > behind;
  }

  #nextIntact(flaw: IndexEntry, limit: number): IndexEntry | undefined {
    const prefix = Buffer.alloc(BATCH_PREFIX_BYTES);
    if (this.#read(prefix, flaw.position, limit) === BATCH_PREFIX_BYTES) {
      const claimed = this.#intactAt(flaw.position + batchBytes(prefix, 0), flaw.offset, limit);
      if (claimed !== undefined) return claimed.entry;
    }
    const buffer = Buffer.allocUnsafe(SCAN_BYTES);
    for (let from = flaw.position + 1; from < limit; from += SCAN_BYTES - BATCH_HEADER_BYTES) {
      const loaded = this.#read(buffer, from, limit);
      for (let at = 0; at + BATCH_HEADER_BYTES <= loaded; at++) {
        // The cheap signs first: an offset of less than 2^56, and the version.
        if (buffer[at] !== 0 || buffer[at + MAGIC_AT] !== MAGIC) continue;
        const found = this.#intactAt(from + at, flaw.offset, limit);
        // A batch that somebody stored as the value of a record is whole, too: what follows gives it away.
        if (found?.isFollowed === true) return found.entry;
      }
    }
    return undefined;
  }

  /** The batch at `position`, when its checksum holds and it is behind `offset`; and whether the next one, or the end, follows it. */
  #intactAt(
    position: number,
    offset: bigint,
    limit: number,
  ): { readonly entry: IndexEntry; readonly isFollowed: boolean } | undefined {
    const header = this.#headerAt(position, limit);
    if (header === undefined || header.baseOffset <= offset || position + header.bytes > limit) return undefined;
    const entry = { offset: header.baseOffset, position };
    const behind = position + header.bytes;
    if (this.verify(entry, behind).position !== behind) return undefined;
    const due = header.baseOffset + BigInt(header.lastOffsetDelta + 1);
    return { entry, isFollowed: behind === limit || this.#headerAt(behind, limit)?.baseOffset === due };
  }

  #headerAt(position: number, limit: number): BatchHeader | undefined {
    const bytes = Buffer.alloc(BATCH_HEADER_BYTES);
    if (!(position < limit) || this.#read(bytes, position, limit) < BATCH_HEADER_BYTES) return undefined;
    try {
      return readBatchHeader(bytes, 0, this.path);
    } catch {
      // No batch begins here.
      return undefined;
    }
  }

  #addToIndex(entry: IndexEntry): void {
    const at = this.#index.findIndex(({ position }) => position >= entry.position);
    if (at === -1) this.#index.push(entry);
    else if (this.#index[at]?.position !== entry.position) this.#index.splice(at, 0, entry);
  }

  #header(buffer: Buffer, at: number, loaded: number, position: number, limit: number, expected: bigint): BatchHeader {
    if (at + BATCH_HEADER_BYTES > loaded) throw this.#corrupt(position, 'the file ends in the middle of a header');
    const header = readBatchHeader(buffer, at, this.#at(position));
    if (header.baseOffset !== expected) {
      throw this.#corrupt(position, `offset ${header.baseOffset} where ${expected} is due`);
    }
    if (position + header.bytes > limit) throw this.#corrupt(position, 'a batch reaches beyond the end');
    return header;
  }

  #remember(offset: bigint, position: number): void {
    const last = this.#index.at(-1);
    if (last !== undefined && position >= last.position + INDEX_BYTES) this.#index.push({ offset, position });
  }

  #read(into: Buffer, position: number, limit: number): number {
    const wanted = Math.min(into.length, limit - position);
    let filled = 0;
    while (filled < wanted) {
      const got = readSync(this.#fd, into, filled, wanted - filled, position + filled);
      if (got === 0) break;
      filled += got;
    }
    return filled;
  }

  #at(position: number): string {
    return `${this.path} at byte ${position}`;
  }

  #corrupt(position: number, flaw: string): PenstockError {
    return new PenstockError('corrupt', `${this.#at(position)}: ${flaw}`);
  }
}
