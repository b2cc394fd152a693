/**
 * The uplink: takes readings out of the spool and delivers them into a Log, each exactly once, those of a sensor in order (under
 * `liveFirst`: those of the present in order, and those of a backlog in order, marked as such).
 *
 * Readings are spread over the partitions of their topic by key (partitioner.ts); each partition has a lane (lane.ts), or one for the
 * present and one for the backlog, that sends its batches in order under durable intents (send-intents.ts). topic-uplink.ts knows what
 * of a topic is read and delivered; uplink-budget.ts says when a batch may go out.
 *
 * Invariants
 * - The spool is told what is stored, or a recorded gap, and nothing else.
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
import type { Log, TopicOptions } from '../../lib/log/log.ts';
import type { SpoolReader } from '../spool/spool-reader.ts';
import { Backoff, type BackoffOptions } from './backoff.ts';
import { BATCH_TARGET_BYTES, type Lane, type LaneContext } from './lane.ts';
import { Quarantine } from './quarantine.ts';
import { ReadingEncoder } from './reading-record.ts';
import type { UplinkProblem } from './retried-step.ts';
import { SendIntents } from './send-intents.ts';
import { leftOver } from './topic-start.ts';
import { TopicUplink, type UplinkOrder } from './topic-uplink.ts';
import { UplinkBudget, type BudgetOptions, type BudgetStatus } from './uplink-budget.ts';

/** Smaller ones compress badly. */
const BATCH_BYTES_UNDER_BUDGET_MIN = 4096;
/** Above a hiccup of the broker, and short enough that little grows old in memory. */
const STUCK_MS = 2000;

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
  readonly order: UplinkOrder;
  /** By topic: what arrived longer ago is given up, and recorded. */
  readonly maxAgeMs?: Readonly<Record<string, number>>;
  readonly budget: Pick<BudgetOptions, 'bytesPerSecond' | 'bytesPerDay'>;
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
  /** Whether something is sent behind the present. */
  readonly backlog: boolean;
  /** null without a limit. */
  readonly budget: BudgetStatus | null;
  readonly quarantined: number;
  /** Damaged files that were set aside at the start. */
  readonly setAside: readonly string[];
  /** What went wrong since the last delivery, or at the last step of a topic. */
  readonly lastError: UplinkProblem | null;
}

export class Uplink {
  readonly #options: UplinkOptions;
  readonly #intents: SendIntents;
  readonly #quarantine: Quarantine;
  readonly #budget: UplinkBudget;
  readonly #context: LaneContext;
  readonly #stop = new AbortController();
  readonly #topics = new Map<string, TopicUplink>();
  readonly #bytesInMemoryMax: number;
  /** Monotonic: when something of the present was last delivered, or nothing of it was on its way. */
  #liveProgressMs: number;
  #delivered = 0;
  #bytes = 0;
  #lastError: UplinkStatus['lastError'] = null;
  #progress: PromiseWithResolvers<unknown> = Promise.withResolvers();
  #addition: Promise<void> | undefined;
  #running: Promise<void> = Promise.resolve();

