/**
 * RecordBatch v2: the 61 bytes in front of every batch, and the few of them that a log sets when it stores one. The records behind
 * them are written by `batch-builder.ts` and read by `batch-reader.ts`. Source: kafka.apache.org/documentation, "Record Batch",
 * and org.apache.kafka.common.record.DefaultRecordBatch. All integers are big-endian.
 *
 *    at  bytes  field
 *     0      8  baseOffset            set by the log; not covered by the checksum
 *     8      4  batchLength           bytes behind this field
 *    12      4  partitionLeaderEpoch  set by the log; not covered by the checksum
 *    16      1  magic                 2
 *    17      4  crc                   CRC32C of everything from `attributes` to the end
 *    21      2  attributes            bits 0-2 compression (0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd), 3 LogAppendTime,
 *                                     4 transactional, 5 control
 *    23      4  lastOffsetDelta
 *    27      8  baseTimestamp         epoch ms; deltas of the records count from it
 *    35      8  maxTimestamp          epoch ms; under LogAppendTime the time of every record
 *    43      8  producerId            -1 where there is none
 *    51      2  producerEpoch
 *    53      4  baseSequence          counts records per producer and partition, 0 follows 2^31-1
 *    57      4  records               how many
 *    61         the records, compressed as a whole
 *
 * Limits: batchLength is checked against BATCH_BYTES_MAX of the log that stores it; a reader accepts what fits its buffer.
 */
import { crc32c } from '@node-rs/crc32';
import { PenstockError } from '../errors.ts';

export const BATCH_HEADER_BYTES = 61;
/** baseOffset and batchLength: what must be read before the length of a batch is known. */
export const BATCH_PREFIX_BYTES = 12;
export const CRC_START = 21;
export const COMPRESSION = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 } as const;
const COMPRESSION_MASK = 7;
const LOG_APPEND_TIME_BIT = 8;
const TRANSACTIONAL_BIT = 16;
const CONTROL_BIT = 32;
const MAGIC = 2;
const SEQUENCE_SPAN = 2 ** 31;

export interface BatchHeader {
  readonly baseOffset: bigint;
  /** Of the whole batch, prefix included. */
  readonly bytes: number;
  readonly crc: number;
  readonly compression: number;
  readonly isLogAppendTime: boolean;
  readonly isTransactional: boolean;
  readonly isControl: boolean;
  readonly lastOffsetDelta: number;
  readonly baseTimestampMs: number;
  readonly maxTimestampMs: number;
  readonly producerId: bigint;
  readonly producerEpoch: number;
  readonly baseSequence: number;
  readonly records: number;
}

/** Who sends a batch and which of its batches this is: what makes a repeat recognisable. */
export interface ProducerIdentity {
  readonly producerId: bigint;
  readonly producerEpoch: number;
  readonly baseSequence: number;
}

export const NO_PRODUCER: ProducerIdentity = { producerId: -1n, producerEpoch: -1, baseSequence: -1 };

/** The sequence `count` records behind `sequence`. */
export function sequenceAfter(sequence: number, count: number): number {
  return (sequence + count) % SEQUENCE_SPAN;
}

