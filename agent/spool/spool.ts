/**
 * The spool: readings on this machine's disk between the sources, which are acknowledged once they are here, and the uplink.
 *
 * Invariants
 * - `append` resolves only after the readings, their checkpoints and their receipts are synced; they stand or fall together.
 * - Sequences count per topic from 1 without gaps; one that will never be delivered lies in a gap that a reader is told.
 * - One group is written at a time: while its sync runs, the next one collects (group commit). A group that is refused uses no
 *   sequence and leaves no byte.
 * - A segment is deleted only when every reading in it is durably acknowledged (in order, or as a range), or recorded as dropped.
 * Failure: see recovery.ts for what a start finds. After a failed sync nothing is written any more: the process should end and start again,
 * which brings the disk to what it reads. On a full disk appends are refused; what else was in the group is written by itself, if need be
 * in the room of a reserve that readings never get (disk-reserve.ts).
 * Limits: `maxBytes` of segments (at least 1 MiB); PENDING_BYTES_MAX of memory for the group that collects; a reading has at most
 * READING_BYTES_MAX.
 */
import { join } from 'node:path';
import { systemClock, type Clock } from '../../lib/clock.ts';
import { describeError, isCode, PenstockError } from '../../lib/errors.ts';
import { acquireProcessLock, type ProcessLock } from '../../lib/process-lock.ts';
import { DiskReserve } from './disk-reserve.ts';
import { DropPlanner, type DropPolicy } from './dropping.ts';
import { makeDirectory } from '../../lib/durable-files.ts';
import { newIdentity, type Identity } from './identity.ts';
import { assertCarried, type Readings } from './packed-readings.ts';
import { PendingGroup } from './pending-group.ts';
import { RecentFrames } from './recent-frames.ts';
import { segmentBytesFor } from './segment-files.ts';
import { recoverSpool, type Segment } from './recovery.ts';
import { Room } from './room.ts';
import { SegmentWriter, SyncFailure } from './segment-writer.ts';
import { gapReading } from './gap-report.ts';
import { topicStats, type SpoolStats } from './spool-stats.ts';
import type { SpoolEntry, SpoolGap, SpoolReader } from './spool-reader.ts';
import type { Checkpoint, CheckpointState, Receipt, SpoolState } from './spool-state.ts';
import { StoredSegments } from './stored-segments.ts';
import { TopicReading } from './topic-reading.ts';
import { WaitList } from './wait-list.ts';

/** Memory of the collecting group; also what one write and sync carries at most, about 20 ms of an SSD. */
const PENDING_BYTES_MAX = 4 * 1024 * 1024;
/** Acknowledgements ride on the next group; without one they are written after this long, to spare flash. */
const ACKNOWLEDGE_DELAY_MS = 500;
/** A full disk may be emptied by somebody else: how often a waiting source looks again. */
const ROOM_RETRY_MS = 1000;

export interface SpoolOptions {
  readonly dir: string;
  readonly agent: string;
  readonly maxBytes: number;
  readonly whenFull: 'reject' | DropPolicy;
  readonly segmentBytes?: number;
  readonly clock?: Clock;
}

/** Throws `held` when another process has the spool, `denied`, `full` or `io` when the folder cannot be used. */
export async function openSpool(options: SpoolOptions): Promise<Spool> {
  const { dir, agent } = options;
  await makeDirectory(dir);
  const lock = await acquireProcessLock(join(dir, 'lock'), { label: `agent ${agent}` });
  try {
    const { state, segments, lastNumber, setAside } = await recoverSpool(dir);
    const identity = newIdentity(agent);
    state.eras.begin(identity, state.topics());
    const create = (): Promise<SegmentWriter> => SegmentWriter.create(dir, lastNumber + 1, identity, state);
    const writer = await create().catch(async (error: unknown) => {
      if (!isCode(error, 'full')) throw error;
      // A disk that others filled meanwhile: the reserve is for what delivers, and so frees, what the spool holds.
      await new DiskReserve(dir).giveUp();
      return create();
    });
    const spool = new Spool(options, lock, identity, state, segments, writer, setAside);
    await spool.removeDelivered();
    return spool;
  } catch (error) {
    lock.release();
    throw error;
  }
}

