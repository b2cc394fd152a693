/**
 * A lane: the batches of one partition on their way into the log, in order.
 *
 * Invariants
 * - Every batch has a durable send intent before its bytes go out, and at most IN_FLIGHT_MAX are out.
 * - After an error nothing new goes out until all answers are in; then what is not acknowledged is sent again, in order and under the
 *   same identity. So a batch is stored once, however often its answer is lost.
 * - A new identity for a batch is taken only after the log itself said that the old one will not do, and after reading back that
 *   the batch is not stored; one intent line replaces the old intent by the new ones.
 * Failure: errors are retried for ever with backoff and jitter, and shown; nothing is given up except single readings that the log
 * calls too large, which go to the quarantine.
 * Limits: the uplink bounds the bytes in all lanes; a batch is at most BATCH_CAPACITY_BYTES.
 */
import { RecordBatchBuilder } from '../../lib/log/batch-builder.ts';
import { BATCH_BYTES_MAX, IN_FLIGHT_MAX, type Log, type LogProducer, type TopicInfo } from '../../lib/log/log.ts';
import { readBatchHeader, sequenceAfter } from '../../lib/log/record-batch.ts';
import { isCode } from '../../lib/errors.ts';
import type { SpooledReading } from '../spool/spool-reader.ts';
import type { Backoff } from './backoff.ts';
import type { Quarantine } from './quarantine.ts';
import { findStored } from './read-back.ts';
import { recordsOf, type ReadingEncoder } from './reading-record.ts';
import type { NewIntent, SendIntent, SendIntents } from './send-intents.ts';

/** Room for what zstd adds to bytes that do not compress (0.4 %). */
const BATCH_CAPACITY_BYTES = BATCH_BYTES_MAX - 8192;
/** A batch is sealed when it reaches this: large enough for a broker, small enough that five of them are little to send again. */
const BATCH_TARGET_BYTES = 512 * 1024;

export interface LaneContext {
  readonly log: Log;
  readonly encoder: ReadingEncoder;
  readonly intents: SendIntents;
  readonly quarantine: Quarantine;
  readonly backoff: Backoff;
  readonly compression: 'none' | 'zstd';
  readonly signal: AbortSignal;
  readonly nowMs: () => number;
  /** Makes the topic if it is missing, as configured. */
  readonly ensureTopic: (name: string) => Promise<TopicInfo>;
  /** Builders are large and rarely filled all at once: empty ones are shared. */
  readonly builders: RecordBatchBuilder[];
  readonly onDelivered: (readings: number, bytes: number) => void;
  readonly onError: (error: unknown) => void;
  /** Something was delivered or given up: room and acknowledgements may have moved. */
  readonly onProgress: () => void;
}

interface Batch {
  readonly bytes: Buffer;
  readonly intent: SendIntent;
  state: 'waiting' | 'sent';
  error?: unknown;
}

export class Lane {
  readonly #context: LaneContext;
  readonly #topic: TopicInfo;
  readonly #partition: number;
  #topicId: string;
  #producer: LogProducer;
  #nextSequence = 0;
  /** Where the next batch lies or behind it. */
  #fromOffset: bigint;
  #targetBytes = BATCH_TARGET_BYTES;
  /** Neither stored nor given up, in order. */
  #queue: Batch[] = [];
  #queuedBytes = 0;
  #builder: RecordBatchBuilder | undefined;
  /** A batch holds readings of one incarnation. */
  #builderIncarnation = '';
  #builderFirst = 0n;
  #builderLast = 0n;
  #inFlight = 0;
  #attempt = 0;
  #changed: (() => void) | undefined;
  #running: Promise<void> = Promise.resolve();

  private constructor(context: LaneContext, topic: TopicInfo, partition: number, producer: LogProducer, end: bigint) {
    this.#context = context;
    this.#topic = topic;
    this.#topicId = topic.id;
    this.#partition = partition;
    this.#producer = producer;
    this.#fromOffset = end;
  }

  static async open(context: LaneContext, topic: TopicInfo, partition: number): Promise<Lane> {
    const producer = await context.log.producer();
    const { end } = await context.log.offsets(topic.name, partition);
    return new Lane(context, topic, partition, producer, end);
  }

