/**
 * A lane: the batches of one partition on their way into the log, in order. Under `liveFirst` a partition has two of them, each with a
 * producer of its own, because the log takes a producer's batches in the order of their sequences only: one for the present and one
 * for the backlog (`isReplay`), whose readings carry the mark.
 *
 * Invariants
 * - Every batch has a durable send intent before its bytes go out, and at most IN_FLIGHT_MAX are out.
 * - After an error nothing new goes out until all answers are in; then what is not acknowledged is sent again, in order and under the
 *   same identity. So a batch is stored once, however often its answer is lost.
 * - A new identity for a batch is taken only after the log itself said that the old one will not do, and after reading back that
 *   the batch is not stored; one intent line replaces the old intent by the new ones.
 * - A batch holds every reading of its partition from its first to its last: by that the next start finds those of a batch in doubt in the
 *   spool. So none goes on behind readings that somebody else delivers (`skipTo`).
 * Failure: errors are retried for ever with backoff and jitter, with one batch at a time, and shown (`problem`); nothing is given up except single readings that the log
 * calls too large, which go to the quarantine and are told of.
 * Limits: the uplink bounds the bytes in all lanes; a batch is at most BATCH_CAPACITY_BYTES.
 */
import type { RecordBatchBuilder } from '../../lib/log/batch-builder.ts';
import { IN_FLIGHT_MAX, type Log, type LogProducer, type TopicInfo } from '../../lib/log/log.ts';
import { isCode } from '../../lib/errors.ts';
import type { SpooledReading } from '../spool/spool-reader.ts';
import { BatchMaker, type Part } from './batch-maker.ts';
import { KnownEnd, type LogCut } from './known-end.ts';
import type { UplinkBudget } from './uplink-budget.ts';
import type { Quarantined } from './quarantine.ts';
import { findStored } from './read-back.ts';
import { recordsOf, type ReadingEncoder } from './reading-record.ts';
import { problemOf, type StepContext, type UplinkProblem } from './retried-step.ts';
import type { SendIntent, SendIntents } from './send-intents.ts';

/** A batch is sealed when it reaches this: large enough for a broker, small enough that five of them are little to send again. */
export const BATCH_TARGET_BYTES = 512 * 1024;
/** The broker, the disk and the link work on what is out of a backlog while the present waits for them. */
const REPLAY_IN_FLIGHT_MAX = 2;
/** Whoever refuses a time takes none that is nearer to it. */
const OTHER_TIME_MS = 1000;

export interface LaneContext extends StepContext {
  readonly log: Log;
  readonly encoder: ReadingEncoder;
  readonly intents: SendIntents;
  readonly budget: UplinkBudget;
  /** Where a batch is sealed, at most BATCH_TARGET_BYTES. */
  readonly targetBytes: number;
  readonly compression: 'none' | 'zstd';
  readonly monotonicMs: () => number;
  /** Makes the topic if it is missing, as configured. */
  readonly ensureTopic: (name: string) => Promise<TopicInfo>;
  /** Builders are large and rarely filled all at once: empty ones are shared. */
  readonly builders: RecordBatchBuilder[];
  /** Resolves when a reading that no log will take is quarantined, and the spool has passed it with a record. */
  readonly giveUp: (reading: Quarantined) => Promise<void>;
  readonly onDelivered: (intent: SendIntent, bytes: number) => void;
  readonly onCut: (cut: LogCut) => void;
  /** The topic was made anew with another number of partitions: this lane's readings belong elsewhere. */
  readonly onOtherPartitions: () => void;
}

interface Batch {
  readonly bytes: Buffer;
  readonly intent: SendIntent;
  /** The highest of its readings. */
  readonly priority: number;
  state: 'waiting' | 'sent';
  error?: unknown;
}

/** What the builder holds, and what its batch will cover. */
interface Filling {
  readonly builder: RecordBatchBuilder;
  /** A batch holds readings of one incarnation, all marked as a backlog or none. */
  readonly incarnation: string;
  readonly replayed: boolean;
  readonly first: bigint;
  last: bigint;
  priority: number;
}

export interface LaneOptions {
  readonly partition: number;
  readonly isReplay: boolean;
  /** Up to here its readings are none of its own. */
  readonly coveredTo: bigint;
}

