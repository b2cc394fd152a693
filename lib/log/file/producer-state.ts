/**
 * What a partition knows of its producers: the last batches of each, to recognise repeats and holes as Kafka's brokers do
 * (org.apache.kafka.storage.internals.log.ProducerStateManager).
 *
 * The truth are the batches themselves, which carry their identity; this is a cache of them that is rebuilt by reading headers. A
 * snapshot in the file `producers`, taken when a segment is full and at close, bounds that reading to about one segment:
 *
 *    magic "PSP1" 4 | crc32c of the rest 4 | nextOffset 8 | producers 4
 *    then each:     producerId 8 | epoch 2 | batches 2
 *      and of each: { baseSequence 4 | lastSequence 4 | baseOffset 8 }
 *
 * Invariants: `nextOffset` says which batches are in it: all below. A snapshot is never ahead of the durable end.
 * Limits: PRODUCERS_MAX producers a partition, the longest silent are forgotten first. One that is not known must begin at sequence 0,
 * else `unknown-producer` (stricter than Kafka, which stores such a batch, possibly for the second time).
 */
import { crc32c } from '@node-rs/crc32';
import { PenstockError } from '../../errors.ts';
import { IN_FLIGHT_MAX } from '../log.ts';
import { sequenceAfter, type BatchHeader } from '../record-batch.ts';

const PRODUCERS_MAX = 10_000;
const MAGIC = 0x50535031;
const SNAPSHOT_HEADER_BYTES = 20;
const PRODUCER_BYTES = 12;
const BATCH_ENTRY_BYTES = 16;

interface StoredBatch {
  readonly baseSequence: number;
  readonly lastSequence: number;
  readonly baseOffset: bigint;
}

interface Producer {
  readonly epoch: number;
  /** Ascending, at most IN_FLIGHT_MAX. */
  readonly batches: readonly StoredBatch[];
}

export class ProducerStates {
  /** In the order of the last append, so that the first is the longest silent. */
  readonly #producers: Map<bigint, Producer>;
  #nextOffset: bigint;

  constructor(nextOffset: bigint, producers = new Map<bigint, Producer>()) {
    this.#nextOffset = nextOffset;
    this.#producers = producers;
  }

  /** Every batch below it is taken into account. */
  get nextOffset(): bigint {
    return this.#nextOffset;
  }

  /** The offset under which the batch was stored before, or null when it is the next one. Throws `out-of-order`, `unknown-producer`. */
  check(batch: BatchHeader, where: string): bigint | null {
    if (batch.producerId < 0n) return null;
    const producer = this.#producers.get(batch.producerId);
    const last = producer?.batches.at(-1);
    if (producer === undefined || last === undefined) {
      if (batch.baseSequence === 0) return null;
      throw new PenstockError(
        'unknown-producer',
        `${where}: producer ${batch.producerId} begins at sequence ${batch.baseSequence}; it is not known, or no longer`,
      );
    }
    if (batch.producerEpoch === producer.epoch) {
      const lastSequence = sequenceAfter(batch.baseSequence, batch.lastOffsetDelta);
      const repeat = producer.batches.find(
        (stored) => stored.baseSequence === batch.baseSequence && stored.lastSequence === lastSequence,
      );
      if (repeat !== undefined) return repeat.baseOffset;
      if (batch.baseSequence === sequenceAfter(last.lastSequence, 1)) return null;
    } else if (batch.producerEpoch > producer.epoch && batch.baseSequence === 0) {
      return null;
    }
    throw new PenstockError(
      'out-of-order',
      `${where}: producer ${batch.producerId} epoch ${batch.producerEpoch} sequence ${batch.baseSequence} ` +
        `does not follow epoch ${producer.epoch} sequence ${last.lastSequence}`,
    );
  }

  /** Takes a stored batch into account; its base offset is `nextOffset`. */
  record(batch: BatchHeader): void {
    const baseOffset = this.#nextOffset;
    this.#nextOffset += BigInt(batch.lastOffsetDelta + 1);
    if (batch.producerId < 0n) return;
    const known = this.#producers.get(batch.producerId);
    const earlier = known?.epoch === batch.producerEpoch ? known.batches : [];
    const lastSequence = sequenceAfter(batch.baseSequence, batch.lastOffsetDelta);
    this.#producers.delete(batch.producerId);
    this.#producers.set(batch.producerId, {
      epoch: batch.producerEpoch,
      batches: [...earlier.slice(1 - IN_FLIGHT_MAX), { baseSequence: batch.baseSequence, lastSequence, baseOffset }],
    });
    if (this.#producers.size > PRODUCERS_MAX) {
      const [silent] = this.#producers.keys();
      if (silent !== undefined) this.#producers.delete(silent);
    }
  }

  encode(): Buffer {
    let size = SNAPSHOT_HEADER_BYTES;
    for (const { batches } of this.#producers.values()) size += PRODUCER_BYTES + batches.length * BATCH_ENTRY_BYTES;
    const bytes = Buffer.alloc(size);
    bytes.writeUInt32BE(MAGIC, 0);
    bytes.writeBigInt64BE(this.#nextOffset, 8);
    let at = bytes.writeUInt32BE(this.#producers.size, 16);
    for (const [id, producer] of this.#producers) {
      at = bytes.writeBigInt64BE(id, at);
      at = bytes.writeInt16BE(producer.epoch, at);
      at = bytes.writeUInt16BE(producer.batches.length, at);
      for (const batch of producer.batches) {
        at = bytes.writeInt32BE(batch.baseSequence, at);
        at = bytes.writeInt32BE(batch.lastSequence, at);
        at = bytes.writeBigInt64BE(batch.baseOffset, at);
      }
    }
    bytes.writeUInt32BE(crc32c(bytes.subarray(8)), 4);
    return bytes;
  }

  /** Undefined when the bytes are no whole snapshot: it is a cache, the log is read instead. */
  static decode(bytes: Buffer): ProducerStates | undefined {
    if (bytes.length < SNAPSHOT_HEADER_BYTES || bytes.readUInt32BE(0) !== MAGIC) return undefined;
    if (bytes.readUInt32BE(4) !== crc32c(bytes.subarray(8))) return undefined;
    const producers = new Map<bigint, Producer>();
    const count = bytes.readUInt32BE(16);
    let at = SNAPSHOT_HEADER_BYTES;
    for (let i = 0; i < count; i++) {
      const batches: StoredBatch[] = [];
      const batchCount = bytes.readUInt16BE(at + 10);
      for (let k = 0, from = at + PRODUCER_BYTES; k < batchCount; k++, from += BATCH_ENTRY_BYTES) {
        batches.push({
          baseSequence: bytes.readInt32BE(from),
          lastSequence: bytes.readInt32BE(from + 4),
          baseOffset: bytes.readBigInt64BE(from + 8),
        });
      }
      producers.set(bytes.readBigInt64BE(at), { epoch: bytes.readInt16BE(at + 8), batches });
      at += PRODUCER_BYTES + batchCount * BATCH_ENTRY_BYTES;
    }
    return new ProducerStates(bytes.readBigInt64BE(8), producers);
  }
}
