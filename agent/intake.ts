/**
 * The way from the sources into the spool: through the transforms, as one transaction with them, and through the rules that are active.
 *
 * Invariants
 * - A source's checkpoints and receipts are stored with what the transforms made of its readings and with the transforms' states, in one group of
 *   the spool: also when no reading is left. So what a window or a swinging door holds back is as durable as a spooled reading when its
 *   source is acknowledged.
 * - A reading that a transform failed on is in the quarantine before its source is acknowledged.
 * - Where transforms have states, one batch is under way at a time; what arrives meanwhile goes together into the next one. Where the spool is
 *   short of space, only what has the same priority does, and a batch that is refused is tried delivery by delivery: no alarm is refused
 *   with others, none of these is given the room of an alarm, and one topic that the log refuses is in the way of no other.
 * Failure: what the spool refuses has not been: states and counters go back, and the sources decide whether to bring it again. What of it is
 * in the quarantine then is known when it comes again, and not put there twice (unless the agent was killed in between).
 * Limits: each caller waits for its batch, so what waits here is bounded by the sources; KEPT_MAX readings are known as above.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../lib/clock.ts';
import { isCode } from '../lib/errors.ts';
import type { Quarantine } from './quarantine.ts';
import type { Rules } from './rules/rules.ts';
import { assertCarried, highestPriorityOf, type Readings } from './spool/packed-readings.ts';
import type { Spool } from './spool/spool.ts';
import type { Checkpoint, CheckpointState, Receipt } from './spool/spool-state.ts';
import type { Taps } from './tap.ts';
import type { ReadingTraces } from './traces.ts';
import type { ChainRun, Failed, TransformChain, TransformCounters } from './transforms/chain.ts';

/** The resolution of what transforms hold back: nobody looks closer at a silent sensor. */
const OVERDUE_EVERY_MS = 1000;
/** More than a batch of any source has. */
const KEPT_MAX = 100_000;

interface Waiting {
  readonly readings: Readings;
  readonly checkpoints: readonly Checkpoint[];
  readonly receipts: readonly Receipt[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export interface IntakeParts {
  readonly chain: TransformChain;
  readonly rules: Rules;
  readonly taps: Taps;
  /** Where readings are traced. */
  readonly traces?: ReadingTraces;
}

export class Intake {
  readonly #spool: Spool;
  readonly #chain: TransformChain;
  readonly #rules: Rules;
  readonly #taps: Taps;
  readonly #traces: ReadingTraces | undefined;
  readonly #quarantine: Quarantine;
  readonly #clock: Clock;
  /** In the quarantine, of batches that are not stored: the oldest first. */
  readonly #kept = new Set<string>();
  #waiting: Waiting[] = [];
  #running: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(spool: Spool, { chain, rules, taps, traces }: IntakeParts, quarantine: Quarantine, clock: Clock) {
    this.#spool = spool;
    this.#chain = chain;
    this.#rules = rules;
    this.#taps = taps;
    this.#traces = traces;
    this.#quarantine = quarantine;
    this.#clock = clock;
  }

  /** Takes up what the transforms left on the disk. Throws `closed`, `io`. */
  async start(): Promise<void> {
    const spool = this.#spool;
    const orphans = this.#chain.restore({
      checkpoint: (key) => spool.checkpoint(key),
      checkpointSources: (prefix) => spool.checkpointSources(prefix),
    });
    if (orphans.checkpoints.length > 0) {
      await spool.append(orphans.readings, orphans.checkpoints).catch((error: unknown) => {
        // They stay where they are, for a start that finds room.
        if (!isCode(error, 'full')) throw error;
      });
    }
    if (this.#chain.hasStates) this.#timer = setInterval(() => this.#storeOverdue(), OVERDUE_EVERY_MS);
  }

