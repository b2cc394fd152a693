/**
 * Reading a segment file: batch after batch, from any offset.
 *
 * Invariants: `limit` (the durable end, or the size of a segment that is full) is the caller's: nothing behind it is looked at. Every
 * batch handed out has a valid checksum and the offset that its place demands.
 * Failure: whatever is not a whole, valid, next batch is `corrupt`, with the file and the byte.
 * Limits: a sparse index of one entry per INDEX_BYTES is built in memory as the file is read; reading from an offset costs at most
 * that many bytes of looking for it, the first time a whole segment.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
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

export interface IndexEntry {
  readonly offset: bigint;
  readonly position: number;
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