export function viewOf(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The length of the batch whose first bytes stand at `at`, prefix included; NaN when it cannot be one. */
export function batchBytes(buffer: Buffer, at: number): number {
  const length = buffer.readInt32BE(at + 8);
  return length < BATCH_HEADER_BYTES - BATCH_PREFIX_BYTES ? NaN : length + BATCH_PREFIX_BYTES;
}

/**
 * Reads the header at `at`; the buffer holds at least BATCH_HEADER_BYTES there. Checks what a header alone can show and throws
 * `corrupt` with `where` in its message ("machine/0", a file name).
 */
export function readBatchHeader(buffer: Buffer, at: number, where: string): BatchHeader {
  const attributes = buffer.readInt16BE(at + 21);
  const header: BatchHeader = {
    baseOffset: buffer.readBigInt64BE(at),
    bytes: batchBytes(buffer, at),
    crc: buffer.readUInt32BE(at + 17),
    compression: attributes & COMPRESSION_MASK,
    isLogAppendTime: (attributes & LOG_APPEND_TIME_BIT) !== 0,
    isTransactional: (attributes & TRANSACTIONAL_BIT) !== 0,
    isControl: (attributes & CONTROL_BIT) !== 0,
    lastOffsetDelta: buffer.readInt32BE(at + 23),
    baseTimestampMs: Number(buffer.readBigInt64BE(at + 27)),
    maxTimestampMs: Number(buffer.readBigInt64BE(at + 35)),
    producerId: buffer.readBigInt64BE(at + 43),
    producerEpoch: buffer.readInt16BE(at + 51),
    baseSequence: buffer.readInt32BE(at + 53),
    records: buffer.readInt32BE(at + 57),
  };
  const flaw = headerFlaw(header, buffer.readInt8(at + 16));
  if (flaw !== undefined) throw corruptBatch(where, header.baseOffset, flaw);
  return header;
}

function headerFlaw(header: BatchHeader, magic: number): string | undefined {
  if (magic !== MAGIC) return `magic ${magic} instead of ${MAGIC}`;
  if (Number.isNaN(header.bytes)) return 'its length is below that of a header';
  if (header.baseOffset < 0n) return 'negative base offset';
  // A compacted topic may keep fewer records than offsets, never more.
  if (header.records < 0 || header.lastOffsetDelta < 0 || header.records > header.lastOffsetDelta + 1) {
    return `${header.records} records over ${header.lastOffsetDelta + 1} offsets`;
  }
  return undefined;
}

/** Whether the checksum of the whole batch (exactly its bytes) holds. */
export function isBatchIntact(batch: Buffer, header: BatchHeader): boolean {
  return crc32c(batch.subarray(CRC_START)) === header.crc;
}

/** Throws `corrupt` unless the batch is intact. */
export function checkBatchCrc(batch: Buffer, header: BatchHeader, where: string): void {
  if (!isBatchIntact(batch, header)) throw corruptBatch(where, header.baseOffset, 'checksum mismatch');
}

export function corruptBatch(where: string, offset: bigint, flaw: string): PenstockError {
  return new PenstockError('corrupt', `${where}: the batch at offset ${offset} is damaged: ${flaw}`);
}

/**
 * The header of `batch` as a log stores it: base offset, leader epoch and LogAppendTime set, the checksum made new. The caller's bytes
 * stay as they are (it may have to send them again); what follows the header is stored unchanged.
 */
export function stampedHeader(batch: Buffer, baseOffset: bigint, leaderEpoch: number, appendTimeMs: number): Buffer {
  const header = Buffer.from(batch.subarray(0, BATCH_HEADER_BYTES));
  header.writeBigInt64BE(baseOffset, 0);
  header.writeInt32BE(leaderEpoch, 12);
  header.writeInt16BE(header.readInt16BE(21) | LOG_APPEND_TIME_BIT, 21);
  header.writeBigInt64BE(BigInt(appendTimeMs), 35);
  const crc = crc32c(batch.subarray(BATCH_HEADER_BYTES), crc32c(header.subarray(CRC_START)));
  header.writeUInt32BE(crc, 17);
  return header;
}

/** A batch over the offsets of `batch` without its records, as Kafka's compaction leaves them (DefaultRecordBatch.writeEmptyHeader). */
export function emptiedBatch(batch: Buffer): Buffer {
  const header = Buffer.from(batch.subarray(0, BATCH_HEADER_BYTES));
  header.writeInt32BE(BATCH_HEADER_BYTES - BATCH_PREFIX_BYTES, 8);
  header.writeInt32BE(0, 57);
  header.writeUInt32BE(crc32c(header.subarray(CRC_START)), 17);
  return header;
}

export interface SealOptions extends ProducerIdentity {
  readonly compression: number;
  readonly records: number;
  readonly baseTimestampMs: number;
  readonly maxTimestampMs: number;
}

/** Fills in the header of a batch whose records already stand behind it. */
export function sealBatch(batch: Buffer, options: SealOptions): void {
  batch.writeBigInt64BE(0n, 0);
  batch.writeInt32BE(batch.length - BATCH_PREFIX_BYTES, 8);
  batch.writeInt32BE(-1, 12);
  batch.writeInt8(MAGIC, 16);
  batch.writeInt16BE(options.compression, 21);
  batch.writeInt32BE(options.records - 1, 23);
  batch.writeBigInt64BE(BigInt(options.baseTimestampMs), 27);
  batch.writeBigInt64BE(BigInt(options.maxTimestampMs), 35);
  batch.writeBigInt64BE(options.producerId, 43);
  batch.writeInt16BE(options.producerEpoch, 51);
  batch.writeInt32BE(options.baseSequence, 53);
  batch.writeInt32BE(options.records, 57);
  batch.writeUInt32BE(crc32c(batch.subarray(CRC_START)), 17);
}
