/**
 * Reads the records of a RecordBatch v2 (layout in record-batch.ts and batch-builder.ts) without an object per record or header: a
 * RecordBatchReader is a cursor that is opened on a batch and moved record by record; keys, values and headers are positions until
 * somebody asks for them.
 *
 * Invariants: nothing is handed out of a batch whose checksum fails; a record never reaches beyond its own length, nor a batch
 * beyond its bytes. Every flaw is `corrupt` and names the partition and the offset.
 * Failure: after an error the reader may be opened on another batch.
 * Limits: RECORDS_BYTES_MAX uncompressed. Control batches (transaction markers) read as empty unless they are asked for.
 */
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { PenstockError, describeError } from '../errors.ts';
import { lz4Decompress } from './lz4.ts';
import {
  BATCH_HEADER_BYTES,
  COMPRESSION,
  checkBatchCrc,
  corruptBatch,
  readBatchHeader,
  viewOf,
  type BatchHeader,
} from './record-batch.ts';
import { snappyDecompress } from './snappy.ts';

/** A batch of BATCH_BYTES_MAX that blows up 128 times is no batch of ours: a bound against decompression bombs. */
const RECORDS_BYTES_MAX = 128 * 2 ** 20;

export class RecordBatchReader {
  #where = '';
  #header: BatchHeader | undefined;
  #bytes: Buffer = Buffer.alloc(0);
  #left = 0;
  #at = 0;
  #recordEnd = 0;
  #timestampDelta = 0;
  #offsetDelta = 0;
  #keyStart = 0;
  #keyBytes = -1;
  #valueStart = 0;
  #valueBytes = -1;
  #headerCount = 0;
  #headersStart = 0;
  // Headers come in the same order in every record, so a search goes on where the last one ended and wraps around once.
  #scanAt = 0;
  #scanIndex = 0;
  #foundStart = 0;
  #foundBytes = -1;

  /** Opens a whole batch; `where` names its partition in errors ("machine/0"). Returns the header. `control`: markers are records, too. */
  open(batch: Uint8Array, where: string, control = false): BatchHeader {
    const view = viewOf(batch);
    if (view.length < BATCH_HEADER_BYTES) {
      throw new PenstockError('corrupt', `${where}: ${view.length} bytes are less than a batch's header`);
    }
    const header = readBatchHeader(view, 0, where);
    if (header.bytes !== view.length) {
      throw corruptBatch(where, header.baseOffset, `${view.length} bytes instead of ${header.bytes}`);
    }
    checkBatchCrc(view, header, where);
    this.#where = where;
    this.#header = header;
    const isSkipped = header.isControl && !control;
    this.#left = isSkipped ? 0 : header.records;
    const compressed = header.compression !== COMPRESSION.none && this.#left > 0;
    this.#bytes = compressed ? decompress(view.subarray(BATCH_HEADER_BYTES), header, where) : view;
    this.#at = compressed ? 0 : BATCH_HEADER_BYTES;
    if (isSkipped) this.#at = this.#bytes.length;
    return header;
  }