export class Lane {
  readonly isReplay: boolean;
  readonly #context: LaneContext;
  readonly #topic: TopicInfo;
  readonly #partition: number;
  readonly #maker: BatchMaker;
  #coveredTo: bigint;
  /** Neither stored nor given up, in order. */
  #queue: Batch[] = [];
  #queuedBytes = 0;
  #filling: Filling | undefined;
  /** What is filling is to be sealed when there is a place in flight. */
  #isFlushWanted = false;
  #inFlight = 0;
  #attempt = 0;
  #problem: UplinkProblem | null = null;
  #waitingSinceMs: number | null = null;
  #deliveredMs = -Infinity;
  #changed: (() => void) | undefined;
  #running: Promise<void> = Promise.resolve();

  private constructor(
    context: LaneContext,
    topic: TopicInfo,
    options: LaneOptions,
    producer: LogProducer,
    end: KnownEnd,
  ) {
    this.#context = context;
    this.#topic = topic;
    this.#partition = options.partition;
    this.isReplay = options.isReplay;
    this.#coveredTo = options.coveredTo;
    this.#maker = new BatchMaker(context, topic, options.partition, producer, end, context.targetBytes);
  }

  static async open(context: LaneContext, topic: TopicInfo, options: LaneOptions): Promise<Lane> {
    const producer = await context.log.producer({ isBacklog: options.isReplay });
    const offsets = await context.log.offsets(topic.name, options.partition);
    const end = new KnownEnd(context.log, topic.name, options.partition, offsets, context.onCut);
    return new Lane(context, topic, options, producer, end);
  }

