/**
 * The uplink: takes readings out of the spool and delivers them into a Log, each exactly once, those of a sensor in order.
 *
 * Readings are spread over the partitions of their topic by key (partitioner.ts); each partition has a lane (lane.ts) that sends
 * its batches in order under durable intents (send-intents.ts).
 *
 * Invariants
 * - The spool is acknowledged up to the highest sequence number below which everything is stored, given up or a recorded gap.
 * - A reading goes to a lane once: a start first settles the batches that were perhaps sent (read back, then the same bytes under
 *   the same identity), and goes on behind what intents cover.
 * Failure: kill -9 anywhere is repaired by the next start from the intent file. Errors of the log are retried for ever and shown in
 * `status()`. If the intent file is lost, readings that were stored but not yet acknowledged in the spool are stored again; the
 * lander drops them by identity.
 * Limits: `bytesInMemoryMax` in all lanes; more stays in the spool. The partition count of a topic is looked up at the start; a topic
 * that is made anew with fewer partitions is served after a restart.
 */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../lib/clock.ts';
import { describeError } from '../../lib/errors.ts';
import { BATCH_BYTES_MAX, type Log, type TopicInfo, type TopicOptions } from '../../lib/log/log.ts';
import type { SpoolReader, SpooledReading } from '../spool/spool-reader.ts';
import { Backoff, type BackoffOptions } from './backoff.ts';
import { Lane, type LaneContext } from './lane.ts';
import { partitionOf } from './partitioner.ts';
import { Quarantine } from './quarantine.ts';
import { findStored } from './read-back.ts';
import { ReadingEncoder } from './reading-record.ts';
import { SendIntents, type SendIntent } from './send-intents.ts';

const READ_BYTES = 1 << 20;

export interface UplinkOptions {
  readonly log: Log;
  readonly spool: SpoolReader;
  /** Holds `intents` and `quarantine.ndjson`; of this agent alone. */
  readonly directory: string;
  /** For topics that do not exist yet. */
  readonly topics: TopicOptions;
  readonly compression: 'none' | 'zstd';
  /** How long a batch that is not full waits for more readings. */
  readonly lingerMs: number;
  readonly bytesInMemoryMax: number;
  readonly backoff: BackoffOptions;
  readonly clock: Clock;
}

export interface UplinkStatus {
  /** Readings stored by this run, batches found stored at the start included. */
  readonly delivered: number;
  /** Their bytes as sent. */
  readonly bytes: number;
  /** Batches sent and not answered. */
  readonly inFlight: number;
  /** Readings in the spool that are not acknowledged to it. */
  readonly lag: bigint;
  readonly quarantined: number;
  /** Damaged files that were set aside at the start. */
  readonly setAside: readonly string[];
  /** What went wrong since the last delivery. */
  readonly lastError: { readonly message: string; readonly atMs: number } | null;
}

interface TopicState {
  readonly info: TopicInfo;
  readonly lanes: readonly Lane[];
  /** What earlier runs gave to a lane: by incarnation and partition count, the last sequence number of each partition. */
  readonly covered: ReadonlyMap<string, ReadonlyMap<number, readonly bigint[]>>;
  /** Read from the spool so far. */
  readSeq: bigint;
  acknowledged: bigint;
}

export class Uplink {
  readonly #options: UplinkOptions;
  readonly #intents: SendIntents;
  readonly #quarantine: Quarantine;
  readonly #context: LaneContext;
  readonly #stop = new AbortController();
  readonly #topics = new Map<string, TopicState>();
  #delivered = 0;
  #bytes = 0;
  #lastError: UplinkStatus['lastError'] = null;
  #progress: (() => void)[] = [];
  #addition: Promise<void> | undefined;
  #running: Promise<void> = Promise.resolve();

