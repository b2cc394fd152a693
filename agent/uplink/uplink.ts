/**
 * The uplink: takes readings out of the spool and delivers them into a Log, each exactly once, those of a sensor in order (under
 * `liveFirst`: those of the present in order, and those of a backlog in order, marked as such).
 *
 * Readings are spread over the partitions of their topic by key (partitioner.ts); each partition has a lane (lane.ts), or one for the
 * present and one for the backlog, that sends its batches in order under durable intents (send-intents.ts). topic-uplink.ts knows what
 * of a topic is read and delivered; uplink-budget.ts says when a batch may go out.
 *
 * Topics are independent: what the log says of one delays no other. Each is opened in the background, has lanes of its own, and takes of the
 * memory that is free at most what `roomFor` leaves it.
 *
 * Invariants
 * - The spool is told what is stored, or a recorded gap, and nothing else.
 * - A reading goes to a lane once: a start first settles the batches that were perhaps sent (read back, then the same bytes under
 *   the same identity), and goes on behind what intents cover.
 * Failure: kill -9 anywhere is repaired by the next start from the intent file. Errors of the log are retried for ever and shown in
 * `status()`. If the intent file is lost, readings that were stored but not yet acknowledged in the spool are stored again; the
 * lander drops them by identity.
 * A topic that is made anew with another number of partitions is opened again as at a start.
 * Limits: `bytesInMemoryMax` in all lanes, and a reading of each topic beyond; more stays in the spool. OPENINGS_MAX topics are opened at a time. The
 * partition count of a topic is looked up when it is opened: partitions that are added to it are used from the next start on.
 */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { systemBoot } from '../../lib/boot-time.ts';
import type { Clock } from '../../lib/clock.ts';
import type { Log, TopicOptions } from '../../lib/log/log.ts';
import { counted } from '../../lib/units.ts';
import type { SpoolReader } from '../spool/spool-reader.ts';
import type { ReadingTraces } from '../traces.ts';
import { Backoff, type BackoffOptions } from './backoff.ts';
import type { LogCut } from './known-end.ts';
import { BATCH_TARGET_BYTES, type Lane, type LaneContext } from './lane.ts';
import { Quarantine } from './quarantine.ts';
import { ReadingEncoder } from './reading-record.ts';
import { problemOf, RetriedStep, type UplinkProblem } from './retried-step.ts';
import { SendIntents } from './send-intents.ts';
import { leftOver } from './topic-start.ts';
import { TopicUplink, type UplinkOrder } from './topic-uplink.ts';
import { UplinkBudget, type BudgetOptions } from './uplink-budget.ts';
import type { HeldUpTopic, UplinkStatus } from './uplink-status.ts';

/** Smaller ones compress badly. */
const BATCH_BYTES_UNDER_BUDGET_MIN = 4096;
/** A topic that the log does not answer for holds one of these for some seconds, and goes behind those that were asked for less often. */
const OPENINGS_MAX = 8;
/**
 * A topic may hold this many times the memory that is free (dynamic thresholds: Choudhury and Hahne, 1998): one alone two thirds of it, and
 * however many are refused, there is something free for the next one.
 */
const SHARE_OF_FREE = 2;
/** Behind a trouble of one topic, deliveries of another within this time show that the link is up. */
const LINK_PROOF_MS = 15_000;
/** Each is a loss that somebody looks into; further ones are in the log. */
const CUTS_MAX = 20;

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
  /** Where readings are traced. */
  readonly traces?: ReadingTraces;
  /** Takes a line when something is worth one. */
  readonly say?: (line: string) => void;
}

export class Uplink {
  readonly #options: UplinkOptions;
  readonly #intents: SendIntents;
  readonly #quarantine: Quarantine;
  readonly #budget: UplinkBudget;
  readonly #context: Omit<LaneContext, 'onOtherPartitions'>;
  readonly #stop = new AbortController();
  readonly #topics = new Map<string, TopicUplink>();
  /** Of topics that are not open yet. */
  readonly #openings = new Map<string, RetriedStep>();
  /** Topics whose lanes wait for their last answers. */
  readonly #ending = new Set<TopicUplink>();
  /** For the present, and as much for the backlog. */
  readonly #bytesInMemoryMax: number;
  #delivered = 0;
  #bytes = 0;
  /** By the loop that has it. */
  readonly #roundProblems = new Map<string, UplinkProblem>();
  #progress: PromiseWithResolvers<unknown> = Promise.withResolvers();
  #cuts: readonly string[] = [];
  #addition: Promise<void> | undefined;
  #running: Promise<unknown> = Promise.resolve();