export class Spool implements SpoolReader {
  readonly identity: Identity;
  readonly room: Room;
  readonly #options: SpoolOptions;
  readonly #clock: Clock;
  readonly #openedMs: number;
  readonly #segmentBytes: number;
  readonly #lock: ProcessLock;
  readonly #state: SpoolState;
  readonly #reading: TopicReading;
  /** Per topic of earlier runs: the first sequence of this one. */
  readonly #firstNewSeqs: ReadonlyMap<string, number>;
  readonly #recent = new RecentFrames();
  readonly #reserve: DiskReserve;
  readonly #setAside: string[];
  readonly #segments: StoredSegments;
  #writer: SegmentWriter;
  /** The topics that the writer's head names. Readings of others need a new head first: a frame holds only a topic's id. */
  #headTopics: ReadonlySet<string>;
  #pending: PendingGroup;
  #group = 0;
  #running: Promise<void> | undefined;
  #acknowledgeTimer: NodeJS.Timeout | undefined;
  readonly #forReadings = new WaitList();
  readonly #forRoom = new WaitList();
  /** Appends that wait for the next group, in their order. */
  #waitingForGroup: (() => void)[] = [];
  #stopped: PenstockError | undefined;
  #mustCompact = false;
  /** undefined under `reject`. */
  readonly #planner: DropPlanner | undefined;

  constructor(
    options: SpoolOptions,
    lock: ProcessLock,
    identity: Identity,
    state: SpoolState,
    sealed: readonly Segment[],
    writer: SegmentWriter,
    setAside: readonly string[],
  ) {
    this.identity = identity;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#openedMs = this.#clock.monotonicMs();
    this.room = new Room(options);
    this.#segmentBytes = segmentBytesFor(options.maxBytes, options.segmentBytes);
    this.#lock = lock;
    if (options.whenFull !== 'reject') {
      this.#planner = new DropPlanner(options.whenFull, this.#segmentBytes, () => this.room.fullError());
    }
    this.#state = state;
    this.#segments = new StoredSegments(options.dir, state, sealed, writer.segment);
    this.#writer = writer;
    this.#headTopics = new Set(state.topics().map((topic) => topic.name));
    this.#pending = new PendingGroup(0);
    this.#setAside = [...setAside];
    this.#reserve = new DiskReserve(options.dir);
    this.#firstNewSeqs = new Map(state.topics().map((topic) => [topic.name, topic.nextSeq]));
    this.#reading = new TopicReading(this.#recent, this.#firstNewSeqs, (path) => this.#setAside.push(path));
  }