  private constructor(options: UplinkOptions, intents: SendIntents, budget: UplinkBudget) {
    this.#options = options;
    this.#intents = intents;
    this.#budget = budget;
    this.#liveProgressMs = options.clock.monotonicMs();
    const targetBytes = batchBytesFor(options.budget.bytesPerSecond);
    // Under a budget, what waits in memory only grows old there.
    this.#bytesInMemoryMax = budget.isLimited
      ? Math.min(options.bytesInMemoryMax, 4 * targetBytes)
      : options.bytesInMemoryMax;
    this.#quarantine = new Quarantine(join(options.directory, 'quarantine.ndjson'), options.clock);
    this.#context = {
      log: options.log,
      encoder: new ReadingEncoder(),
      intents,
      backoff: new Backoff(options.backoff),
      budget,
      targetBytes,
      compression: options.compression,
      signal: this.#stop.signal,
      nowMs: () => options.clock.nowMs(),
      ensureTopic: (name) => options.log.ensureTopic(name, options.topics),
      builders: [],
      giveUp: async (reading) => {
        await this.#quarantine.add(reading);
        const { topic, seq, reason } = reading;
        await options.spool.recordGap({
          kind: 'gap',
          topic,
          fromSeq: seq,
          toSeq: seq,
          reason: `quarantined: ${reason}`,
        });
      },
      onDelivered: (readings, bytes, isReplay) => {
        if (!isReplay) this.#liveProgressMs = options.clock.monotonicMs();
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
    const { clock, directory } = options;
    const budget = await UplinkBudget.open({ ...options.budget, path: join(directory, 'budget.json'), clock });
    const uplink = new Uplink(options, intents, budget);
    uplink.#running = uplink.#run();
    return uplink;
  }

  status(): UplinkStatus {
    const { spool } = this.#options;
    const topics = [...this.#topics.values()];
    let lag = 0n;
    for (const topic of new Set([...spool.topics(), ...this.#topics.keys()])) {
      lag += this.#topics.get(topic)?.lag ?? spool.lastSeq(topic) - spool.durablyAcknowledged(topic);
    }
    return {
      delivered: this.#delivered,
      bytes: this.#bytes,
      inFlight: this.#lanes().reduce((sum, lane) => sum + lane.inFlight, 0),
      lag,
      backlog: topics.some((topic) => topic.hasBacklog),
      budget: this.#budget.isLimited ? this.#budget.status() : null,
      quarantined: this.#quarantine.count,
      setAside: this.#intents.setAside === undefined ? [] : [this.#intents.setAside],
      lastError: this.#lastError ?? topics.find(({ problem }) => problem !== null)?.problem ?? null,
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
        this.#progress.promise,
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
        await this.#round();
        attempt = 0;
      } catch (error) {
        if (this.#isStopped()) return;
        this.#noteError(error);
        await this.#context.backoff.wait(attempt++, this.#stop.signal);
      }
    }
  }

  /** Moves what there is, the present first; one step of the backlog; waits when nothing is left to move. */
  async #round(): Promise<void> {
    // Asked before reading: what is added while we read must not be slept over.
    const added = this.#nextAddition();
    const progress = this.#progress.promise;
    await this.#settleTopicsOfIntents();
    await this.#moveLive();
    const isReplayMoved = await this.#moveReplay();
    if (!isReplayMoved && this.#liveLanes().some((lane) => lane.isFilling)) {
      await delay(this.#options.lingerMs, undefined, { signal: this.#stop.signal });
      await this.#moveLive();
    }
    for (const topic of this.#topics.values()) topic.flushLive();
    if (isReplayMoved) return;
    // Progress is room in the lanes, or the end of a topic's rest.
    await (this.#isStuck() ? progress : Promise.race([added, progress]));
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

  /** Everything new goes into the lanes, as far as there is room; the topics take turns. */
  async #moveLive(): Promise<void> {
    for (let moved = true; moved && !this.#isStopped();) {
      moved = false;
      for (const topic of await this.#topicsByPriority()) {
        if (this.#isStuck()) return;
        if (await topic.moveLive()) moved = true;
        await this.#room();
      }
    }
  }

  /** One step, of the topic with the highest priority that has a backlog; false when there was none, or no room. */
  async #moveReplay(): Promise<boolean> {
    const topic = (await this.#topicsByPriority()).find(
      ({ hasBacklog, isReplayResting }) => hasBacklog && !isReplayResting,
    );
    if (topic === undefined || this.#isStopped()) return false;
    // Half of the memory is the present's.
    if (this.#isStuck() || bytesOf(this.#lanes().filter(({ isReplay }) => isReplay)) >= this.#bytesInMemoryMax / 2) {
      return false;
    }
    return topic.moveReplay();
  }

  async #topicsByPriority(): Promise<readonly TopicUplink[]> {
    for (const name of this.#options.spool.topics()) await this.#topic(name);
    return [...this.#topics.values()].toSorted((a, b) => b.priority - a.priority);
  }

  /** Nothing of the present gets through: what is read from here on would only grow old in memory. */
  #isStuck(): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    if (this.#options.order === 'oldestFirst' || bytesOf(this.#liveLanes()) === 0) this.#liveProgressMs = nowMs;
    return nowMs - this.#liveProgressMs > STUCK_MS;
  }

  async #room(): Promise<void> {
    while (!this.#isStopped()) {
      const progress = this.#progress.promise;
      const live = this.#liveLanes();
      if (bytesOf(live) < this.#bytesInMemoryMax / 2) return;
      for (const lane of live) lane.flush();
      await progress;
    }
  }

  #onProgress(): void {
    for (const topic of this.#topics.values()) topic.settle();
    this.#progress.resolve(undefined);
    this.#progress = Promise.withResolvers();
  }

  #lanes(): Lane[] {
    return [...this.#topics.values()].flatMap(({ lanes }) => lanes);
  }

  #liveLanes(): Lane[] {
    return this.#lanes().filter(({ isReplay }) => !isReplay);
  }

  #noteError(error: unknown): void {
    this.#lastError = { message: describeError(error), atMs: this.#options.clock.nowMs() };
  }

  /** The topic with its lanes; the first time, what an earlier run left is settled. */
  async #topic(name: string): Promise<TopicUplink> {
    const known = this.#topics.get(name);
    if (known !== undefined) return known;
    const { spool, log, topics, order, clock, maxAgeMs } = this.#options;
    const info = await log.ensureTopic(name, topics);
    const left = await leftOver(log, spool, this.#intents, info, this.#stop.signal);
    const context = {
      lanes: this.#context,
      spool,
      order,
      clock,
      maxAgeMs: (topic: string) => maxAgeMs?.[topic],
    };
    const topic = await TopicUplink.open(context, info, left);
    for (const intent of left.stored) {
      this.#context.onDelivered(intent.records, intent.bytes, intent.replayed);
      this.#intents.resolve(intent);
    }
    this.#topics.set(name, topic);
    return topic;
  }
}

/** Half a second of the budget, so that a batch does not make the next ones wait for long. */
function batchBytesFor(bytesPerSecond: number): number {
  if (bytesPerSecond === 0) return BATCH_TARGET_BYTES;
  return Math.max(BATCH_BYTES_UNDER_BUDGET_MIN, Math.min(BATCH_TARGET_BYTES, Math.floor(bytesPerSecond / 2)));
}

function bytesOf(lanes: readonly Lane[]): number {
  return lanes.reduce((sum, lane) => sum + lane.outstandingBytes, 0);
}