  private constructor(options: UplinkOptions, intents: SendIntents, budget: UplinkBudget) {
    this.#options = options;
    this.#intents = intents;
    this.#budget = budget;
    const targetBytes = batchBytesFor(options.budget.bytesPerSecond);
    // Under a budget, what waits in memory only grows old there.
    this.#bytesInMemoryMax =
      (budget.isLimited ? Math.min(options.bytesInMemoryMax, 4 * targetBytes) : options.bytesInMemoryMax) / 2;
    this.#quarantine = new Quarantine(join(options.directory, 'quarantine.ndjson'), options.clock);
    const { traces } = options;
    this.#context = {
      log: options.log,
      encoder: new ReadingEncoder(traces && ((topic, seq) => traces.traceparent(topic, seq))),
      intents,
      backoff: new Backoff(options.backoff),
      budget,
      targetBytes,
      compression: options.compression,
      signal: this.#stop.signal,
      nowMs: () => options.clock.nowMs(),
      monotonicMs: () => options.clock.monotonicMs(),
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
      onDelivered: (intent, bytes) => {
        this.#delivered += intent.records;
        this.#bytes += bytes;
        traces?.delivered(intent);
      },
      onCut: (cut) => this.#noteCut(cut),
      onProgress: () => this.#onProgress(),
    };
  }

  /** Starts sending in the background. Throws when the intent file cannot be used; errors of the log only show in `status()`. */
  static async start(options: UplinkOptions): Promise<Uplink> {
    const path = join(options.directory, 'intents');
    const intents = await SendIntents.open(path, (topic) => options.spool.durablyAcknowledged(topic));
    const { clock, directory } = options;
    const budget = await UplinkBudget.open({
      ...options.budget,
      path: join(directory, 'budget.json'),
      clock,
      boot: systemBoot,
    });
    const uplink = new Uplink(options, intents, budget);
    uplink.#running = Promise.all([
      uplink.#repeat('present', () => uplink.#presentRound()),
      uplink.#repeat('backlog', () => uplink.#backlogRound()),
    ]);
    return uplink;
  }

  status(): UplinkStatus {
    const { spool } = this.#options;
    const topics = [...this.#topics.values()];
    let lag = 0n;
    const heldUp: (HeldUpTopic & { readonly trouble: UplinkProblem })[] = [];
    for (const name of new Set([...spool.topics(), ...this.#topics.keys()])) {
      const ofTopic = this.#topics.get(name)?.lag ?? spool.lastSeq(name) - spool.durablyAcknowledged(name);
      lag += ofTopic;
      const trouble = this.#topics.get(name)?.problem ?? this.#openings.get(name)?.problem ?? null;
      if (trouble === null || ofTopic === 0n) continue;
      const { message: problem, isRefusal: isRefused } = trouble;
      heldUp.push({ topic: name, problem, isRefused, readings: Number(ofTopic), trouble });
    }
    const troubles = heldUp.map(({ trouble }) => trouble);
    const [roundProblem] = this.#roundProblems.values();
    return {
      delivered: this.#delivered,
      bytes: this.#bytes,
      inFlight: this.#lanes().reduce((sum, lane) => sum + lane.inFlight, 0),
      lag,
      backlog: topics.some((topic) => topic.hasBacklog),
      budget: this.#budget.isLimited ? this.#budget.status() : null,
      quarantined: this.#quarantine.count,
      setAside: this.#intents.setAside === undefined ? [] : [this.#intents.setAside],
      lastError: roundProblem ?? troubles[0] ?? null,
      linkProblem: roundProblem?.message ?? (this.#isLinkUp(troubles) ? null : (troubles[0]?.message ?? null)),
      heldUp: heldUp.map(({ trouble: _, ...held }) => held),
      cuts: this.#cuts,
    };
  }

  /** The log answered, and will not take the topic as things are. */
  isRefused(name: string): boolean {
    return (this.#topics.get(name)?.problem ?? this.#openings.get(name)?.problem)?.isRefusal === true;
  }

  /** What the log refuses of one topic says nothing about the link that serves another. */
  #isLinkUp(troubles: readonly UplinkProblem[]): boolean {
    const healthyMs = [...this.#topics.values()]
      .filter(({ problem }) => problem === null)
      .map(({ deliveredMs }) => deliveredMs);
    if (troubles.every(({ isRefusal }) => isRefusal))
      return troubles.length === 0 || Math.max(...healthyMs) > -Infinity;
    return Math.max(...healthyMs) > this.#options.clock.monotonicMs() - LINK_PROOF_MS;
  }

  /** Waits until everything in the spool is delivered; false when the deadline came first, or only refused topics are left. Goes on sending either way. */
  async drain(deadlineMs: number): Promise<boolean> {
    const deadline = this.#options.clock.monotonicMs() + deadlineMs;
    for (;;) {
      const { lag, heldUp } = this.status();
      if (lag === 0n) return true;
      const refused = heldUp.reduce((sum, { isRefused, readings }) => sum + (isRefused ? readings : 0), 0);
      const leftMs = deadline - this.#options.clock.monotonicMs();
      if (leftMs <= 0 || BigInt(refused) === lag) return false;
      const timer = new AbortController();
      await Promise.race([
        this.#progress.promise,
        delay(leftMs, undefined, { signal: timer.signal }).catch(() => {
          // Progress came first.
        }),
      ]);
      timer.abort();
    }
  }

  /** Stops; what is in flight is answered first. What is not delivered stays in the spool. */
  async close(): Promise<void> {
    this.#stop.abort();
    this.#onProgress();
    await this.#running;
    await Promise.all([...this.#topics.values(), ...this.#ending].map((topic) => topic.closed()));
    await this.#intents.close();
    await this.#quarantine.close();
  }

  async #repeat(name: string, round: () => Promise<void>): Promise<void> {
    for (let attempt = 0; !this.#isStopped();) {
      try {
        await round();
        attempt = 0;
        this.#roundProblems.delete(name);
      } catch (error) {
        if (this.#isStopped()) return;
        this.#roundProblems.set(name, problemOf(error, this.#options.clock.nowMs()));
        await this.#context.backoff.wait(attempt++, this.#stop.signal);
      }
    }
  }

  /** Moves what there is of the present, and waits for more. */
  async #presentRound(): Promise<void> {
    // Asked before reading: what is added while we read must not be slept over.
    const added = this.#nextAddition();
    const progress = this.#progress.promise;
    this.#openTopics();
    await this.#moveLive();
    // Beside a backlog, whose batches are synced and sent all the time, one more costs next to nothing.
    const isBusy = [...this.#topics.values()].some(({ hasBacklog }) => hasBacklog);
    if (!isBusy && this.#liveLanes().some((lane) => lane.isFilling)) {
      await delay(this.#options.lingerMs, undefined, { signal: this.#stop.signal });
      await this.#moveLive();
    }
    flush(this.#liveLanes());
    // Progress is room in the lanes, a topic that is open now, or the end of a topic's rest.
    await Promise.race([added, progress]);
  }

  /** One step of the backlog; waits when nothing is left to move. */
  async #backlogRound(): Promise<void> {
    const progress = this.#progress.promise;
    if (!(await this.#moveReplay())) await progress;
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

  /** Begins to open what is not: topics with open intents also when the spool has nothing new for them. */
  #openTopics(): void {
    const names = new Set([...this.#intents.unresolved().map(({ topic }) => topic), ...this.#options.spool.topics()]);
    for (const name of names) {
      if (!this.#topics.has(name) && !this.#openings.has(name))
        this.#openings.set(name, new RetriedStep(this.#context));
    }
    const all = [...this.#openings].toSorted(([, a], [, b]) => a.failures - b.failures);
    const underWay = all.filter(([, { isTaken }]) => isTaken).length;
    const next = all.filter(([, { isTaken, isResting }]) => !isTaken && !isResting);
    for (const [name, opening] of next.slice(0, OPENINGS_MAX - underWay)) {
      void opening.take(() => this.#open(name)).then(() => this.#onProgress());
    }
  }

  /** Everything new goes into the lanes, as far as there is room; the topics take turns. */
  async #moveLive(): Promise<void> {
    for (let moved = true; moved;) {
      moved = false;
      for (const topic of this.#topicsByPriority()) {
        if (this.#isStopped()) return;
        if (topic.isStuck) continue;
        const room = this.#roomFor(topic.liveLanes, this.#liveLanes());
        // What goes out makes room.
        if (room <= 0) flush(topic.liveLanes);
        else if (await topic.moveLive(room)) moved = true;
      }
    }
  }

  /** One step, of the topic with the highest priority that has a backlog and room; false when there was none. */
  async #moveReplay(): Promise<boolean> {
    for (const topic of this.#topicsByPriority()) {
      if (this.#isStopped()) return false;
      if (!topic.hasBacklog || topic.isStuck) continue;
      const room = this.#roomFor(topic.replayLanes, this.#replayLanes());
      if (room <= 0) flush(topic.replayLanes);
      else if (await topic.moveReplay(room)) return true;
    }
    return false;
  }

  #topicsByPriority(): readonly TopicUplink[] {
    return [...this.#topics.values()].toSorted((a, b) => b.priority - a.priority);
  }

  /** How many bytes more a topic may hold in memory, whose lanes these are among all of their kind; one reading in any case. */
  #roomFor(lanes: readonly Lane[], all: readonly Lane[]): number {
    const free = this.#bytesInMemoryMax - bytesOf(all);
    const held = bytesOf(lanes);
    const room = Math.floor((SHARE_OF_FREE * free - held) / (SHARE_OF_FREE + 1));
    return held === 0 ? Math.max(1, room) : room;
  }

  #noteCut({ topic, partition, offset, end }: LogCut): void {
    const text =
      `${topic}/${partition}: the log was cut at offset ${offset} and had got to ${end}: ${counted(end - offset, 'record')} that it had acknowledged ` +
      'are lost there (an unclean election, or a lost disk; min.insync.replicas=2 on 3 replicas and unclean.leader.election.enable=false keep them)';
    // Both at a read-back and at the next answer.
    if (this.#cuts.includes(text)) return;
    this.#cuts = [...this.#cuts, text].slice(-CUTS_MAX);
    this.#options.say?.(text);
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

  #replayLanes(): Lane[] {
    return this.#lanes().filter(({ isReplay }) => isReplay);
  }

  /** Makes the topic with its lanes, after what an earlier run left is settled. */
  async #open(name: string): Promise<boolean> {
    const { spool, log, topics, order, clock, maxAgeMs } = this.#options;
    const { signal } = this.#stop;
    const info = await log.ensureTopic(name, topics);
    signal.throwIfAborted();
    const left = await leftOver(log, spool, this.#intents, info, signal, this.#context.onCut);
    const end = new AbortController();
    const context = {
      lanes: {
        ...this.#context,
        signal: AbortSignal.any([signal, end.signal]),
        onOtherPartitions: () => this.#openAgain(name, end),
      },
      spool,
      order,
      clock,
      maxAgeMs: (topic: string) => maxAgeMs?.[topic],
    };
    const topic = await TopicUplink.open(context, info, left);
    for (const intent of left.stored) {
      this.#context.onDelivered(intent, intent.bytes);
      this.#intents.resolve(intent);
    }
    this.#topics.set(name, topic);
    this.#openings.delete(name);
    return true;
  }

  /** What its lanes hold goes where it belongs now. */
  #openAgain(name: string, end: AbortController): void {
    const topic = this.#topics.get(name);
    if (topic === undefined || end.signal.aborted) return;
    end.abort();
    this.#topics.delete(name);
    this.#ending.add(topic);
    const opening = new RetriedStep(this.#context);
    this.#openings.set(name, opening);
    void opening
      .take(async () => {
        await topic.closed();
        this.#ending.delete(topic);
        return this.#open(name);
      })
      .then(() => this.#onProgress());
  }
}

/** Half a second of the budget, so that a batch does not make the next ones wait for long. */
function batchBytesFor(bytesPerSecond: number): number {
  if (bytesPerSecond === 0) return BATCH_TARGET_BYTES;
  return Math.max(BATCH_BYTES_UNDER_BUDGET_MIN, Math.min(BATCH_TARGET_BYTES, Math.floor(bytesPerSecond / 2)));
}

function flush(lanes: readonly Lane[]): void {
  for (const lane of lanes) lane.flush();
}

function bytesOf(lanes: readonly Lane[]): number {
  return lanes.reduce((sum, lane) => sum + lane.outstandingBytes, 0);
}