  /**
   * Stores readings together with the checkpoints and receipts of their source. Order is kept per topic. Resolves when durable. Throws
   * `too-large` for a reading that no batch of the log can carry, `full` when the spool or the disk is (nothing is stored then), `closed`.
   */
  async append(
    readings: Readings,
    checkpoints: readonly Checkpoint[] = [],
    receipts: readonly Receipt[] = [],
  ): Promise<void> {
    assertCarried(readings);
    this.#assertOpen();
    while (this.#waitingForGroup.length > 0 || this.#mustWaitForNextGroup(readings)) {
      await new Promise<void>((resolve) => this.#waitingForGroup.push(resolve));
      this.#assertOpen();
    }
    this.assertRoom(readings);
    this.#pending.add(readings, checkpoints, receipts);
    const settled = this.#pending.settled();
    this.#start();
    await settled;
  }

  #mustWaitForNextGroup(readings: Readings): boolean {
    if (this.#pending.bytes > PENDING_BYTES_MAX) return true;
    return this.isScarce && this.#planner?.isApart(this.#pending, readings) === true;
  }

  /** Space is so short that deliveries are taken or refused by what is in them: they should not be put together. */
  get isScarce(): boolean {
    return this.room.isScarce(this.#segments.bytes + this.#pending.bytes);
  }

  /** Throws `full` when an append of them would now be refused for want of room. */
  assertRoom(readings: Readings): void {
    const why = this.room.refusalOf(readings, this.#segments.bytes + this.#pending.bytes);
    if (why === null) return;
    this.#mustCompact = true;
    if (this.#segments.mayCompact) this.#start();
    throw why;
  }

  /** Why nothing can be stored any more until the spool is opened again, after a failed sync. */
  get failure(): PenstockError | undefined {
    return this.#stopped?.code === 'closed' ? undefined : this.#stopped;
  }

  /** The state a source stored with its last readings. */
  checkpoint(source: string): CheckpointState | undefined {
    return this.#state.checkpoint(source);
  }

  checkpointSources(prefix: string): readonly string[] {
    return this.#state.checkpointSources(prefix);
  }

  /** What the source accepted and must recognise, by id, the oldest first. */
  receipts(source: string): ReadonlyMap<string, string> {
    return this.#state.receipts(source);
  }

  /** Resolves when an append that was refused as `full` may succeed; rejects with `aborted`. */
  async waitForRoom(signal: AbortSignal): Promise<void> {
    this.#assertOpen();
    if (!this.#pending.isEmpty) this.#start();
    await this.#forRoom.wait(signal, ROOM_RETRY_MS);
  }

  topics(): readonly string[] {
    return this.#state
      .topics()
      .filter((topic) => topic.nextSeq - 1 > topic.acknowledged)
      .map((topic) => topic.name);
  }

  async read(topic: string, afterSeq: bigint, maxBytes: number): Promise<readonly SpoolEntry[]> {
    const state = this.#state.topic(topic);
    if (state === undefined) return [];
    return this.#reading.read(this.#segments, state, Number(afterSeq) + 1, maxBytes);
  }

  done(entries: readonly SpoolEntry[]): void {
    this.#reading.done(entries);
  }

  acknowledge(topic: string, uptoSeq: bigint): void {
    const state = this.#state.topic(topic);
    if (state === undefined || Number(uptoSeq) <= state.acknowledged || this.#stopped !== undefined) return;
    this.#pending.acknowledge(topic, Math.min(Number(uptoSeq), state.nextSeq - 1));
    this.#acknowledgeLater();
  }

  acknowledgeRange(topic: string, fromSeq: bigint, toSeq: bigint): void {
    const state = this.#state.topic(topic);
    const first = Math.max(Number(fromSeq), (state?.acknowledged ?? 0) + 1);
    const last = Math.min(Number(toSeq), (state?.nextSeq ?? 1) - 1);
    if (last < first || this.#stopped !== undefined) return;
    this.#pending.acknowledgeRange(topic, { first, last });
    this.#acknowledgeLater();
  }

  durablyAcknowledged(topic: string): bigint {
    return BigInt(this.#state.topic(topic)?.acknowledged ?? 0);
  }

  async recordGap(gap: SpoolGap): Promise<void> {
    this.#assertOpen();
    const nowMs = this.#clock.nowMs();
    const { agent } = this.identity;
    const topicId = this.#state.topic(gap.topic)?.id ?? 0;
    for (const part of this.#state.eras.ownersOf(topicId, { first: Number(gap.fromSeq), last: Number(gap.toSeq) })) {
      const told = { ...gap, fromSeq: BigInt(part.first), toSeq: BigInt(part.last) };
      this.#pending.addReport(gapReading(told, agent, part.owner, nowMs), gap.topic, part);
    }
    const settled = this.#pending.settled();
    this.#start();
    await settled;
  }

  firstOfRun(topic: string): bigint {
    return BigInt(this.#firstNewSeqs.get(topic) ?? 1);
  }

  runningMs(): number {
    return this.#clock.monotonicMs() - this.#openedMs;
  }

  lastSeq(topic: string): bigint {
    return BigInt((this.#state.topic(topic)?.nextSeq ?? 1) - 1);
  }

  async wait(signal: AbortSignal): Promise<void> {
    this.#assertOpen();
    await this.#forReadings.wait(signal);
  }

  stats(): SpoolStats {
    return {
      ...this.#segments.stats(),
      maxBytes: this.#options.maxBytes,
      setAside: this.#setAside,
      ...topicStats(this.#state),
    };
  }

  /**
   * Resolves when everything appended so far, and the acknowledgements, are durable or refused. Acknowledgements that the disk refuses
   * twice are tried again later; should the process end before, the next start delivers nothing twice all the same (send intents).
   */
  async sync(): Promise<void> {
    this.#mustCompact = false;
    // A run that is under way leaves acknowledgements over, and so does one whose group failed.
    for (let attempt = 0; attempt < 3; attempt += 1) {
      this.#start();
      await this.#running;
      if (this.#pending.isEmpty) return;
    }
  }

  async close(): Promise<void> {
    if (!this.#pending.isEmpty) await this.sync();
    this.#stop(new PenstockError('closed', 'the spool is closed'));
    await this.#running;
    await this.#writer.close();
    this.#lock.release();
  }

  #assertOpen(): void {
    if (this.#stopped !== undefined) throw this.#stopped;
  }

  /** Starts the writer unless it runs; it takes the pending group at the end of this turn of the event loop. */
  #start(): void {
    this.#running ??= new Promise<void>((resolve) => {
      setImmediate(() => void this.#run().then(resolve));
    });
  }

  /** Without a delay where a source waits for the room that they make. */
  #acknowledgeLater(delayMs = this.#forRoom.size > 0 ? 0 : ACKNOWLEDGE_DELAY_MS): void {
    if (this.#stopped !== undefined) return;
    this.#acknowledgeTimer ??= setTimeout(() => {
      this.#acknowledgeTimer = undefined;
      // A writer at work sets a timer again for what it leaves over.
      this.#start();
    }, delayMs);
  }

  async #run(): Promise<void> {
    // A group that somebody waits for comes at once; acknowledgements that came meanwhile ride on the next one, which a reading would
    // otherwise have to wait for.
    let takesAll = true;
    while (this.#stopped === undefined) {
      if (takesAll ? !this.#pending.isEmpty : this.#pending.isAwaited) await this.#writePending();
      else if (!this.#mustCompact) break;
      takesAll = this.#mustCompact && (await this.#compact());
    }
    // In the same turn as the look at `pending`: an append from here on starts the writer anew.
    this.#running = undefined;
    if (!this.#pending.isEmpty) this.#acknowledgeLater();
  }

  async #writePending(): Promise<void> {
    const group = this.#pending;
    // The next group is more often than not like the last one.
    this.#pending = new PendingGroup(group.bytes);
    clearTimeout(this.#acknowledgeTimer);
    this.#acknowledgeTimer = undefined;
    wake(this.#waitingForGroup.splice(0));
    try {
      await this.#commit(group);
    } catch (error) {
      await this.#refuse(group, error);
    }
  }

  async #commit(group: PendingGroup): Promise<void> {
    if (group.readings > 0) await this.#reserve.require();
    const isFull = this.#writer.segment.bytes + group.bytes > this.#segmentBytes && this.#writer.hasData;
    const newTopics = group.topics().filter((topic) => !this.#headTopics.has(topic));
    for (const topic of newTopics) this.#state.addTopic(topic);
    if (isFull || newTopics.length > 0) await this.#roll();
    const excess = this.#segments.bytes + group.bytes - this.#options.maxBytes;
    // Only what is sealed can be given up, so the segment that is full is by now.
    const thinnings = (await this.#planner?.makeRoom(group, excess, this.#segments.sealed, this.#state)) ?? [];
    const laidOut = group.layOut(this.#state, this.#group + 1);
    const { segment } = this.#writer;
    const start = segment.bytes;
    if (laidOut.buffers.length > 0) await this.#writer.write(laidOut.buffers, laidOut.bytes);
    this.#recent.add(segment, start, laidOut.frames);
    this.#group += 1;
    this.#segments.storedBytes += group.contentBytes;
    for (const [topic, nextSeq] of laidOut.nextSeqs) topic.nextSeq = nextSeq;
    if (laidOut.delta !== null) this.#state.apply(laidOut.delta);
    group.succeed();
    this.#forReadings.wake();
    if (laidOut.delta !== null) {
      // The present segment of a small spool can be what holds up a source although all of it is delivered.
      const isRoomWanted = this.#forRoom.size > 0 || this.#reserve.isGivenUp;
      if (isRoomWanted && this.#writer.hasData && this.topics().length === 0) await this.#roll();
      else await this.removeDelivered();
    }
    await this.#segments.thin(thinnings);
  }

  /** Refuses what was to be stored, and writes what else there is, or leaves it pending. */
  async #refuse(group: PendingGroup, error: unknown): Promise<void> {
    const failure =
      error instanceof PenstockError ? error : new PenstockError('io', describeError(error), { cause: error });
    if (error instanceof SyncFailure) this.#stop(failure);
    const rest = new PendingGroup(0);
    group.fail(failure, rest);
    // The disk is full, not the spool by its policy.
    if (failure.code === 'full' && failure.cause !== undefined) await this.#reserve.giveUp();
    // By itself: a source that tries again all the time must not be in the way of the delivery that makes room.
    if (failure.code === 'full' && (await this.#commitRest(rest))) return;
    rest.fail(failure, this.#pending);
    // Not at once again, whoever waits: a disk that has no room for them is not asked in a spinning loop.
    if (!this.#pending.isEmpty) this.#acknowledgeLater(ACKNOWLEDGE_DELAY_MS);
  }

  async #commitRest(rest: PendingGroup): Promise<boolean> {
    try {
      if (!rest.isEmpty) await this.#commit(rest);
      return true;
    } catch (error) {
      if (error instanceof SyncFailure) this.#stop(new PenstockError('io', describeError(error), { cause: error }));
      return false;
    }
  }

  #stop(why: PenstockError): void {
    this.#stopped ??= why;
    clearTimeout(this.#acknowledgeTimer);
    this.#pending.fail(this.#stopped, new PendingGroup(0));
    this.#pending = new PendingGroup(0);
    wake(this.#waitingForGroup.splice(0));
    this.#forReadings.wake();
    this.#forRoom.wake();
  }

  async #roll(): Promise<void> {
    const next = await SegmentWriter.create(
      this.#options.dir,
      this.#writer.segment.number + 1,
      this.identity,
      this.#state,
    );
    await this.#writer.close();
    this.#writer = next;
    this.#segments.roll(next.segment);
    this.#headTopics = new Set(this.#state.topics().map((topic) => topic.name));
    await this.removeDelivered();
    this.#mustCompact ||= this.room.isScarce(this.#segments.bytes);
  }

  /** One segment, between two groups; false when there is nothing left to do. */
  async #compact(): Promise<boolean> {
    if (await this.#segments.compact()) this.#forRoom.wake();
    else this.#mustCompact = false;
    return this.#mustCompact;
  }

  /** Deletes the sealed segments that nobody needs any more. */
  async removeDelivered(): Promise<void> {
    if (await this.#segments.removeDelivered()) this.#forRoom.wake();
  }
}

function wake(waiting: readonly (() => void)[]): void {
  for (const go of waiting) go();
}
