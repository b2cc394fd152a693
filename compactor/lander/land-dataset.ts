/**
 * Lands one dataset: rounds of reading, staging and committing.
 *
 * A round begins from the engine's records (offsets, table), never from memory, so that every way a round can fail ends in the same
 * place: what it staged is forgotten and the next one starts from the truth.
 * Limits: ROUND_FAILURES_MAX rounds in a row may fail for passing reasons before `once` gives up; without `once` it goes on
 * trying, more slowly.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { describeError, isCode, PenstockError } from '../../lib/errors.ts';
import type { Log, TopicInfo, TopicOptions } from '../../lib/log/log.ts';
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import { type LakeContext, loadTable } from '../../lib/table/table.ts';
import { commitStaged, type LandTotals } from './commit-staged.ts';
import type { CommitScope } from './land-files.ts';
import type { ValueDecoder } from '../values/value-decoder.ts';
import { openStaging } from './open-staging.ts';
import { readOffsets } from '../../lib/lake/offsets.ts';
import { hasMoved, stagePortion } from './stage-portion.ts';
import type { Staging } from './staging.ts';
import { isPassing, type PartitionCursor, TopicSource } from './topic-source.ts';

const ROUND_FAILURES_MAX = 20;
const PAUSE_MS_MIN = 20;
const PAUSE_MS_MAX = 10_000;
/** How often an idle topic is asked for news: far below a commit's period, and 4 requests a second are nothing. */
const IDLE_MS = 250;
/** The consumer group under which progress is shown to Kafka's own tools. */
const HINT_GROUP = 'penstock-lander';

export interface DatasetLanderOptions {
  readonly lake: LakeContext;
  readonly log: Log;
  readonly db: DuckDb;
  readonly scratchDir: string;
  readonly dataset: DatasetConfig;
  /** null: the values are JSON. */
  readonly decoder: ValueDecoder | null;
  readonly commitEveryMs: number;
  /** A commit is due when this many bytes of values are staged. */
  readonly stagedBytesMax: number;
  readonly topic: TopicOptions;
  readonly once: boolean;
  /** Steps over what is damaged in the log, as lost. */
  readonly skipDamaged: boolean;
  /** Ends reading; what is staged is still committed. */
  readonly signal: AbortSignal;
  /** It goes on, whatever it met; `read`: the log was looked at, whatever it had. */
  onTurn(read: boolean): void;
  onCommit(totals: LandTotals): void;
  /** Trouble by name, when it is found; `lasting`: what does not land (`DatasetResult.problems`), else it may pass. */
  onProblem(message: string, lasting: boolean): void;
}

export interface DatasetResult {
  readonly totals: LandTotals;
  /** What did not land, by name: damaged partitions, records that retention removed, what `once` was not given the time for. */
  readonly problems: readonly string[];
}

type RoundEnd = 'done' | 'due' | 'stuck';

export class DatasetLander {
  readonly #options: DatasetLanderOptions;
  readonly #problems = new Set<string>();
  #totals: LandTotals = { records: 0, rows: 0, quarantined: 0, lost: 0, files: 0, bytes: 0 };
  /** What `once` asked for and the last round left, by name; undefined before the first has ended. */
  #left: readonly string[] | undefined;
  /** Where `once` ends, as seen at the start, for the topic of this id. */
  #targets: { readonly topicId: string; readonly byPartition: ReadonlyMap<number, number> } | undefined;

  constructor(options: DatasetLanderOptions) {
    this.#options = options;
  }

  /** Throws what a later round would not cure: `fenced`, `config`. */
  async run(): Promise<DatasetResult> {
    const { signal, once } = this.#options;
    for (let failures = 0; ;) {
      this.#options.onTurn(false);
      try {
        const state = await this.#round();
        failures = 0;
        if (state === 'done' || signal.aborted) break;
        // Every partition is damaged: look again now and then, somebody may mend it.
        if (state === 'stuck') await this.#pause(PAUSE_MS_MAX);
      } catch (error) {
        if (isCode(error, 'corrupt')) {
          // The table's metadata: trouble of this dataset alone, which somebody may mend. The others go on.
          this.#noteLasting(describeError(error));
          if (once || signal.aborted) break;
          await this.#pause(PAUSE_MS_MAX);
          continue;
        }
        if (!(error instanceof PenstockError) || !isPassing(error)) throw error;
        if (signal.aborted) break;
        failures++;
        if (once && failures > ROUND_FAILURES_MAX) throw error;
        this.#options.onProblem(describeError(error), false);
        await this.#pause(Math.random() * Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** failures));
      }
    }
    if (once && signal.aborted) this.#noteUnfinished();
    return { totals: this.#totals, problems: [...this.#problems] };
  }

  /** What `once` had to leave, because it was ended before it was done. */
  #noteUnfinished(): void {
    const { dataset, signal } = this.#options;
    const left = this.#left ?? [`topic ${dataset.topic}: what it holds has not landed`];
    for (const what of left) this.#noteLasting(`${what}: ${describeError(signal.reason)}`);
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#options.signal }).catch(() => undefined);
  }