  /** The lowest sequence number on its way, or null when there is none. */
  get firstOutstanding(): bigint | null {
    return this.#queue.reduce<bigint | null>(
      (least, { intent }) => (least === null || intent.first < least ? intent.first : least),
      this.#filling?.first ?? null,
    );
  }

  get outstandingBytes(): number {
    return this.#queuedBytes + (this.#filling?.builder.bytes ?? 0);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Why the last attempt failed, if what it was about is still to be sent. */
  get problem(): UplinkProblem | null {
    return this.#queue.length === 0 ? null : this.#problem;
  }

  /** Monotonic: since when there is something and nothing of it went through; null when there is nothing. */
  get waitingSinceMs(): number | null {
    return this.#waitingSinceMs;
  }

  /** Monotonic: when something was stored last. */
  get deliveredMs(): number {
    return this.#deliveredMs;
  }

  /** Adds were made to a batch that is not flushed. */
  get isFilling(): boolean {
    return this.#filling !== undefined;
  }

  start(): void {
    this.#running = this.#run();
  }

  /**
   * Takes up a batch of this partition from an earlier run that is not stored; `readings` are those of its intent that the spool still has.
   * It goes out under its old identity when they are all there: should the first sending arrive late after all, it is stored once.
   */
  restore(intent: SendIntent, readings: readonly SpooledReading[]): void {
    const builder = this.#maker.takeBuilder();
    if (
      intent.topicId === this.#maker.topicId &&
      readings.length === intent.records &&
      readings.every((reading) => this.#context.encoder.add(builder, reading, intent.timestampMs, intent.replayed))
    ) {
      this.#enqueue(intent, builder.seal(intent, this.#context.compression), highestPriority(readings));
      this.#context.builders.push(builder);
    } else {
      const { encoder, nowMs } = this.#context;
      const records = readings.map((reading) => ({
        seq: reading.seq,
        bytes: Math.max(0, reading.place.keyBytes) + reading.place.valueBytes,
        addTo: (target: RecordBatchBuilder) => encoder.add(target, reading, nowMs(), intent.replayed),
      }));
      this.#replace([{ intent, priority: highestPriority(readings) }], [this.#maker.repack(intent, records)]);
    }
  }

  /** False: the reading alone is too large for any batch. */
  add(reading: SpooledReading): boolean {
    const replayed = this.isReplay || reading.replayed;
    const { incarnation } = reading;
    if (this.#filling?.incarnation !== incarnation || this.#filling.replayed !== replayed) this.#seal();
    if (!this.#put(reading, replayed)) {
      this.#seal();
      if (!this.#put(reading, replayed)) return false;
    }
    if (this.#filling !== undefined && this.#filling.builder.bytes >= this.#maker.targetBytes) this.#seal();
    return true;
  }

  /**
   * Sends what has been added, however little, as soon as there is a place in flight: what comes until then goes with it, so that over a
   * slow link many small additions do not become as many batches.
   */
  flush(): void {
    if (this.#filling === undefined) return;
    this.#isFlushWanted = true;
    // After a failure it is not kept waiting: a builder is large, and there may be many lanes that cannot send.
    if (this.#queue.length < IN_FLIGHT_MAX || this.#attempt > 0) this.#seal();
  }

  #seal(): void {
    const filling = this.#filling;
    // Of a lane that has ended nobody would send it, nor resolve its intent: its readings are read again for another lane.
    if (filling === undefined || this.#context.signal.aborted) return;
    this.#isFlushWanted = false;
    const { builder, priority } = filling;
    const { batch, intent } = this.#maker.seal(builder, { ...filling, from: this.#coveredTo + 1n });
    this.#coveredTo = filling.last;
    this.#filling = undefined;
    this.#context.builders.push(builder);
    this.#enqueue(this.#context.intents.record(intent), batch, priority);
    this.#wake();
  }

  /** The next reading comes from behind `seq`; what lies between is somebody else's. */
  skipTo(seq: bigint): void {
    this.#seal();
    this.#coveredTo = seq;
  }

  /** Ends after the context's signal fired and every answer is in. */
  async closed(): Promise<void> {
    await this.#running;
  }

  #put(reading: SpooledReading, replayed: boolean): boolean {
    const builder = this.#filling?.builder ?? this.#maker.takeBuilder();
    const { seq, incarnation, priority } = reading;
    if (!this.#context.encoder.add(builder, reading, this.#context.nowMs(), replayed)) {
      if (this.#filling === undefined) this.#context.builders.push(builder);
      return false;
    }
    this.#filling ??= { builder, incarnation, replayed, first: seq, last: seq, priority };
    this.#waitingSinceMs ??= this.#context.monotonicMs();
    this.#filling.last = seq;
    this.#filling.priority = Math.max(this.#filling.priority, priority);
    return true;
  }

  #replace(old: readonly Pick<Batch, 'intent' | 'priority'>[], parts: readonly (readonly Part[])[]): void {
    const made = this.#context.intents.replace(
      old.map(({ intent }) => intent),
      parts.flat().map(({ intent }) => intent),
    );
    const priorities = parts.flatMap((ofOne, index) => ofOne.map(() => old[index]?.priority ?? 0));
    for (const [index, { batch }] of parts.flat().entries()) {
      const intent = made[index];
      if (intent !== undefined) this.#enqueue(intent, batch, priorities[index] ?? 0);
    }
  }

  #enqueue(intent: SendIntent, bytes: Buffer, priority: number): void {
    this.#queue.push({ intent, bytes, priority, state: 'waiting' });
    this.#queuedBytes += bytes.length;
    this.#waitingSinceMs ??= this.#context.monotonicMs();
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
        await backoff.wait(this.#attempt++, signal, this.#problem?.isRefusal);
        await this.#recover(failed).catch((error: unknown) => this.#noteProblem(error));
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
    if (this.#isFlushWanted) this.flush();
    // One identity at a time: a batch of the next one must not overtake a batch of the last one that has to be sent again.
    const producerId = this.#queue[0]?.intent.producerId;
    // What was refused is tried with one batch: a topic that the log does not take must not eat the budget of others.
    const inFlightMax = this.#attempt > 0 ? 1 : this.isReplay ? REPLAY_IN_FLIGHT_MAX : IN_FLIGHT_MAX;
    const waiting = this.#queue
      .filter(({ state, intent }) => state === 'waiting' && intent.producerId === producerId)
      .slice(0, Math.max(0, inFlightMax - this.#inFlight));
    if (waiting.length === 0) return false;
    try {
      await this.#context.intents.sync();
    } catch (error) {
      this.#noteProblem(error);
      await this.#context.backoff.wait(1, this.#context.signal);
      return true;
    }
    for (const batch of waiting) {
      await this.#context.budget.take(
        batch.bytes.length,
        { isReplay: this.isReplay, priority: batch.priority },
        this.#context.signal,
      );
      if (this.#context.signal.aborted || this.#queue.some(({ error }) => error !== undefined)) return true;
      this.#send(batch);
    }
    return false;
  }

  #send(batch: Batch): void {
    batch.state = 'sent';
    this.#inFlight++;
    this.#maker.producer
      .append(this.#topic.name, this.#partition, batch.bytes)
      .then(
        ({ baseOffset, leaderEpoch }) => {
          this.#maker.end.note(baseOffset + BigInt(batch.intent.records), leaderEpoch);
          this.#attempt = 0;
          this.#delivered(batch);
        },
        (error: unknown) => {
          batch.error = error;
          this.#noteProblem(error);
        },
      )
      .finally(() => {
        this.#inFlight--;
        this.#wake();
      });
  }

  #noteProblem(error: unknown): void {
    this.#problem = problemOf(error, this.#context.nowMs());
  }

  #delivered(batch: Batch): void {
    this.#problem = null;
    this.#deliveredMs = this.#context.monotonicMs();
    this.#context.onDelivered(batch.intent, batch.bytes.length);
    this.#finish(batch);
  }

  /** Stored or given up. */
  #finish(batch: Batch): void {
    this.#queue = this.#queue.filter((other) => other !== batch);
    this.#queuedBytes -= batch.bytes.length;
    this.#waitingSinceMs = this.outstandingBytes === 0 ? null : this.#context.monotonicMs();
    this.#context.intents.resolve(batch.intent);
    this.#context.onProgress();
  }

  /** All answers are in and at least one is an error; the first in order decides, the others may follow from it. */
  async #recover(failed: Batch): Promise<void> {
    const { error } = failed;
    const nowMs = this.#context.nowMs();
    if (isCode(error, 'not-found')) {
      const topic = await this.#context.ensureTopic(this.#topic.name);
      if (topic.id === this.#maker.topicId) {
        // Also where partitions were added: the first sending may still arrive late, and only its own identity makes it the same.
        this.#sendAgain();
      } else if (topic.partitions !== this.#topic.partitions) {
        this.#context.onOtherPartitions();
      } else {
        this.#maker.topicId = topic.id;
        this.#maker.end.reset();
        await this.#renew();
      }
    } else if (isCode(error, 'out-of-order', 'unknown-producer', 'fenced')) {
      await this.#renew();
    } else if (isCode(error, 'too-large')) {
      if (failed.intent.records === 1) await this.#giveUp(failed, error.message);
      else this.#maker.targetBytes = Math.max(1, Math.floor(failed.intent.bytes / 2));
      await this.#renew();
    } else if (isCode(error, 'unsupported') && Math.abs(nowMs - failed.intent.timestampMs) > OTHER_TIME_MS) {
      // Where topics keep the time of their producers, that may be what is refused: of a clock that was set right since, or from before an outage.
      await this.#renew(nowMs);
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
      await this.#context.giveUp({ topic, seq: record.seq, reason, ...record.describe() });
    }
    this.#finish(batch);
  }

  /** What is not stored gets a new producer, and the time if one is given; a batch is cut where it is above the target, and never merged with another. */
  async #renew(givenMs?: number): Promise<void> {
    const { log, signal, onCut } = this.#context;
    const known = this.#queue
      .filter(({ intent }) => intent.topicId === this.#maker.topicId)
      .map(({ intent }) => intent);
    const stored = await findStored(log, known, signal, onCut);
    this.#maker.renew(await log.producer({ isBacklog: this.isReplay }));
    for (const batch of [...this.#queue]) {
      if (!stored.has(batch.intent.id)) continue;
      this.#delivered(batch);
    }
    const old = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#replace(
      old,
      old.map(({ intent, bytes }) => this.#maker.repack(intent, recordsOf(bytes, intent.topic, givenMs))),
    );
  }
}

function highestPriority(readings: readonly SpooledReading[]): number {
  return readings.reduce((highest, { priority }) => Math.max(highest, priority), 0);
}