  /** Moves to the next record; false behind the last one. */
  next(): boolean {
    if (this.#left === 0) {
      if (this.#at !== this.#bytes.length) throw this.#corrupt(`${this.#bytes.length - this.#at} bytes too many`);
      return false;
    }
    this.#left--;
    const length = this.#varint(this.#bytes.length);
    const end = this.#at + length;
    if (length < 0 || end > this.#bytes.length) throw this.#corrupt('a record reaches beyond the batch');
    this.#at++; // attributes: unused in v2
    this.#timestampDelta = this.#varint(end);
    this.#offsetDelta = this.#varint(end);
    this.#keyBytes = this.#varint(end);
    this.#keyStart = this.#at;
    this.#skip(this.#keyBytes, end);
    this.#valueBytes = this.#varint(end);
    this.#valueStart = this.#at;
    this.#skip(this.#valueBytes, end);
    this.#headerCount = this.#varint(end);
    if (this.#headerCount < 0 || this.#headerCount > end - this.#at) throw this.#corrupt('impossible header count');
    this.#headersStart = this.#scanAt = this.#at;
    this.#scanIndex = 0;
    this.#recordEnd = this.#at = end;
    return true;
  }

  /** Relative to the base offset of the header. */
  get offsetDelta(): number {
    return this.#offsetDelta;
  }

  /** Epoch ms: the log's append time where the topic uses it, else the producer's time. */
  get timestampMs(): number {
    const header = this.#header;
    if (header === undefined) return NaN;
    return header.isLogAppendTime ? header.maxTimestampMs : header.baseTimestampMs + this.#timestampDelta;
  }

  /** When the log took the record, epoch ms; undefined: only its producer's time is known. */
  get appendedMs(): number | undefined {
    return this.#header?.isLogAppendTime === true ? this.#header.maxTimestampMs : undefined;
  }

  /** A view into the batch, valid as long as its bytes are. */
  key(): Buffer | null {
    return this.#keyBytes < 0 ? null : this.#bytes.subarray(this.#keyStart, this.#keyStart + this.#keyBytes);
  }

  value(): Buffer | null {
    return this.#valueBytes < 0 ? null : this.#bytes.subarray(this.#valueStart, this.#valueStart + this.#valueBytes);
  }

  valueText(): string | null {
    return this.#valueBytes < 0
      ? null
      : this.#bytes.toString('utf8', this.#valueStart, this.#valueStart + this.#valueBytes);
  }

  /** The value of the first header of that name as a view; null when absent or null. */
  header(name: Uint8Array): Buffer | null {
    if (!this.#find(name) || this.#foundBytes < 0) return null;
    return this.#bytes.subarray(this.#foundStart, this.#foundStart + this.#foundBytes);
  }

  headerText(name: Uint8Array): string | null {
    if (!this.#find(name) || this.#foundBytes < 0) return null;
    return this.#bytes.toString('latin1', this.#foundStart, this.#foundStart + this.#foundBytes);
  }

  /** A header of ASCII digits as a number; NaN when it is absent, not a whole number, or above 2^53. */
  headerInteger(name: Uint8Array): number {
    if (!this.#find(name) || this.#foundBytes <= 0 || this.#foundBytes > 16) return NaN;
    let value = 0;
    for (let i = this.#foundStart; i < this.#foundStart + this.#foundBytes; i++) {
      const digit = (this.#bytes[i] ?? 0) - 48;
      if (digit < 0 || digit > 9) return NaN;
      value = value * 10 + digit;
    }
    return Number.isSafeInteger(value) ? value : NaN;
  }

  /** Every header of the record, in order: for tools; allocates. */
  headers(): [string, Buffer | null][] {
    const found: [string, Buffer | null][] = [];
    const resume = this.#at;
    this.#at = this.#headersStart;
    for (let i = 0; i < this.#headerCount; i++) {
      const nameBytes = this.#headerField(true);
      const name = this.#bytes.toString('utf8', this.#at - nameBytes, this.#at);
      const valueBytes = this.#headerField(false);
      found.push([name, valueBytes < 0 ? null : this.#bytes.subarray(this.#at - valueBytes, this.#at)]);
    }
    const end = this.#at;
    this.#at = resume;
    if (end !== this.#recordEnd) throw this.#corrupt('bytes behind the headers of a record');
    return found;
  }

  #find(name: Uint8Array): boolean {
    const resume = this.#at;
    this.#at = this.#scanAt;
    let found = false;
    for (let tried = 0; tried < this.#headerCount && !found; tried++) {
      if (this.#scanIndex === this.#headerCount) {
        this.#scanIndex = 0;
        this.#at = this.#headersStart;
      }
      this.#scanIndex++;
      const nameBytes = this.#headerField(true);
      found = nameBytes === name.length && this.#equals(this.#at - nameBytes, name);
      const valueBytes = this.#headerField(false);
      this.#foundBytes = valueBytes;
      this.#foundStart = this.#at - (valueBytes < 0 ? 0 : valueBytes);
    }
    this.#scanAt = this.#at;
    this.#at = resume;
    return found;
  }

  #equals(start: number, name: Uint8Array): boolean {
    for (let i = 0; i < name.length; i++) if (this.#bytes[start + i] !== name[i]) return false;
    return true;
  }

  /** Reads a length and skips the field; a name may not be null. */
  #headerField(isName: boolean): number {
    const bytes = this.#varint(this.#recordEnd);
    if (isName && bytes < 0) throw this.#corrupt('a header without a name');
    this.#skip(bytes, this.#recordEnd);
    return bytes;
  }

  #skip(bytes: number, end: number): void {
    if (bytes < -1 || bytes > end - this.#at) throw this.#corrupt('a field reaches beyond its record');
    if (bytes > 0) this.#at += bytes;
  }

  #varint(end: number): number {
    const bytes = this.#bytes;
    let at = this.#at;
    let byte = at < end ? (bytes[at++] ?? 128) : 128;
    if (byte < 128) {
      this.#at = at;
      return (byte >>> 1) ^ -(byte & 1);
    }
    let value = byte & 127;
    let scale = 128;
    while (byte >= 128) {
      // 7 more bytes reach 2^56: beyond what a number holds exactly, and beyond every delta that makes sense.
      if (at >= end || scale > 2 ** 49) throw this.#corrupt('a number without an end');
      byte = bytes[at++] ?? 128;
      value += (byte & 127) * scale;
      scale *= 128;
    }
    this.#at = at;
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }

  #corrupt(flaw: string): PenstockError {
    return corruptBatch(this.#where, this.#header?.baseOffset ?? -1n, flaw);
  }
}

function decompress(body: Buffer, header: BatchHeader, where: string): Buffer {
  try {
    if (header.compression === COMPRESSION.zstd)
      return zstdDecompressSync(body, { maxOutputLength: RECORDS_BYTES_MAX });
    if (header.compression === COMPRESSION.gzip) return gunzipSync(body, { maxOutputLength: RECORDS_BYTES_MAX });
    // Node has no codec for these two.
    if (header.compression === COMPRESSION.lz4) return lz4Decompress(body, RECORDS_BYTES_MAX);
    if (header.compression === COMPRESSION.snappy) return snappyDecompress(body, RECORDS_BYTES_MAX);
  } catch (error) {
    throw corruptBatch(where, header.baseOffset, `it does not decompress: ${describeError(error)}`);
  }
  throw new PenstockError(
    'unsupported',
    `${where}: the batch at offset ${header.baseOffset} is compressed with code ${header.compression}, which nobody knows`,
  );
}

export interface LogRecord {
  readonly offset: bigint;
  readonly timestampMs: number;
  readonly key: Buffer | null;
  readonly value: Buffer | null;
  readonly headers: readonly (readonly [string, Buffer | null])[];
}

/** All records as objects: for tools, tests and small batches. */
export function decodeRecords(batch: Uint8Array, where: string): LogRecord[] {
  const reader = new RecordBatchReader();
  const { baseOffset } = reader.open(batch, where);
  const records: LogRecord[] = [];
  while (reader.next()) {
    records.push({
      offset: baseOffset + BigInt(reader.offsetDelta),
      timestampMs: reader.timestampMs,
      key: reader.key(),
      value: reader.value(),
      headers: reader.headers(),
    });
  }
  return records;
}
