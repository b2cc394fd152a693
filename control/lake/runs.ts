/**
 * The cost records as lists and sums. A dataset's records are held sorted in memory and read again when their number has changed, and the list of
 * several datasets is made again when one of theirs is, so that a page of a long list costs neither a scan nor a sort. A record is never changed, so one that is known
 * is not parsed again.
 *
 * Limits: what lib/lake/cost-records.ts keeps, at most 20,500 a dataset, about 300 bytes each. The number is asked for every COUNT_MS; one that is the same after a
 * record came and another went is noticed within REREAD_MS.
 */
import type { Clock } from '../../lib/clock.ts';
import type { DatasetRun } from '../../lib/lake/cost-periods.ts';
import { costBucket, readCosts } from '../../lib/lake/cost-records.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { SharedReading } from '../shared-reading.ts';

const COUNT_MS = 1000;
const REREAD_MS = 60_000;

export interface Run extends DatasetRun {
  /** Sorts by start: the record's field. */
  readonly id: string;
}

interface Readings {
  readonly count: SharedReading<number>;
  readonly runs: SharedReading<readonly Run[]>;
}

export class Runs {
  readonly #clock: Clock;
  /** By dataset. */
  readonly #readings = new Map<string, Readings>();
  /** By datasets: those of a tenant, or all. */
  readonly #merged = new Map<string, { readonly lists: readonly (readonly Run[])[]; readonly runs: readonly Run[] }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Newest first, over all of `datasets`. The same array, until another run is there. */
  async list(engine: MetaEngine, volume: string, datasets: readonly string[]): Promise<readonly Run[]> {
    const lists = await Promise.all(datasets.map((dataset) => this.#of(engine, volume, dataset)));
    if (lists.length === 1) return lists[0] ?? [];
    const key = datasets.join();
    const known = this.#merged.get(key);
    if (known?.lists.every((list, index) => list === lists[index]) === true) return known.runs;
    const runs = lists.flat().sort(newestFirst);
    this.#merged.set(key, { lists, runs });
    return runs;
  }

  async #of(engine: MetaEngine, volume: string, dataset: string): Promise<readonly Run[]> {
    let readings = this.#readings.get(dataset);
    if (readings === undefined) {
      readings = {
        count: new SharedReading(this.#clock, COUNT_MS),
        runs: new SharedReading(this.#clock, REREAD_MS),
      };
      this.#readings.set(dataset, readings);
    }
    const { count, runs } = readings;
    const number = await count.get(() => engine.count(costBucket(volume, dataset)));
    const before = runs.kept;
    return runs.get(
      async () => readRuns(engine, volume, dataset, (await before?.catch(() => undefined)) ?? []),
      number,
    );
  }
}

async function readRuns(
  engine: MetaEngine,
  volume: string,
  dataset: string,
  before: readonly Run[],
): Promise<readonly Run[]> {
  const known = new Map(before.map((run) => [run.id, run]));
  const runs: Run[] = [];
  for await (const [id, record] of readCosts(engine, volume, dataset, known)) {
    runs.push(known.get(id) ?? { id, dataset, ...record });
  }
  return runs.sort(newestFirst);
}

export function newestFirst(a: Pick<Run, 'id' | 'dataset'>, b: Pick<Run, 'id' | 'dataset'>): number {
  if (a.id !== b.id) return a.id < b.id ? 1 : -1;
  return a.dataset < b.dataset ? -1 : Number(a.dataset !== b.dataset);
}