  /** The lowest sequence number on its way, or null when there is none. */
  get firstOutstanding(): bigint | null {
    const building = this.#builder === undefined ? null : this.#builderFirst;
    return this.#queue.reduce<bigint | null>(
      (least, { intent }) => (least === null || intent.first < least ? intent.first : least),
      building,
    );
  }

  get outstandingBytes(): number {
    return this.#queuedBytes + (this.#builder?.bytes ?? 0);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Adds were made to a batch that is not flushed. */
  get isFilling(): boolean {
    return this.#builder !== undefined;
  }

  start(): void {
    this.#running = this.#run();
  }

  /**
   * Takes up a batch of an earlier run that is not stored; `readings` are those of its intent that the spool still has. It goes out under
   * its old identity when they are all there: should the first sending arrive late after all, it is stored once.
   */
  restore(intent: SendIntent, readings: readonly SpooledReading[]): void {
    const isSamePlace =
      intent.topicId === this.#topicId &&
      intent.partitions === this.#topic.partitions &&
      intent.partition === this.#partition;
    const builder = this.#takeBuilder();
    if (
      isSamePlace &&
      readings.length === intent.records &&
      readings.every((reading) => this.#context.encoder.add(builder, reading, intent.timestampMs))
    ) {
      this.#enqueue(intent, builder.seal(intent, this.#context.compression));
      this.#context.builders.push(builder);
    } else {
      this.#resend(intent, readings);
    }
  }

  #resend(old: SendIntent, readings: readonly SpooledReading[]): void {
    const builder = this.#takeBuilder();
    const parts: { first: bigint; last: bigint; batch: Buffer; intent: NewIntent }[] = [];
    let first: bigint | undefined;
    let last = 0n;
    const seal = (): void => {
      if (first !== undefined) parts.push(this.#seal(builder, old.incarnation, first, last));
      first = undefined;
    };
    for (const reading of readings) {
      if (!this.#context.encoder.add(builder, reading, this.#context.nowMs())) {
        seal();
        this.#context.encoder.add(builder, reading, this.#context.nowMs());
      }
      first ??= reading.seq;
      last = reading.seq;
    }
    seal();
    this.#context.builders.push(builder);
    const made = this.#context.intents.replace(
      [old],
      parts.map(({ intent }) => intent),
    );
    for (const [index, intent] of made.entries()) {
      const part = parts[index];
      if (part !== undefined) this.#enqueue(intent, part.batch);
    }
  }

  /** False: the reading alone is too large for any batch. */
  add(reading: SpooledReading): boolean {
    if (this.#builder !== undefined && this.#builderIncarnation !== reading.incarnation) this.flush();
    const timestampMs = this.#context.nowMs();
    if (!this.#context.encoder.add(this.#openBuilder(reading), reading, timestampMs)) {
      this.flush();
      if (!this.#context.encoder.add(this.#openBuilder(reading), reading, timestampMs)) {
        this.#releaseBuilder();
        return false;
      }
    }
    this.#builderLast = reading.seq;
    if (this.#builder !== undefined && this.#builder.bytes >= this.#targetBytes) this.flush();
    return true;
  }

  /** Sends what has been added, however little. */
  flush(): void {
    const builder = this.#builder;
    if (builder === undefined || builder.records === 0) return;
    const { batch, intent } = this.#seal(builder, this.#builderIncarnation, this.#builderFirst, this.#builderLast);
    this.#releaseBuilder();
    this.#enqueue(this.#context.intents.record(intent), batch);
    this.#wake();
  }

  /** Ends after the context's signal fired and every answer is in. */
  async closed(): Promise<void> {
    await this.#running;
  }

  #openBuilder(reading: SpooledReading): RecordBatchBuilder {
    if (this.#builder === undefined) {
      this.#builder = this.#takeBuilder();
      this.#builderFirst = reading.seq;
      this.#builderIncarnation = reading.incarnation;
    }
    return this.#builder;
  }

  #takeBuilder(): RecordBatchBuilder {
    return this.#context.builders.pop() ?? new RecordBatchBuilder(BATCH_CAPACITY_BYTES);
  }

  #releaseBuilder(): void {
    if (this.#builder !== undefined) this.#context.builders.push(this.#builder);
    this.#builder = undefined;
  }

  #seal(
    builder: RecordBatchBuilder,
    incarnation: string,
    first: bigint,
    last: bigint,
  ): { first: bigint; last: bigint; batch: Buffer; intent: NewIntent } {
    const { producerId, producerEpoch } = this.#producer;
    const baseSequence = this.#nextSequence;
    const { records } = builder;
    this.#nextSequence = sequenceAfter(baseSequence, records);
    const batch = builder.seal({ producerId, producerEpoch, baseSequence }, this.#context.compression);
    const header = readBatchHeader(batch, 0, this.#topic.name);
    const intent: NewIntent = {
      topic: this.#topic.name,
      incarnation,
      partitions: this.#topic.partitions,
      partition: this.#partition,
      topicId: this.#topicId,
      producerId,
      producerEpoch,
      baseSequence,
      first,
      last,
      records,
      timestampMs: header.baseTimestampMs,
      crc: header.crc,
      bytes: batch.length,
      fromOffset: this.#fromOffset,
    };
    return { first, last, batch, intent };
  }

  #enqueue(intent: SendIntent, bytes: Buffer): void {
    this.#queue.push({ intent, bytes, state: 'waiting' });
    this.#queuedBytes += bytes.length;
  }

  #wake(): void {
    this.#changed?.();
  }

  async #run(): Promise<void> {
    const { signal, backoff } = this.#context;
    const changed = (): Promise<void> =>
      new Promise((resolve) => {
        this.#changed = resolve;
      });
    signal.addEventListener('abort', () => this.#wake());
    while (!signal.aborted || this.#inFlight > 0) {
      const wait = changed();
      const failed = this.#queue.find((batch) => batch.error !== undefined);
      if (failed !== undefined && this.#inFlight === 0 && !signal.aborted) {
        await backoff.wait(this.#attempt++, signal);
        await this.#recover(failed).catch(this.#context.onError);
        continue;
      }
      if (failed === undefined && !signal.aborted) {
        if (await this.#sendWaiting()) continue;
      }
      await wait;
    }
  }

  /** Sends what may be sent; true when it has to be tried again after a pause that is over. */
  async #sendWaiting(): Promise<boolean> {
    // One identity at a time: a batch of the next one must not overtake a batch of the last one that has to be sent again.
    const producerId = this.#queue[0]?.intent.producerId;
    const waiting = this.#queue
      .filter(({ state, intent }) => state === 'waiting' && intent.producerId === producerId)
      .slice(0, IN_FLIGHT_MAX - this.#inFlight);
    if (waiting.length === 0) return false;
    try {
      await this.#context.intents.sync();
    } catch (error) {
      this.#context.onError(error);
      await this.#context.backoff.wait(1, this.#context.signal);
      return true;
    }
    if (this.#context.signal.aborted || this.#queue.some((batch) => batch.error !== undefined)) return true;
    for (const batch of waiting) this.#send(batch);
    return false;
  }

  #send(batch: Batch): void {
    batch.state = 'sent';
    this.#inFlight++;
    this.#producer
      .append(this.#topic.name, this.#partition, batch.bytes)
      .then(
        ({ baseOffset }) => {
          const behind = baseOffset + BigInt(batch.intent.records);
          if (behind > this.#fromOffset) this.#fromOffset = behind;
          this.#attempt = 0;
          this.#context.onDelivered(batch.intent.records, batch.bytes.length);
          this.#finish(batch);
        },
        (error: unknown) => {
          batch.error = error;
          this.#context.onError(error);
        },
      )
      .finally(() => {
        this.#inFlight--;
        this.#wake();
      });
  }

  /** Stored or given up. */
  #finish(batch: Batch): void {
    this.#queue = this.#queue.filter((other) => other !== batch);
    this.#queuedBytes -= batch.bytes.length;
    this.#context.intents.resolve(batch.intent);
    this.#context.onProgress();
  }

  /** All answers are in and at least one is an error; the first in order decides, the others may follow from it. */
  async #recover(failed: Batch): Promise<void> {
    const { error } = failed;
    if (isCode(error, 'not-found')) {
      const topic = await this.#context.ensureTopic(this.#topic.name);
      if (topic.id === this.#topicId) {
        this.#sendAgain();
      } else {
        this.#topicId = topic.id;
        this.#fromOffset = 0n;
        await this.#renew();
      }
    } else if (isCode(error, 'out-of-order', 'unknown-producer', 'fenced')) {
      await this.#renew();
    } else if (isCode(error, 'too-large')) {
      if (failed.intent.records === 1) await this.#giveUp(failed, error.message);
      else this.#targetBytes = Math.max(1, Math.floor(failed.intent.bytes / 2));
      await this.#renew();
    } else {
      this.#sendAgain();
    }
  }

  #sendAgain(): void {
    for (const batch of this.#queue) {
      batch.state = 'waiting';
      delete batch.error;
    }
  }

  async #giveUp(batch: Batch, reason: string): Promise<void> {
    const { topic } = batch.intent;
    for (const record of recordsOf(batch.bytes, topic)) {
      await this.#context.quarantine.add({ topic, seq: record.seq, reason, ...record.describe() });
    }
    this.#finish(batch);
  }

  /** What is not stored gets a new producer; a batch is cut where it is above the target, and never merged with another. */
  async #renew(): Promise<void> {
    const { log, signal, intents, builders } = this.#context;
    const known = this.#queue.filter(({ intent }) => intent.topicId === this.#topicId).map(({ intent }) => intent);
    const stored = await findStored(log, known, signal);
    this.#producer = await log.producer();
    this.#nextSequence = 0;
    for (const batch of [...this.#queue]) {
      if (!stored.has(batch.intent.id)) continue;
      this.#context.onDelivered(batch.intent.records, batch.bytes.length);
      this.#finish(batch);
    }
    const old = this.#queue;
    const parts: { batch: Buffer; intent: NewIntent }[] = [];
    const builder = this.#takeBuilder();
    for (const { bytes, intent } of old) {
      let first: bigint | undefined;
      let last = 0n;
      let size = 0;
      for (const record of recordsOf(bytes, intent.topic)) {
        if (first !== undefined && (size + record.bytes > this.#targetBytes || !record.addTo(builder))) {
          parts.push(this.#seal(builder, intent.incarnation, first, last));
          first = undefined;
          size = 0;
          record.addTo(builder);
        } else if (first === undefined) {
          record.addTo(builder);
        }
        first ??= record.seq;
        last = record.seq;
        size += record.bytes;
      }
      if (first !== undefined) parts.push(this.#seal(builder, intent.incarnation, first, last));
    }
    builders.push(builder);
    const made = intents.replace(
      old.map(({ intent }) => intent),
      parts.map(({ intent }) => intent),
    );
    this.#queue = [];
    this.#queuedBytes = 0;
    for (const [index, intent] of made.entries()) {
      const part = parts[index];
      if (part !== undefined) this.#enqueue(intent, part.batch);
    }
  }
}
