/**
 * One topic on its way: how far the present and the backlog are read, and what of them is delivered.
 *
 * Under `oldestFirst` everything is the present, read from the first undelivered reading on. Under `liveFirst` the present begins with
 * what this run takes in; when it falls behind by LATE_MS (the log was away, the budget spent), what is not read becomes backlog, and the
 * present goes on at the newest reading. The backlog is read oldest first, through lanes of its own.
 *
 * Invariants
 * - A reading is read by the present or by the backlog, never by both, and in order by each.
 * - The spool is told two things: up to where everything is delivered, given up or a recorded gap, and which ranges above that are.
 * - A gap is recorded (with the spool's own reading about it) before it is passed.
 * Failure: a step that fails, because the spool cannot be read or takes no record of a gap, is tried again after a pause, for ever, and shown
 * by `problem`. What was read before it goes out meanwhile. Nothing here waits for the log: other topics go on whatever it says of this one.
 * Limits: BACKLOG_RANGES_MAX; from then on the present waits its turn, however late. The uplink says how much may be read.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '../../lib/clock.ts';
import { BATCH_BYTES_MAX, type TopicInfo } from '../../lib/log/log.ts';
import { includes } from '../seq-ranges.ts';
import { ALARM_PRIORITY } from '../spool/frame.ts';
import type { SpoolEntry, SpoolGap, SpooledReading, SpoolReader } from '../spool/spool-reader.ts';
import { Lane, type LaneContext } from './lane.ts';
import { partitionOfReading } from './partitioner.ts';
import type { Quarantined } from './quarantine.ts';
import { RetriedStep, type UplinkProblem } from './retried-step.ts';
import type { Covered, LeftOver } from './topic-start.ts';

/** What arrived longer ago than this is not the present. Above what a broker's leader election takes. */
const LATE_MS = 10_000;
/** Each costs some thirty bytes in the head of every segment. */
const BACKLOG_RANGES_MAX = 100;
/** A clock that was at 1970 when a reading arrived makes no reading old: above this, an age is none. */
const IMPLAUSIBLE_AGE_MS = 400 * 86_400_000;
const REASON_EXPIRED = 'expired: older than the maxAge of its topic';
/** What one step takes out of the spool, at most. */
const READ_BYTES_MAX = 1 << 20;
/** How many are taken in a row, in about a millisecond: in between, the present, answers and syncs have their turn. */
const READINGS_PER_TURN = 500;
/** Above a hiccup of the broker, and short enough that little grows old in memory. */
const STUCK_MS = 2000;

export type UplinkOrder = 'liveFirst' | 'oldestFirst';

export interface TopicContext {
  readonly lanes: LaneContext;
  readonly spool: SpoolReader;
  readonly order: UplinkOrder;
  readonly clock: Clock;
  /** Older readings of the topic are given up; undefined: none. */
  readonly maxAgeMs: (topic: string) => number | undefined;
}

interface Run {
  /** Of the first reading. */
  readonly first: bigint;
  /** Read so far. */
  last: bigint;
  /** Told to the spool so far. */
  settled: bigint;
}

interface Backlog {
  next: bigint;
  last: bigint;
}

export class TopicUplink {
  readonly info: TopicInfo;
  /** Of what was read last: topics of higher ones go first. */
  priority = 0;
  readonly #context: TopicContext;
  readonly #covered: Covered;
  readonly #live: readonly Lane[];
  #replay: readonly Lane[] | undefined;
  /** Ascending; the last one is under way. */
  #runs: Run[];
  /** Ascending. */
  #backlog: Backlog[];
  #acknowledged: bigint;
  /** Monotonic: when the present was last read to its end. */
  #caughtUpMs: number;
  readonly #liveStep: RetriedStep;
  readonly #replayStep: RetriedStep;

  private constructor(
    context: TopicContext,
    info: TopicInfo,
    covered: Covered,
    live: readonly Lane[],
    replay: readonly Lane[] | undefined,
    acknowledged: bigint,
    liveFrom: bigint,
  ) {
    this.#context = context;
    this.info = info;
    this.#covered = covered;
    this.#live = live;
    this.#replay = replay;
    this.#acknowledged = acknowledged;
    this.#runs = [{ first: liveFrom, last: liveFrom - 1n, settled: liveFrom - 1n }];
    this.#backlog = liveFrom > acknowledged + 1n ? [{ next: acknowledged + 1n, last: liveFrom - 1n }] : [];
    this.#caughtUpMs = context.clock.monotonicMs();
    this.#liveStep = new RetriedStep(context.lanes);
    this.#replayStep = new RetriedStep(context.lanes);
  }

