/**
 * Lands one lander's share of a dataset: rounds of reading, staging and committing.
 *
 * A round begins from the engine's records (offsets with who lands them, table), never from memory, so that every way a round can fail ends
 * in the same place: what it staged is forgotten and the next one starts from the truth. A round also ends, with a commit, when the shares
 * are to change, or the topic is gone. One that was deleted under a lander is waited for: who makes it anew decides how.
 * Limits: rounds may fail for passing reasons for ONCE_FAILING_MS_MAX and ONCE_FAILURES_MIN, or ROUND_FAILURES_MAX in a row, before `once` gives up; without
 * `once` it goes on trying, more slowly. A lander that cannot land leaves its share to the others for REST_MS; the last one keeps it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { describeError, isCode, PenstockError } from '../../lib/errors.ts';
import type { Log, TopicInfo, TopicOptions } from '../../lib/log/log.ts';
import { type DuckDb, isOutOfMemory } from '../../lib/sql/duckdb.ts';
import { type LakeContext, loadTable } from '../../lib/table/table.ts';
import { commitStaged, type LandTotals } from './commit-staged.ts';
import type { CommitScope } from './land-files.ts';
import type { ValueDecoder } from '../values/value-decoder.ts';
import { DatasetShare, type Share } from './dataset-share.ts';
import { findTopic } from './find-topic.ts';
import { RoundTraces, type LandingTracesOptions } from './landing-traces.ts';
import type { Membership } from './membership.ts';
import { OnceGoal } from './once-goal.ts';
import { openStaging } from './open-staging.ts';
import { OpenTransactions } from './open-transactions.ts';
import { hasMoved, type StagePlace, stagePortion } from './stage-portion.ts';
import type { Staging } from './staging.ts';
import { isPassing, type PartitionCursor, TopicSource } from './topic-source.ts';

/** Less makes files of nothing but footers, and one record has at most 1 MiB. */
export const STAGED_BYTES_MIN = 4_000_000;
const ROUND_FAILURES_MAX = 20;
/** Longer than a broker's restart or a failover takes. What is away for longer is somebody's to mend, and a job must not hide that. */
const ONCE_FAILING_MS_MAX = 60_000;
/** A round may take minutes, up to its last put: two that failed need not have met the same trouble. */
const ONCE_FAILURES_MIN = 3;
const PAUSE_MS_MIN = 20;
const PAUSE_MS_MAX = 10_000;
/** How often an idle topic is asked for news: far below a commit's period, and 4 requests a second are nothing. */
const IDLE_MS = 250;
/** Rounds in a row that failed for reasons of its own; others may be able to do what this one cannot. */
const UNABLE_ROUNDS_MAX = 3;
const REST_MS = 60_000;
/** How often progress is shown to Kafka's own tools without a commit: others may write there, too. */
const HINT_EVERY_MS = 60_000;

export interface DatasetLanderOptions {
  readonly lake: LakeContext;
  readonly log: Log;
  readonly membership: Membership;
  readonly db: DuckDb;
  readonly scratchDir: string;
  readonly dataset: DatasetConfig;
  /** null: the values are JSON. */
  readonly decoder: ValueDecoder | null;
  readonly commitEveryMs: number;
  /** A commit is due when this many bytes of values are staged; by half as many, down to STAGED_BYTES_MIN, after these did not fit into memory. */
  readonly stagedBytesMax: number;
  readonly topic: TopicOptions;
  readonly once: boolean;
  /** Steps over what is damaged in the log, as lost. */
  readonly skipDamaged: boolean;
  readonly traces?: LandingTracesOptions;
  /** Ends reading; what is staged is still committed. */
  readonly signal: AbortSignal;
  /** It goes on, whatever it met; `read`: the log was looked at, whatever it had. */
  onTurn(read: boolean): void;
  /** What it has, now and then. */
  onShare(held: HeldShare): void;
  onCommit(totals: LandTotals): void;
  /** Trouble by name, when it is found; `lasting`: what does not land (`DatasetResult.problems`), else it may pass. */
  onProblem(message: string, lasting: boolean): void;
}