  private constructor(options: UplinkOptions, intents: SendIntents) {
    this.#options = options;
    this.#intents = intents;
    this.#quarantine = new Quarantine(join(options.directory, 'quarantine.ndjson'), options.clock);
    this.#context = {
      log: options.log,
      encoder: new ReadingEncoder(),
      intents,
      quarantine: this.#quarantine,
      backoff: new Backoff(options.backoff),
      compression: options.compression,
      signal: this.#stop.signal,
      nowMs: () => options.clock.nowMs(),
      ensureTopic: (name) => options.log.ensureTopic(name, options.topics),
      builders: [],
      onDelivered: (readings, bytes) => {
        this.#lastError = null;
        this.#delivered += readings;
        this.#bytes += bytes;
      },
      onError: (error) => this.#noteError(error),
      onProgress: () => this.#onProgress(),
    };
  }

  /** Starts sending in the background. Throws when the intent file cannot be used; errors of the log only show in `status()`. */
  static async start(options: UplinkOptions): Promise<Uplink> {
    const path = join(options.directory, 'intents');
    const intents = await SendIntents.open(path, (topic) => options.spool.durablyAcknowledged(topic));
    const uplink = new Uplink(options, intents);
    uplink.#running = uplink.#run();
    return uplink;
  }

  status(): UplinkStatus {
    const { spool } = this.#options;
    let lag = 0n;
    for (const topic of new Set([...spool.topics(), ...this.#topics.keys()])) {
      lag += spool.lastSeq(topic) - (this.#topics.get(topic)?.acknowledged ?? spool.durablyAcknowledged(topic));
    }
    return {
      delivered: this.#delivered,
      bytes: this.#bytes,
      inFlight: this.#lanes().reduce((sum, lane) => sum + lane.inFlight, 0),
      lag,
      quarantined: this.#quarantine.count,
      setAside: this.#intents.setAside === undefined ? [] : [this.#intents.setAside],
      lastError: this.#lastError,
    };
  }

  /** Waits until everything in the spool is delivered; false when the deadline came first. Goes on sending either way. */
  async drain(deadlineMs: number): Promise<boolean> {
    const deadline = this.#options.clock.monotonicMs() + deadlineMs;
    while (this.status().lag > 0n) {
      const leftMs = deadline - this.#options.clock.monotonicMs();
      if (leftMs <= 0) return false;
      const timer = new AbortController();
      await Promise.race([
        this.#nextProgress(),
        delay(leftMs, undefined, { signal: timer.signal }).catch(() => {
          // Progress came first.
        }),
      ]);
      timer.abort();
    }
    return true;
  }

  /** Stops; what is in flight is answered first. What is not delivered stays in the spool. */
  async close(): Promise<void> {
    this.#stop.abort();
    this.#onProgress();
    await this.#running;
    await Promise.all(this.#lanes().map((lane) => lane.closed()));
    await this.#intents.close();
    await this.#quarantine.close();
  }

  async #run(): Promise<void> {
    for (let attempt = 0; !this.#isStopped();) {
      try {
        // Asked before reading: what is added while we read must not be slept over.
        const added = this.#nextAddition();
        await this.#settleTopicsOfIntents();
        await this.#moveAll();
        if (this.#lanes().some((lane) => lane.isFilling)) {
          await delay(this.#options.lingerMs, undefined, { signal: this.#stop.signal });
          await this.#moveAll();
          for (const lane of this.#lanes()) lane.flush();
        }
        attempt = 0;
        await added;
      } catch (error) {
        if (this.#isStopped()) return;
        this.#noteError(error);
        await this.#context.backoff.wait(attempt++, this.#stop.signal);
      }
    }
  }

  #isStopped(): boolean {
    return this.#stop.signal.aborted;
  }

  /** One question to the spool at a time, however often a round fails before it is answered. */
  #nextAddition(): Promise<void> {
    if (this.#addition === undefined) {
      this.#addition = this.#options.spool.wait(this.#stop.signal).finally(() => {
        this.#addition = undefined;
      });
      this.#addition.catch(() => {
        // Aborted, perhaps while nobody waits for it.
      });
    }
    return this.#addition;
  }

  /** Topics with open intents are served first, even when the spool has nothing new for them. */
  async #settleTopicsOfIntents(): Promise<void> {
    for (const { topic } of this.#intents.unresolved()) await this.#topic(topic);
  }

  /** Everything that the spool has goes into the lanes, as far as there is room; the topics take turns. */
  async #moveAll(): Promise<void> {
    for (let moved = true; moved && !this.#isStopped();) {
      moved = false;
      for (const name of this.#options.spool.topics()) {
        if (await this.#moveSome(await this.#topic(name))) moved = true;
        await this.#room();
      }
    }
  }

  async #moveSome(topic: TopicState): Promise<boolean> {
    const entries = await this.#options.spool.read(topic.info.name, topic.readSeq, READ_BYTES);
    for (const entry of entries) {
      if (entry.kind === 'reading') await this.#give(topic, entry);
      topic.readSeq = entry.kind === 'reading' ? entry.seq : entry.toSeq;
    }
    this.#acknowledge(topic);
    return entries.length > 0;
  }

  async #give(topic: TopicState, reading: SpooledReading): Promise<void> {
    for (const [partitions, last] of topic.covered.get(reading.incarnation) ?? []) {
      if (reading.seq <= (last[partitionOf(reading.key, reading.seq, partitions)] ?? 0n)) return;
    }
    const lane = topic.lanes[partitionOf(reading.key, reading.seq, topic.info.partitions)];
    if (lane === undefined) throw new RangeError(`topic ${topic.info.name} has no such partition`);
    if (lane.add(reading)) return;
    const bytes = (reading.key?.length ?? 0) + reading.value.length;
    await this.#quarantine.add({
      topic: reading.topic,
      seq: reading.seq,
      reason: `${bytes} bytes do not fit a batch of ${BATCH_BYTES_MAX}`,
      key: reading.key?.toString() ?? null,
      value: reading.value.toString('base64'),
    });
  }

  async #room(): Promise<void> {
    while (!this.#isStopped()) {
      const bytes = this.#lanes().reduce((sum, lane) => sum + lane.outstandingBytes, 0);
      if (bytes < this.#options.bytesInMemoryMax) return;
      for (const lane of this.#lanes()) lane.flush();
      await this.#nextProgress();
    }
  }

  #acknowledge(topic: TopicState): void {
    let upto = topic.readSeq;
    for (const { firstOutstanding } of topic.lanes) {
      if (firstOutstanding !== null && firstOutstanding <= upto) upto = firstOutstanding - 1n;
    }
    if (upto <= topic.acknowledged) return;
    topic.acknowledged = upto;
    this.#options.spool.acknowledge(topic.info.name, upto);
  }

  #onProgress(): void {
    for (const topic of this.#topics.values()) this.#acknowledge(topic);
    for (const resolve of this.#progress.splice(0)) resolve();
  }

  #nextProgress(): Promise<void> {
    return new Promise((resolve) => this.#progress.push(resolve));
  }

  #lanes(): Lane[] {
    return [...this.#topics.values()].flatMap(({ lanes }) => lanes);
  }

  #noteError(error: unknown): void {
    this.#lastError = { message: describeError(error), atMs: this.#options.clock.nowMs() };
  }

  /** The topic with its lanes; the first time, what an earlier run left is settled. */
  async #topic(name: string): Promise<TopicState> {
    const known = this.#topics.get(name);
    if (known !== undefined) return known;
    const { spool, log, topics } = this.#options;
    const info = await log.ensureTopic(name, topics);
    const open = this.#intents.unresolved().filter(({ topic }) => topic === name);
    const stored = await this.#storedOf(info, open);
    const missing: { readonly intent: SendIntent; readonly readings: readonly SpooledReading[] }[] = [];
    for (const intent of open) {
      if (!stored.has(intent.id)) missing.push({ intent, readings: await this.#readingsOf(intent) });
    }
    const lanes = await Promise.all(
      Array.from({ length: info.partitions }, (_, partition) => Lane.open(this.#context, info, partition)),
    );
    // From here on nothing can fail: the lanes live, and are known.
    for (const intent of open) {
      if (!stored.has(intent.id)) continue;
      this.#context.onDelivered(intent.records, intent.bytes);
      this.#intents.resolve(intent);
    }
    const covered = this.#coveredOf(name);
    for (const { intent, readings } of missing) {
      // A partition that is not there any more: its readings go the way of the first.
      (lanes[intent.partition] ?? lanes[0])?.restore(intent, readings);
    }
    for (const lane of lanes) lane.start();
    const acknowledged = spool.durablyAcknowledged(name);
    const state: TopicState = { info, lanes, covered, readSeq: acknowledged, acknowledged };
    this.#topics.set(name, state);
    return state;
  }

  async #storedOf(info: TopicInfo, open: readonly SendIntent[]): Promise<ReadonlySet<number>> {
    const stored = new Set<number>();
    for (let partition = 0; partition < info.partitions; partition++) {
      // Of a topic that was made anew nothing that was sent is left.
      const intents = open.filter((intent) => intent.partition === partition && intent.topicId === info.id);
      const found = await findStored(this.#options.log, intents, this.#stop.signal);
      for (const id of found) stored.add(id);
    }
    return stored;
  }

  /** The readings of an intent, from the spool: those of its range that go to its partition. */
  async #readingsOf(intent: SendIntent): Promise<SpooledReading[]> {
    const readings: SpooledReading[] = [];
    for (let after = intent.first - 1n; after < intent.last;) {
      const entries = await this.#options.spool.read(intent.topic, after, READ_BYTES);
      if (entries.length === 0) break;
      for (const entry of entries) {
        after = entry.kind === 'reading' ? entry.seq : entry.toSeq;
        if (entry.kind === 'gap' || entry.seq > intent.last || entry.incarnation !== intent.incarnation) continue;
        if (partitionOf(entry.key, entry.seq, intent.partitions) === intent.partition) readings.push(entry);
      }
    }
    return readings;
  }

  #coveredOf(name: string): TopicState['covered'] {
    const covered = new Map<string, Map<number, bigint[]>>();
    for (const { key, last } of this.#intents.covered()) {
      if (key.topic !== name) continue;
      const counts = covered.get(key.incarnation) ?? new Map<number, bigint[]>();
      const partitions = counts.get(key.partitions) ?? new Array<bigint>(key.partitions).fill(0n);
      partitions[key.partition] = last;
      covered.set(key.incarnation, counts.set(key.partitions, partitions));
    }
    return covered;
  }
}