  /** Takes up what an earlier run left, and starts. Throws what the log throws; nothing has begun then. */
  static async open(context: TopicContext, info: TopicInfo, left: LeftOver): Promise<TopicUplink> {
    const acknowledged = context.spool.durablyAcknowledged(info.name);
    const liveFrom = await presentOf(context, info.name, acknowledged);
    const live = await openLanes(context, info, false, liveFrom - 1n);
    const hasReplay = context.order === 'liveFirst' && left.missing.some(({ intent }) => intent.replayed);
    const replay = hasReplay ? await openLanes(context, info, true, acknowledged) : undefined;
    // The log may have answered long after the uplink was closed.
    context.lanes.signal.throwIfAborted();
    // From here on nothing can fail: the lanes live, and are known.
    if (left.outdated.length > 0) context.lanes.intents.replace(left.outdated, []);
    for (const { intent, readings } of left.missing) {
      const lanes = intent.replayed ? (replay ?? live) : live;
      lanes[intent.partition]?.restore(intent, readings);
    }
    for (const lane of [...live, ...(replay ?? [])]) lane.start();
    return new TopicUplink(context, info, left.covered, live, replay, acknowledged, liveFrom);
  }

  /** Ends after the signal of its lanes fired and every answer is in. */
  async closed(): Promise<void> {
    await Promise.all(this.lanes.map((lane) => lane.closed()));
  }