/** The partitions that a lander lands, and the records in them that have not landed. */
export interface HeldShare {
  readonly partitions: number;
  readonly unlanded: number;
}

export interface DatasetResult {
  readonly totals: LandTotals;
  /** What did not land, by name: damaged partitions, records that retention removed, what `once` was not given the time for. */
  readonly problems: readonly string[];
}

/** `idle`: there is nothing for this lander now. */
type RoundEnd = 'done' | 'due' | 'stuck' | 'idle';

const NO_TARGETS: ReadonlyMap<number, number> = new Map();

export class DatasetLander {
  readonly #options: DatasetLanderOptions;
  readonly #problems = new Set<string>();
  #totals: LandTotals = { records: 0, rows: 0, quarantined: 0, lost: 0, files: 0, bytes: 0 };
  /** What `once` asked for and the last round left, by name; undefined before the first has ended. */
  #left: readonly string[] | undefined;
  readonly #share: DatasetShare;
  /** Only with `once`. */
  readonly #goal: OnceGoal | undefined;
  readonly #openTransactions: OpenTransactions;
  #beats = 0;
  /** Of the topic that was landed last; undefined: it was not seen yet. */
  #topicId: string | undefined;
  #isTopicGone = false;
  #hintedMs = -Infinity;
  #hintTrouble: string | undefined;
  #stagedBytesMax: number;

  constructor(options: DatasetLanderOptions) {
    const { lake, log, dataset, membership, once, commitEveryMs } = options;
    this.#options = options;
    this.#stagedBytesMax = options.stagedBytesMax;
    this.#share = new DatasetShare(lake, dataset.name, membership);
    this.#goal = once
      ? new OnceGoal(log, lake.clock, commitEveryMs, (told) => options.onProblem(told, false))
      : undefined;
    this.#openTransactions = new OpenTransactions(lake.clock);
  }

