/** What a dataset adds up to: its counters and its live files. */
import { type LakeContext, loadTable } from '../table/table.ts';
import { readCounters } from './counters.ts';
import { isSortedIn } from './file-names.ts';

export interface DatasetStats {
  /** Taken from the log, quarantined ones included. */
  readonly landed: number;
  readonly quarantined: number;
  /** Removed by the log's retention before they were taken; not among `landed`. */
  readonly lost: number;
  /** Rows that compactions left out as repeats. */
  readonly duplicates: number;
  /** Rows that retention, an erasure, or deletes of other writers that a compaction applied took out. */
  readonly removed: number;
  /** In the files of the current snapshot, also where row-level deletes of other writers wait for a compaction. After a compaction of everything: landed - duplicates - quarantined - removed. */
  readonly liveRows: number;
  readonly liveFiles: number;
  readonly liveBytes: number;
  /** Live files that no compaction has sorted yet. */
  readonly smallFiles: number;
  /** What the lander ever wrote. */
  readonly landedFiles: number;
  readonly landedBytes: number;
}

/** All numbers are of one moment only when nothing commits meanwhile. */
export async function datasetStats(lake: LakeContext, dataset: string): Promise<DatasetStats> {
  const counters = await readCounters(lake.engine, lake.volume, dataset);
  const table = await loadTable(lake, dataset);
  const live = { rows: 0, files: 0, bytes: 0, small: 0 };
  if (table !== null) {
    const isSorted = isSortedIn(table.metadata);
    for await (const file of table.liveFiles()) {
      live.rows += Number(file.recordCount);
      live.files++;
      live.bytes += Number(file.bytes);
      if (!isSorted(file)) live.small++;
    }
  }
  return {
    landed: counters.landed,
    quarantined: counters.quarantined,
    lost: counters.lost,
    duplicates: counters.duplicates,
    removed: counters.removed,
    liveRows: live.rows,
    liveFiles: live.files,
    liveBytes: live.bytes,
    smallFiles: live.small,
    landedFiles: counters.files,
    landedBytes: counters.bytes,
  };
}
