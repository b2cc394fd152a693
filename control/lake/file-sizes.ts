/**
 * How large the files of a dataset are: those that are live now, by whether a compaction has sorted them, and those that the lander wrote.
 *
 * `landed` comes from the summaries of the snapshots that are still kept: an append's files are counted at the mean of that append,
 * because the files themselves may be replaced. Limits: one scan of the manifests a snapshot, shared by everybody who asks.
 */
import { isSortedIn } from '../../lib/lake/file-names.ts';
import type { TableState } from '../../lib/table/table.ts';

/** Upper bounds in bytes; the last class has none. */
export const SIZE_BOUNDS = [64e3, 256e3, 1e6, 4e6, 16e6, 64e6, 256e6, 512e6, 1e9] as const;

export interface FileSizes {
  readonly boundsBytes: readonly number[];
  /** Number of files by class: one more than bounds. */
  readonly landed: readonly number[];
  readonly small: readonly number[];
  readonly compacted: readonly number[];
  readonly smallFiles: number;
  readonly compactedFiles: number;
  readonly snapshotId: string | null;
}

interface Scan {
  readonly snapshotId: bigint;
  readonly sizes: Promise<FileSizes>;
}

export class FileSizeIndex {
  readonly #scans = new Map<string, Scan>();

  async get(table: TableState | null): Promise<FileSizes> {
    const snapshot = table?.currentSnapshot;
    if (table == null || snapshot == null) return emptySizes();
    const snapshotId = snapshot['snapshot-id'];
    const known = this.#scans.get(table.name);
    if (known?.snapshotId === snapshotId) return known.sizes;
    const sizes = scan(table, String(snapshotId));
    this.#scans.set(table.name, { snapshotId, sizes });
    // A scan that failed must not be everybody's answer from now on.
    sizes.catch(() => this.#scans.delete(table.name));
    return sizes;
  }
}

async function scan(table: TableState, snapshotId: string): Promise<FileSizes> {
  const isSorted = isSortedIn(table.metadata);
  const [landed, small, compacted] = [landedSizes(table), noSizes(), noSizes()];
  for await (const file of table.liveFiles()) {
    count(isSorted(file) ? compacted : small, Number(file.bytes), 1);
  }
  return {
    boundsBytes: SIZE_BOUNDS,
    landed,
    small,
    compacted,
    smallFiles: sum(small),
    compactedFiles: sum(compacted),
    snapshotId,
  };
}

function landedSizes(table: TableState): number[] {
  const sizes = noSizes();
  for (const { summary } of table.metadata.snapshots) {
    const files = Number(summary['added-data-files'] ?? 0);
    if (summary.operation !== 'append' || files === 0) continue;
    count(sizes, Number(summary['added-files-size'] ?? 0) / files, files);
  }
  return sizes;
}

const noSizes = (): number[] => Array.from({ length: SIZE_BOUNDS.length + 1 }, () => 0);
const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0);

function count(sizes: number[], bytes: number, files: number): void {
  const found = SIZE_BOUNDS.findIndex((bound) => bytes <= bound);
  const at = found < 0 ? SIZE_BOUNDS.length : found;
  sizes[at] = (sizes[at] ?? 0) + files;
}

function emptySizes(): FileSizes {
  return {
    boundsBytes: SIZE_BOUNDS,
    landed: noSizes(),
    small: noSizes(),
    compacted: noSizes(),
    smallFiles: 0,
    compactedFiles: 0,
    snapshotId: null,
  };
}