  /** Throws what a later round would not cure: `fenced`, `config`. */
  async run(): Promise<DatasetResult> {
    const { signal, once, lake } = this.#options;
    for (let failures = 0, unable = 0, sinceMs = 0; ;) {
      this.#options.onTurn(false);
      try {
        if (unable >= UNABLE_ROUNDS_MAX) await this.#stepBack();
        const state = await this.#round();
        [failures, unable] = [0, 0];
        if (state === 'done' || signal.aborted) break;
        // Every partition is damaged: look again now and then, somebody may mend it.
        if (state === 'stuck') await this.#pause(PAUSE_MS_MAX);
        if (state === 'idle') await this.#pause(once ? IDLE_MS : this.#options.membership.beatMs);
      } catch (error) {
        if (isCode(error, 'corrupt')) {
          // The table's metadata: trouble of this dataset alone, which somebody may mend. The others go on.
          this.#noteLasting(describeError(error));
          if (once || signal.aborted) break;
          await this.#pause(PAUSE_MS_MAX);
          continue;
        }
        if (isOutOfMemory(error) && this.#stagedBytesMax > STAGED_BYTES_MIN) {
          this.#stageLess(error);
          continue;
        }
        // Told to end with the session gone: what was staged lands the next time.
        if (signal.aborted && isCode(error, 'fenced')) break;
        if (!(error instanceof PenstockError) || !isPassing(error)) throw error;
        if (signal.aborted) break;
        if (failures++ === 0) sinceMs = lake.clock.monotonicMs();
        unable = isCode(error, 'conflict') ? 0 : unable + 1;
        const failingMs = lake.clock.monotonicMs() - sinceMs;
        const isLasting = failures >= ONCE_FAILURES_MIN && failingMs > ONCE_FAILING_MS_MAX;
        if (once && (isLasting || failures > ROUND_FAILURES_MAX)) throw this.#gaveUp(error, failingMs);
        this.#options.onProblem(describeError(error), false);
        await this.#pause(Math.random() * Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** failures));
      }
    }
    if (once && signal.aborted) this.#noteUnfinished();
    return { totals: this.#totals, problems: [...this.#problems] };
  }

  /**
   * Values of hundreds of kB each take several times their bytes while they are written: DuckDB writes 2,048 rows at a time and spills none of them. Nor would they
   * fit after a restart.
   */
  #stageLess(error: unknown): void {
    this.#stagedBytesMax = Math.max(STAGED_BYTES_MIN, Math.floor(this.#stagedBytesMax / 2));
    const by = `${Math.round(this.#stagedBytesMax / 1e6)} MB at a time`;
    this.#options.onProblem(
      `lands by ${by} from now on, as more does not fit into memory: ${describeError(error)}`,
      false,
    );
  }

  #gaveUp(error: PenstockError, failingMs: number): PenstockError {
    const { dataset, log } = this.#options;
    const message =
      `dataset ${dataset.name}: given up, as nothing could be landed from topic ${dataset.topic} of ${log.url} for ` +
      `${Math.round(failingMs / 1000)} s: ${describeError(error)}. Nothing is lost: mend that (is it running, and can this machine ` +
      'reach its host and port?) and run it again; what landed before stays';
    return new PenstockError(error.code, message, { cause: error });
  }

  /** What `once` had to leave, because it was ended before it was done. */
  #noteUnfinished(): void {
    const { dataset, signal } = this.#options;
    const left = this.#left ?? [`topic ${dataset.topic}: what it holds has not landed`];
    for (const what of left) this.#noteLasting(`${what}: ${describeError(signal.reason)}`);
  }

  /** Leaves its share to the others, if there are any. */
  async #stepBack(): Promise<void> {
    const { membership, dataset, signal, lake } = this.#options;
    const untilMs = lake.clock.monotonicMs() + REST_MS;
    const hasOthers = (): boolean => membership.members(dataset.name).some((id) => id !== membership.id);
    if (!hasOthers()) return;
    this.#options.onProblem(`${UNABLE_ROUNDS_MAX} rounds failed: its partitions are left to the other landers`, false);
    this.#options.onShare({ partitions: 0, unlanded: 0 });
    try {
      await membership.take(dataset.name, false);
      while (!signal.aborted && hasOthers() && lake.clock.monotonicMs() < untilMs) {
        this.#options.onTurn(false);
        await this.#pause(membership.beatMs);
      }
    } finally {
      await membership.take(dataset.name, true);
    }
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#options.signal }).catch(() => undefined);
  }

  /** One commit, or nothing when there was nothing to read. `done`: all that `once` asked for has landed. */
  async #round(): Promise<RoundEnd> {
    const { lake, log, db, dataset } = this.#options;
    lake.engine.lost.throwIfAborted();
    const topic = await this.#topic();
    if (topic === null) return this.#goal === undefined ? 'idle' : 'done';
    const targets = (await this.#goal?.targets(topic)) ?? NO_TARGETS;
    // The offsets of its last commit may not be in the engine yet.
    if (lake.catalog !== undefined) await loadTable(lake, dataset.name);
    const share = await this.#share.settle(topic);
    if (share.mine.length === 0) {
      this.#options.onShare({ partitions: 0, unlanded: 0 });
      this.#options.onTurn(true);
      return this.#othersEnd(topic, share, []);
    }
    const source = await TopicSource.open(log, topic, share.mine, targets, this.#options.skipDamaged);
    for (const lost of source.lost) this.#noteLasting(lost);
    const { staging, nextFieldId } = await openStaging(lake, dataset, db, this.#options.decoder);
    let traces: RoundTraces | undefined;
    try {
      const place = { topic: topic.name, topicId: topic.id };
      traces = this.#options.traces && new RoundTraces(this.#options.traces, place);
      const end = await this.#fill(source, staging, {
        ...place,
        traces,
        nextFieldId,
        isOver: () => this.#isOver(topic, share, source),
      });
      if (source.cursors.some(hasMoved)) {
        const scratch = { scratchDir: this.#options.scratchDir };
        const scope: CommitScope = { lake, dataset, db, ...scratch, place, ...(traces && { traces }) };
        this.#count(await commitStaged(scope, staging, source.cursors));
        traces?.end();
        await this.#hint(topic, new Map(source.cursors.map(({ partition, next }) => [partition, BigInt(next)])));
      }
      const left = source.active.map((cursor) => leftOf(topic, cursor));
      const others = await this.#othersEnd(topic, share, left);
      return end === 'done' ? others : end;
    } catch (error) {
      traces?.end(error);
      throw error;
    } finally {
      await staging.drop();
    }
  }

  /** Made at the start if it is missing; null: it was deleted since. */
  async #topic(): Promise<TopicInfo | null> {
    const { log, dataset } = this.#options;
    const before = this.#topicId;
    const topic = before === undefined ? await this.#firstTopic() : await findTopic(log, dataset.topic);
    if (topic === null) {
      const deleted = `topic ${dataset.topic} was deleted: it lands again when somebody has made it anew`;
      if (this.#goal !== undefined) this.#noteLasting(deleted);
      else if (!this.#isTopicGone) this.#options.onProblem(deleted, false);
      this.#isTopicGone = true;
      this.#options.onShare({ partitions: 0, unlanded: 0 });
      return null;
    }
    if (before !== undefined && before !== topic.id) {
      const anew = `topic ${topic.name} was made anew (id ${topic.id}, before ${before}): it lands from its beginning`;
      this.#options.onProblem(anew, false);
    }
    [this.#topicId, this.#isTopicGone] = [topic.id, false];
    return topic;
  }

  /** One that nobody has written to yet is no error (it is made), and one that is misspelt looks the same: it is said. */
  async #firstTopic(): Promise<TopicInfo> {
    const { log, dataset } = this.#options;
    const found = await findTopic(log, dataset.topic);
    if (found !== null) return found;
    const made = await log.ensureTopic(dataset.topic, this.#options.topic);
    const partitions = Array.from({ length: made.partitions }, (_, partition) => partition);
    const ends = await Promise.all(partitions.map((partition) => log.offsets(made.name, partition)));
    // Somebody has made it meanwhile, or the broker that was asked had not heard of it yet.
    if (ends.some(({ end }) => end > 0n)) return made;
    const what = `topic ${made.name} was not there, and there is nothing to land in it yet`;
    this.#options.onProblem(`${what}: is datasets[].topic spelt as the producers have it?`, false);
    return made;
  }

  /** What `once` waits for when its own partitions are done; `left`: what is left of these. */
  async #othersEnd(topic: TopicInfo, share: Share, left: readonly string[]): Promise<RoundEnd> {
    if (this.#goal === undefined) return 'idle';
    const { membership } = this.#options;
    const awaited = await this.#goal.awaited(topic, share.others, (id) => membership.describe(id));
    this.#left = [...left, ...awaited.left];
    if (awaited.left.length > awaited.stalled.length) return 'idle';
    for (const what of awaited.stalled) this.#noteLasting(what);
    return 'done';
  }

  /** Once a beat: whether the round must end because the shares, or the topic, are not what they were. */
  async #isOver(topic: TopicInfo, share: Share, source: TopicSource): Promise<boolean> {
    const { membership, lake } = this.#options;
    // Without a session there are no beats: an idle lander would keep what others have taken, and find out at its next commit.
    lake.engine.lost.throwIfAborted();
    if (membership.beats === this.#beats) return false;
    this.#beats = membership.beats;
    this.#options.onShare({
      partitions: source.cursors.length,
      unlanded: source.cursors.reduce((sum, { start, end }) => sum + Math.max(0, end - start), 0),
    });
    for (const held of this.#openTransactions.look(topic.name, source.cursors)) this.#options.onProblem(held, false);
    if (lake.clock.monotonicMs() - this.#hintedMs > HINT_EVERY_MS) {
      await this.#hint(topic, new Map(source.cursors.map(({ partition, start }) => [partition, BigInt(start)])));
    }
    const now = await source.lookForTopic();
    return source.isGone || now?.partitions !== topic.partitions || (await this.#share.isDue(topic, share));
  }

  /** Stages until a commit is due. */
  async #fill(
    source: TopicSource,
    staging: Staging,
    round: StagePlace & {
      readonly traces: RoundTraces | undefined;
      readonly nextFieldId: () => number;
      readonly isOver: () => Promise<boolean>;
    },
  ): Promise<RoundEnd> {
    const { signal, once, commitEveryMs } = this.#options;
    const { clock } = this.#options.lake;
    // A loss is committed in its time, too, though nothing may come after it.
    let dueMs = source.cursors.some(hasMoved) ? clock.monotonicMs() + commitEveryMs : Infinity;
    while (!signal.aborted && staging.bytes < this.#stagedBytesMax && clock.monotonicMs() < dueMs) {
      const isOver = await round.isOver();
      const portion = isOver ? null : await source.next(signal);
      round.traces?.fetched();
      this.#noteStopped(source);
      for (const lost of source.lost) this.#noteLasting(lost);
      if (isOver || source.isGone || source.isCut) return 'due';
      this.#options.onTurn(true);
      if (dueMs === Infinity && source.cursors.some(hasMoved)) dueMs = clock.monotonicMs() + commitEveryMs;
      if (portion === null) {
        if (once) return 'done';
        if (source.active.length === 0) return 'stuck';
        // What has stopped is looked at again by the next round: retention went past it, or somebody mends it.
        if (dueMs === Infinity && source.cursors.some(({ stopped }) => stopped !== undefined)) {
          dueMs = clock.monotonicMs() + Math.max(PAUSE_MS_MAX, commitEveryMs);
        }
        const leftMs = dueMs - clock.monotonicMs();
        await this.#pause(Math.max(1, Math.min(IDLE_MS, commitEveryMs, leftMs)));
        continue;
      }
      if (dueMs === Infinity) dueMs = clock.monotonicMs() + commitEveryMs;
      try {
        if (!(await stagePortion(staging, portion, round, round.nextFieldId, round.traces))) return 'due';
      } catch (error) {
        if (!isCode(error, 'corrupt', 'unsupported')) throw error;
        source.stop(portion.cursor, error);
        this.#noteStopped(source);
      }
    }
    return once && source.active.length === 0 ? 'done' : 'due';
  }

  #noteStopped(source: TopicSource): void {
    for (const { stopped } of source.cursors) {
      if (stopped === undefined || (this.#options.signal.aborted && isCode(stopped, 'aborted'))) continue;
      if (isPassing(stopped)) throw stopped;
      this.#noteLasting(describeError(stopped));
    }
  }

  #noteLasting(problem: string): void {
    if (this.#problems.has(problem)) return;
    this.#problems.add(problem);
    this.#options.onProblem(problem, true);
  }

  #count(totals: LandTotals): void {
    const sum = this.#totals;
    this.#totals = {
      records: sum.records + totals.records,
      rows: sum.rows + totals.rows,
      quarantined: sum.quarantined + totals.quarantined,
      lost: sum.lost + totals.lost,
      files: sum.files + totals.files,
      bytes: sum.bytes + totals.bytes,
    };
    this.#options.onCommit(totals);
  }

  /** Committed last, and only for others to look at: losing it loses nothing. */
  async #hint(topic: TopicInfo, nextOffsets: ReadonlyMap<number, bigint>): Promise<void> {
    const { dataset, lake, log } = this.#options;
    this.#hintedMs = lake.clock.monotonicMs();
    try {
      await log.commitHint(hintGroup(dataset.name), topic.name, nextOffsets);
      this.#hintTrouble = undefined;
    } catch (error) {
      const why = isCode(error, 'held')
        ? 'another program is a member of it. What lands does not hang on it: give that program a group of its own'
        : describeError(error);
      const message = `${topic.name}: offsets not shown to the log, in group ${hintGroup(dataset.name)}: ${why}`;
      // After each commit it would be the same.
      if (message !== this.#hintTrouble) this.#options.onProblem(message, false);
      this.#hintTrouble = message;
    }
  }
}

/** The consumer group that shows how far a dataset is. */
function hintGroup(dataset: string): string {
  return `penstock-lander-${dataset}`;
}

function leftOf(topic: TopicInfo, { partition, next, target }: PartitionCursor): string {
  return `${topic.name}/${partition}: offsets ${next} to ${target - 1} have not landed`;
}