  /** As `Spool.append`. */
  async store(
    readings: Readings,
    checkpoints: readonly Checkpoint[],
    receipts: readonly Receipt[] = [],
  ): Promise<void> {
    this.#taps.show('in', readings);
    if (this.#chain.isEmpty) return this.#spoolThem(readings, checkpoints, receipts);
    // Before they are put together with the readings of others.
    assertCarried(readings);
    if (!this.#chain.hasStates) return this.#append(await this.#chain.run(readings), checkpoints, receipts);
    return new Promise<void>((resolve, reject) => {
      this.#waiting.push({ readings, checkpoints, receipts, resolve, reject });
      this.#start();
    });
  }

  checkpoint(key: string): CheckpointState | undefined {
    return this.#spool.checkpoint(key);
  }

  checkpointKeys(prefix: string): readonly string[] {
    return this.#spool.checkpointSources(prefix);
  }

  receipts(source: string): ReadonlyMap<string, string> {
    return this.#spool.receipts(source);
  }

  waitForRoom(signal: AbortSignal): Promise<void> {
    return this.#spool.waitForRoom(signal);
  }

  counters(): readonly TransformCounters[] {
    return this.#chain.counters();
  }

  /** Waits for what is under way. What transforms hold back is on the disk, for the next start. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    while (this.#running !== undefined) await this.#running;
  }

  #start(): void {
    this.#running ??= this.#storeWaiting().finally(() => {
      this.#running = undefined;
      if (this.#waiting.length > 0) this.#start();
    });
  }

  async #storeWaiting(): Promise<void> {
    while (this.#waiting.length > 0) await this.#storeTogether(this.#takeBatch());
  }

  /** At least one. */
  #takeBatch(): readonly Waiting[] {
    if (!this.#spool.isScarce) return this.#waiting.splice(0);
    const [first] = this.#waiting;
    const priority = first === undefined ? -1 : highestPriorityOf(first.readings);
    const end = this.#waiting.findIndex(({ readings }) => highestPriorityOf(readings) !== priority);
    return this.#waiting.splice(0, end < 0 ? this.#waiting.length : end);
  }

  async #storeTogether(batch: readonly Waiting[]): Promise<void> {
    try {
      const run = await this.#chain.run(batch.flatMap(({ readings }) => [...readings]));
      await this.#append(
        run,
        batch.flatMap(({ checkpoints }) => checkpoints),
        batch.flatMap(({ receipts }) => receipts),
      );
      for (const { resolve } of batch) resolve();
    } catch (error) {
      if (batch.length > 1 && isCode(error, 'full')) for (const each of batch) await this.#storeTogether([each]);
      else for (const { reject } of batch) reject(error);
    }
  }

  #storeOverdue(): void {
    // A batch under way has states that are not settled: the next second will do.
    if (this.#running !== undefined) return;
    this.#running = this.#storeEachOverdue().finally(() => {
      this.#running = undefined;
      if (this.#waiting.length > 0) this.#start();
    });
  }

  /** Transform by transform: what is refused of one (the log may refuse its topic) is not in the way of the others. */
  async #storeEachOverdue(): Promise<void> {
    for (const step of this.#chain.holding) {
      try {
        const run = await this.#chain.overdue(this.#clock.nowMs() * 1000, step);
        if (run !== null) await this.#append(run, [], []);
      } catch {
        // It is held back still, and tried again; a spool or quarantine that fails shows by the sources.
      }
    }
  }

  async #append(run: ChainRun, checkpoints: readonly Checkpoint[], receipts: readonly Receipt[]): Promise<void> {
    try {
      const failed = run.failed.filter((each) => !this.#kept.has(fingerprintOf(each)));
      if (failed.length > 0) {
        // Where it is known beforehand that the batch will be refused, nothing of it is kept.
        this.#spool.assertRoom(run.readings);
        await this.#keepFailed(failed);
      }
      await this.#spoolThem(run.readings, [...run.checkpoints, ...checkpoints], receipts);
    } catch (error) {
      run.rollback();
      throw error;
    }
    for (const each of run.failed) this.#kept.delete(fingerprintOf(each));
    run.commit();
  }

  /** What the rules leave of them. */
  async #spoolThem(
    readings: Readings,
    checkpoints: readonly Checkpoint[],
    receipts: readonly Receipt[],
  ): Promise<void> {
    const left = this.#rules.apply(readings);
    await this.#spool.append(this.#traces?.choose(left) ?? left, checkpoints, receipts);
    this.#rules.sampledOut += readings.length - left.length;
    this.#taps.show('out', left);
  }

  async #keepFailed(failed: readonly Failed[]): Promise<void> {
    for (const [transform, items] of Map.groupBy(failed, (each) => each.transform)) {
      await this.#quarantine.put(
        transform,
        items.map(({ reading: { topic, key, eventUs, value }, reason }) => ({
          reason,
          position: `${topic}: ${key?.slice(0, 100) ?? 'no sensor'} at ${eventUs}`,
          input: typeof value === 'string' ? Buffer.from(value) : value,
        })),
      );
      for (const each of items) this.#kept.add(fingerprintOf(each));
    }
    for (const oldest of this.#kept) {
      if (this.#kept.size <= KEPT_MAX) break;
      this.#kept.delete(oldest);
    }
  }
}

/** Without its times: a sender that repeats a request has it arrive anew. */
function fingerprintOf({ transform, reading: { topic, key, value } }: Failed): string {
  return createHash('sha256')
    .update(JSON.stringify([transform, topic, key]))
    .update(value)
    .digest('base64');
}
