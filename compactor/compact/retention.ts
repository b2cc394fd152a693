/**
 * Retention: the hours of a dataset that ended longer ago than it keeps are dropped from the table and from the volume's listings, in
 * one commit for every HOURS_A_COMMIT of them. Their objects follow after the grace of replaced files (retire.ts).
 *
 * Invariants
 * - Whole hours only, and an hour is dropped from the table and from its directory in the same instant.
 * - landed = live + duplicates + quarantined + removed stays true: the rows are counted in the same minitransaction.
 * - Nothing is dropped by a clock that is off (engine-clock.ts).
 * Failure: killed anywhere, the next run drops what is left. Late records of a dropped hour land, and go with the next run.
 */
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { addToCounters } from '../../lib/lake/counters.ts';
import { commitTable } from '../../lib/table/commit.ts';
import type { LiveFile } from '../../lib/table/data-file.ts';
import { type LakeContext, loadTable } from '../../lib/table/table.ts';
import { fileNameOf } from '../parquet-object.ts';
import { assertEngineClock } from '../engine-clock.ts';

const MS_PER_HOUR = 3_600_000;
/** Two records of the minitransaction each, far below its bound. */
const HOURS_A_COMMIT = 100;

export interface Dropped {
  readonly hours: number;
  readonly files: number;
  readonly rows: number;
}

/** The first hour that is kept; -Infinity without retention. */
export function firstKeptHour({ retention }: DatasetConfig, nowMs: number): number {
  return retention === undefined ? -Infinity : Math.floor((nowMs - retention) / MS_PER_HOUR);
}

/** Throws `unavailable` when the clocks disagree, `corrupt` when the table cannot be read. */
export async function dropExpired(lake: LakeContext, dataset: DatasetConfig, signal: AbortSignal): Promise<Dropped> {
  const sum = { hours: 0, files: 0, rows: 0 };
  const firstKept = firstKeptHour(dataset, lake.clock.nowMs());
  const table = firstKept === -Infinity ? null : await loadTable(lake, dataset.name);
  if (table === null) return sum;
  const expired = new Set<number>();
  for await (const { hour } of table.liveFiles()) if (hour < firstKept) expired.add(hour);
  if (expired.size === 0) return sum;
  await assertEngineClock(lake);
  const hours = [...expired].sort((a, b) => a - b);
  for (let at = 0; at < hours.length; at += HOURS_A_COMMIT) {
    signal.throwIfAborted();
    const dropped = await dropHours(lake, dataset.name, hours.slice(at, at + HOURS_A_COMMIT));
    sum.hours += dropped.hours;
    sum.files += dropped.files;
    sum.rows += dropped.rows;
  }
  return sum;
}

async function dropHours(lake: LakeContext, dataset: string, hours: readonly number[]): Promise<Dropped> {
  let dropped: Dropped = { hours: 0, files: 0, rows: 0 };
  await commitTable(lake, dataset, async (state) => {
    const files: LiveFile[] = [];
    for await (const file of state.liveFiles({ hours: new Set(hours) })) files.push(file);
    const rows = files.reduce((sum, file) => sum + Number(file.recordCount), 0);
    dropped = { hours: new Set(files.map((file) => file.hour)).size, files: files.length, rows };
    const changes = hours.map((hour) => ({
      hour,
      add: [],
      remove: files.filter((file) => file.hour === hour).map((file) => fileNameOf(file.location)),
    }));
    return {
      change: {
        operation: 'delete',
        add: [],
        remove: files.map((file) => file.location),
        removeHours: hours,
        summary: { 'penstock.removed': 'retention' },
      },
      extra: { patch: addToCounters(lake.volume, dataset, { removed: rows }) },
      hours: changes,
    };
  });
  return dropped;
}
