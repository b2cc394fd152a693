/**
 * Making batches of a lane: sealed under the producer of the moment, each with the next sequence, and with the intent that says what it
 * covers.
 */
import assert from 'node:assert/strict';
import { RecordBatchBuilder } from '../../lib/log/batch-builder.ts';
import { BATCH_BYTES_MAX, type LogProducer, type TopicInfo } from '../../lib/log/log.ts';
import { readBatchHeader, sequenceAfter } from '../../lib/log/record-batch.ts';
import type { KnownEnd } from './known-end.ts';
import type { RecordCopy } from './reading-record.ts';
import type { NewIntent, SendIntent } from './send-intents.ts';

/** Room for what zstd adds to bytes that do not compress (0.4 %). */
const BATCH_CAPACITY_BYTES = BATCH_BYTES_MAX - 8192;

/** A batch that is sealed and has no intent on disk yet. */
export interface Part {
  readonly batch: Buffer;
  readonly intent: NewIntent;
}

interface MakerOptions {
  readonly compression: 'none' | 'zstd';
  /** Builders are large and rarely filled all at once: empty ones are shared. */
  readonly builders: RecordBatchBuilder[];
}

export class BatchMaker {
  topicId: string;
  /** Where the next batch lies or behind it. */
  readonly end: KnownEnd;
  /** A batch is sealed when it reaches this. */
  targetBytes: number;
  #producer: LogProducer;
  readonly #topic: TopicInfo;
  readonly #partition: number;
  readonly #options: MakerOptions;
  #nextSequence = 0;

  constructor(
    options: MakerOptions,
    topic: TopicInfo,
    partition: number,
    producer: LogProducer,
    end: KnownEnd,
    targetBytes: number,
  ) {
    this.#options = options;
    this.#topic = topic;
    this.topicId = topic.id;
    this.#partition = partition;
    this.#producer = producer;
    this.end = end;
    this.targetBytes = targetBytes;
  }

  get producer(): LogProducer {
    return this.#producer;
  }

  /** A new one counts its sequences from 0. */
  renew(producer: LogProducer): void {
    this.#producer = producer;
    this.#nextSequence = 0;
  }

  takeBuilder(): RecordBatchBuilder {
    return this.#options.builders.pop() ?? new RecordBatchBuilder(BATCH_CAPACITY_BYTES);
  }

  seal(
    builder: RecordBatchBuilder,
    {
      incarnation,
      replayed,
      from,
      first,
      last,
      partitions = this.#topic.partitions,
    }: Pick<NewIntent, 'incarnation' | 'replayed' | 'from' | 'first' | 'last'> & Partial<Pick<NewIntent, 'partitions'>>,
  ): Part {
    const { producerId, producerEpoch } = this.#producer;
    const baseSequence = this.#nextSequence;
    const { records } = builder;
    this.#nextSequence = sequenceAfter(baseSequence, records);
    const batch = builder.seal({ producerId, producerEpoch, baseSequence }, this.#options.compression);
    const header = readBatchHeader(batch, 0, this.#topic.name);
    const intent: NewIntent = {
      topic: this.#topic.name,
      incarnation,
      partitions,
      partition: this.#partition,
      topicId: this.topicId,
      producerId,
      producerEpoch,
      baseSequence,
      from,
      replayed,
      first,
      last,
      records,
      timestampMs: header.baseTimestampMs,
      crc: header.crc,
      bytes: batch.length,
      ...this.end.from,
    };
    return { batch, intent };
  }

  /**
   * The records of a batch in new batches under the present producer, cut where they are above the target; together they cover the same, up to the
   * last record (of an earlier run's batch, the spool may not have those behind it any more). By the number of partitions of old, also where some
   * were added: of the partition of today it does not hold all that lies in between.
   */
  repack(old: SendIntent, records: readonly Pick<RecordCopy, 'seq' | 'bytes' | 'addTo'>[]): Part[] {
    const builder = this.takeBuilder();
    const parts: Part[] = [];
    let { from } = old;
    let first: bigint | undefined;
    let last = 0n;
    let size = 0;
    const seal = (): void => {
      if (first === undefined) return;
      parts.push(this.seal(builder, { ...old, from, first, last }));
      from = last + 1n;
      first = undefined;
      size = 0;
    };
    for (const record of records) {
      if (first === undefined || size + record.bytes > this.targetBytes || !record.addTo(builder)) {
        seal();
        assert(record.addTo(builder), `reading ${record.seq} was in a batch and does not fit an empty one`);
      }
      first ??= record.seq;
      last = record.seq;
      size += record.bytes;
    }
    seal();
    this.#options.builders.push(builder);
    return parts;
  }
}