  /** One commit, or nothing when there was nothing to read. `done`: all that `once` asked for has landed. */
  async #round(): Promise<RoundEnd> {
    const { lake, log, db, dataset, once } = this.#options;
    const topic = await log.ensureTopic(dataset.topic, this.#options.topic);
    const partitions = Array.from({ length: topic.partitions }, (_, partition) => partition);
    const targets = once ? await this.#targetsOf(topic, partitions) : new Map<number, number>();
    // The offsets of its last commit may not be in the engine yet.
    if (lake.catalog !== undefined) await loadTable(lake, dataset.name);
    const offsets = await readOffsets(lake.engine, lake.volume, dataset.name, partitions);
    const source = await TopicSource.open(log, topic, offsets, targets, this.#options.skipDamaged);
    for (const lost of source.lost) this.#noteLasting(lost);
    const { staging, nextFieldId } = await openStaging(lake, dataset, db, this.#options.decoder);
    try {
      const place = { topic: topic.name, topicId: topic.id };
      const end = await this.#fill(source, staging, place, nextFieldId);
      if (source.cursors.some(hasMoved)) {
        const scope: CommitScope = { lake, dataset, db, scratchDir: this.#options.scratchDir, place };
        this.#count(await commitStaged(scope, staging, source.cursors));
        await this.#hint(topic, source);
      }
      if (once) this.#left = source.active.map((cursor) => leftOf(topic, cursor));
      return end;
    } finally {
      await staging.drop();
    }
  }

  async #targetsOf(topic: TopicInfo, partitions: readonly number[]): Promise<ReadonlyMap<number, number>> {
    if (this.#targets?.topicId !== topic.id) {
      const byPartition = new Map<number, number>();
      for (const partition of partitions) {
        byPartition.set(partition, Number((await this.#options.log.offsets(topic.name, partition)).end));
      }
      this.#targets = { topicId: topic.id, byPartition };
    }
    // A partition that was added later is not part of what was seen at the start.
    const { byPartition } = this.#targets;
    return new Map(partitions.map((partition) => [partition, byPartition.get(partition) ?? 0]));
  }

  /** Stages until a commit is due. */
  async #fill(
    source: TopicSource,
    staging: Staging,
    place: { readonly topic: string; readonly topicId: string },
    nextFieldId: () => number,
  ): Promise<RoundEnd> {
    const { signal, once, commitEveryMs, stagedBytesMax } = this.#options;
    const { clock } = this.#options.lake;
    // A loss is committed in its time, too, though nothing may come after it.
    let dueMs = source.cursors.some(hasMoved) ? clock.monotonicMs() + commitEveryMs : Infinity;
    while (!signal.aborted && staging.bytes < stagedBytesMax && clock.monotonicMs() < dueMs) {
      const portion = await source.next(signal);
      this.#noteStopped(source);
      this.#options.onTurn(true);
      for (const lost of source.lost) this.#noteLasting(lost);
      if (dueMs === Infinity && source.cursors.some(hasMoved)) dueMs = clock.monotonicMs() + commitEveryMs;
      if (portion === null) {
        if (once) return 'done';
        if (source.active.length === 0) return 'stuck';
        const leftMs = dueMs - clock.monotonicMs();
        await this.#pause(Math.max(1, Math.min(IDLE_MS, commitEveryMs, leftMs)));
        continue;
      }
      if (dueMs === Infinity) dueMs = clock.monotonicMs() + commitEveryMs;
      try {
        if (!(await stagePortion(staging, portion, place, nextFieldId))) return 'due';
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
  async #hint(topic: TopicInfo, source: TopicSource): Promise<void> {
    for (const { partition, next } of source.cursors.filter(hasMoved)) {
      try {
        await this.#options.log.commitHint(HINT_GROUP, topic.name, partition, BigInt(next));
      } catch (error) {
        this.#options.onProblem(
          `${topic.name}/${partition}: offsets not shown to the log: ${describeError(error)}`,
          false,
        );
      }
    }
  }
}

function leftOf(topic: TopicInfo, { partition, next, target }: PartitionCursor): string {
  return `${topic.name}/${partition}: offsets ${next} to ${target - 1} have not landed`;
}