  get lanes(): readonly Lane[] {
    return [...this.#live, ...(this.#replay ?? [])];
  }

  get hasBacklog(): boolean {
    return this.#backlog.length > 0;
  }

  get liveLanes(): readonly Lane[] {
    return this.#live;
  }

  get replayLanes(): readonly Lane[] {
    return this.#replay ?? [];
  }

  /** Why a step failed that has not succeeded since, or what the log said of a batch that is not stored. */
  get problem(): UplinkProblem | null {
    const ofLanes = this.lanes.find(({ problem }) => problem !== null)?.problem ?? null;
    return this.#liveStep.problem ?? this.#replayStep.problem ?? ofLanes;
  }

  /** Monotonic: when something was stored last. */
  get deliveredMs(): number {
    return Math.max(...this.lanes.map(({ deliveredMs }) => deliveredMs));
  }

  /** Nothing of the present gets through: what is read from here on would only grow old in memory. */
  get isStuck(): boolean {
    if (this.#context.order === 'oldestFirst') return false;
    const since = this.#live.flatMap(({ waitingSinceMs }) => waitingSinceMs ?? []);
    return since.length > 0 && this.#context.clock.monotonicMs() - Math.max(...since) > STUCK_MS;
  }

  /** Readings in the spool that are not delivered. */
  get lag(): bigint {
    const ahead = this.#runs.reduce(
      (sum, { first, settled }) => (first > this.#acknowledged && settled >= first ? sum + settled - first + 1n : sum),
      0n,
    );
    return this.#context.spool.lastSeq(this.info.name) - this.#acknowledged - ahead;
  }

  /** Reads on in the present, about `maxBytes`; false when there is nothing new, or after a failure. */
  moveLive(maxBytes: number): Promise<boolean> {
    return this.#liveStep.take(() => this.#moveLive(Math.min(maxBytes, READ_BYTES_MAX)));
  }

  /** Reads on in the backlog, about `maxBytes`; false when there is none, when its lanes are not open yet, or after a failure. */
  async moveReplay(maxBytes: number): Promise<boolean> {
    const [range] = this.#backlog;
    if (range === undefined) return false;
    const replay = this.#replay;
    if (replay === undefined) {
      // In the background: the log is asked.
      void this.#replayStep
        .take(() => this.#openReplay(range))
        .then((isOpen) => (isOpen ? this.#context.lanes.onProgress() : undefined));
      return false;
    }
    const moved = await this.#replayStep.take(() =>
      this.#moveReplay(range, replay, Math.min(maxBytes, READ_BYTES_MAX)),
    );
    // On a full disk it is the delivery of what was read that makes room for the record of a gap.
    if (this.#replayStep.isResting) for (const lane of replay) lane.flush();
    return moved;
  }

  async #moveLive(maxBytes: number): Promise<boolean> {
    const { spool, order, clock } = this.#context;
    if (order === 'liveFirst' && clock.monotonicMs() - this.#caughtUpMs > LATE_MS) this.#leaveBehind();
    const run = this.#run;
    const entries = await spool.read(this.info.name, run.last, maxBytes);
    try {
      await this.#takeAll(entries, this.#live, (seq) => (run.last = seq));
    } finally {
      spool.done(entries);
    }
    if (entries.length === 0) this.#caughtUpMs = clock.monotonicMs();
    return this.#settleRead(entries.length > 0);
  }

  async #moveReplay(range: Backlog, lanes: readonly Lane[], maxBytes: number): Promise<boolean> {
    const { spool } = this.#context;
    const entries = await spool.read(this.info.name, range.next - 1n, maxBytes);
    try {
      const wanted = entries.filter((entry) => (entry.kind === 'reading' ? entry.seq : entry.fromSeq) <= range.last);
      await this.#takeAll(wanted, lanes, (seq) => (range.next = (seq < range.last ? seq : range.last) + 1n));
    } finally {
      spool.done(entries);
    }
    if (range.next > range.last) {
      this.#backlog.shift();
      const next = this.#backlog[0]?.next ?? range.next;
      for (const lane of lanes) lane.skipTo(next - 1n);
    }
    return this.#settleRead(entries.length > 0);
  }

  /** No answer of the log comes for what an earlier run delivered: whoever waits for the end is told here. */
  #settleRead(hasRead: boolean): boolean {
    this.settle();
    if (hasRead && this.lag === 0n) this.#context.lanes.onProgress();
    return hasRead;
  }

  /** Tells the spool what is delivered. */
  settle(): void {
    const { spool } = this.#context;
    const { name } = this.info;
    const live = leastOf(this.#live);
    const replay = leastOf(this.#replay ?? []);
    let upto = (this.#backlog[0]?.next ?? this.#run.last + 1n) - 1n;
    for (const outstanding of [live, replay]) {
      if (outstanding !== null && outstanding <= upto) upto = outstanding - 1n;
    }
    if (upto > this.#acknowledged) {
      this.#acknowledged = upto;
      spool.acknowledge(name, upto);
    }
    this.#runs = this.#runs.filter((run) => run === this.#run || run.last > this.#acknowledged);
    for (const run of this.#runs) {
      const last = live !== null && live <= run.last ? live - 1n : run.last;
      if (run.first <= this.#acknowledged + 1n || last <= run.settled || last < run.first) continue;
      run.settled = last;
      spool.acknowledgeRange(name, run.first, last);
    }
  }

  get #run(): Run {
    const run = this.#runs.at(-1);
    if (run === undefined) throw new RangeError(`topic ${this.info.name} has no present`);
    return run;
  }

  /** What the present has not read becomes backlog. */
  #leaveBehind(): void {
    const last = this.#context.spool.lastSeq(this.info.name);
    const run = this.#run;
    this.#caughtUpMs = this.#context.clock.monotonicMs();
    if (last <= run.last) return;
    const previous = this.#backlog.at(-1);
    if (run.last < run.first && previous?.last === run.last) {
      previous.last = last;
      this.#runs.pop();
    } else if (this.#backlog.length >= BACKLOG_RANGES_MAX) return;
    else this.#backlog.push({ next: run.last + 1n, last });
    this.#runs.push({ first: last + 1n, last, settled: last });
    for (const lane of this.#live) lane.skipTo(last);
    this.#context.lanes.onProgress();
  }

  async #openReplay(range: Backlog): Promise<boolean> {
    const lanes = await openLanes(this.#context, this.info, true, range.next - 1n);
    this.#context.lanes.signal.throwIfAborted();
    for (const lane of lanes) lane.start();
    this.#replay = lanes;
    return true;
  }

  /** In order; `advance` is told up to where everything is in a lane, or recorded. */
  async #takeAll(
    entries: readonly SpoolEntry[],
    lanes: readonly Lane[],
    advance: (seq: bigint) => void,
  ): Promise<void> {
    const { spool, lanes: context } = this.#context;
    let expired: SpoolGap | undefined;
    const record = async (): Promise<void> => {
      if (expired === undefined) return;
      await spool.recordGap(expired);
      advance(expired.toSeq);
      expired = undefined;
    };
    for (const [index, entry] of entries.entries()) {
      if (index % READINGS_PER_TURN === READINGS_PER_TURN - 1) await nextTurn();
      // What is added to lanes that have ended is delivered by nobody.
      context.signal.throwIfAborted();
      if (entry.kind === 'reading' && this.#isExpired(entry)) {
        const { topic, seq } = entry;
        expired = { kind: 'gap', topic, fromSeq: expired?.fromSeq ?? seq, toSeq: seq, reason: REASON_EXPIRED };
        continue;
      }
      if (expired !== undefined) {
        await record();
        // They may have ended while the disk was waited for.
        context.signal.throwIfAborted();
      }
      if (entry.kind === 'gap') await spool.recordGap(entry);
      else if (entry.kind === 'reading' && !this.#put(entry, lanes)) await context.giveUp(tooLarge(entry));
      advance(endOf(entry));
    }
    await record();
  }

  /** Alarms never are, nor is what was delivered already. */
  #isExpired(reading: SpooledReading): boolean {
    const maxAgeMs = this.#context.maxAgeMs(reading.topic);
    if (maxAgeMs === undefined || reading.priority >= ALARM_PRIORITY) return false;
    const { clock, spool } = this.#context;
    const byWallMs = clock.nowMs() - reading.arrivalUs / 1000;
    // A machine without a battery for its clock boots with the time of its last shutdown, and NTP sets it ahead by days.
    const ageMs = reading.replayed ? byWallMs : Math.min(byWallMs, spool.runningMs());
    // Whether a clock was wrong shows by the clock alone, however short the run was.
    return ageMs > maxAgeMs && byWallMs < maxAgeMs + IMPLAUSIBLE_AGE_MS && !this.#isCovered(reading);
  }

  #isCovered(reading: SpooledReading): boolean {
    const covered = this.#covered.get(reading.incarnation);
    if (covered === undefined) return false;
    return [...covered].some(([partitions, ranges]) =>
      includes(ranges[partitionOfReading(reading, partitions)] ?? [], Number(reading.seq)),
    );
  }

  /** False: no batch has room for it. */
  #put(reading: SpooledReading, lanes: readonly Lane[]): boolean {
    this.priority = reading.priority;
    const lane = lanes[partitionOfReading(reading, this.info.partitions)];
    if (lane === undefined) throw new RangeError(`topic ${this.info.name} has no such partition`);
    if (!this.#isCovered(reading)) return lane.add(reading);
    lane.skipTo(reading.seq);
    return true;
  }
}

/** Where the present begins: with the first undelivered reading of this run if that is not late already. */
async function presentOf({ spool, order, clock }: TopicContext, name: string, acknowledged: bigint): Promise<bigint> {
  if (order === 'oldestFirst') return acknowledged + 1n;
  const ofRun = spool.firstOfRun(name);
  const first = ofRun > acknowledged ? ofRun : acknowledged + 1n;
  const [entry] = await spool.read(name, first - 1n, 1);
  if (entry?.kind !== 'reading') return first;
  return Math.abs(clock.nowMs() - entry.arrivalUs / 1000) < LATE_MS ? first : spool.lastSeq(name) + 1n;
}

function openLanes(context: TopicContext, info: TopicInfo, isReplay: boolean, coveredTo: bigint): Promise<Lane[]> {
  return Promise.all(
    Array.from({ length: info.partitions }, (_, partition) =>
      Lane.open(context.lanes, info, { partition, isReplay, coveredTo }),
    ),
  );
}

function tooLarge({ topic, seq, key, value }: SpooledReading): Quarantined {
  const bytes = (key?.length ?? 0) + value.length;
  const reason = `${bytes} bytes do not fit a batch of ${BATCH_BYTES_MAX}`;
  return { topic, seq, reason, key: key?.toString() ?? null, value: value.toString('base64') };
}

function endOf(entry: SpoolEntry): bigint {
  return entry.kind === 'reading' ? entry.seq : entry.toSeq;
}

function leastOf(lanes: readonly Lane[]): bigint | null {
  return lanes.reduce<bigint | null>((least, { firstOutstanding }) => {
    return firstOutstanding !== null && (least === null || firstOutstanding < least) ? firstOutstanding : least;
  }, null);
}
