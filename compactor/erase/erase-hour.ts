/**
 * Rewrites the files of one hour that hold rows of an erasure without them, in one commit.
 *
 * Invariants: a rewritten file has the rows before without those that match and those that row-level deletes of another writer took
 * out, counted and read back before it is committed; the order of the others stays, and so does what the file is said to be sorted by. Rows that
 * another writer deleted are looked at like the rest: they are in the objects. The commit also records that the hour's replaced
 * files must go.
 */
import assert from 'node:assert';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { addToCounters } from '../../lib/lake/counters.ts';
import { leaveOutDeleted } from '../../lib/lake/row-deletes.ts';
import type { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import { commitTable } from '../../lib/table/commit.ts';
import type { DataFile, LiveFile } from '../../lib/table/data-file.ts';
import type { DeleteFile } from '../../lib/table/delete-manifest.ts';
import { dataFileKey } from '../../lib/table/keys.ts';
import type { TableState } from '../../lib/table/table.ts';
import { contentOf, expectContent } from '../compact/content.ts';
import { fetchDeletes, fetchInputs, type LocalFile } from '../compact/group-inputs.ts';
import type { CostMeter } from '../cost/cost.ts';
import { describeDataFile, fileFingerprint, fileNameOf, hourFolder, hourName } from '../parquet-object.ts';
import { COMPACTED, isCompacted, parquetName } from '../../lib/lake/file-names.ts';
import { watchClock } from '../steady-clock.ts';
import { countStatement, DELETED_TABLE, keptStatement, rewriteStatement } from './erase-sql.ts';
import { pendingHour } from './pending.ts';

export interface EraseContext {
  readonly meter: CostMeter;
  readonly worker: SqlWorker;
  readonly scratchDir: string;
  readonly where: string;
  readonly dryRun: boolean;
  readonly signal: AbortSignal;
}

export interface ErasedHour {
  /** Rows that match. */
  readonly rows: number;
  /** Files with such rows. */
  readonly files: number;
  /** Files that were looked at and have none: they are never looked at again. */
  readonly clean: readonly string[];
  readonly damaged: readonly { readonly location: string; readonly message: string }[];
}

interface Match {
  readonly file: LocalFile;
  /** That the condition is true for. */
  readonly rows: number;
}

interface NewFile {
  readonly key: string;
  readonly dataFile: DataFile;
}

/** Throws `conflict` when a file was replaced meanwhile: the next look at the table finds what it became. */
export async function eraseHour(
  context: EraseContext,
  table: TableState,
  hour: number,
  files: readonly LiveFile[],
): Promise<ErasedHour> {
  const { meter, worker, where, dryRun, signal } = context;
  // No two files of a worker ever have the same path: what it may have kept of the first is never taken for the second.
  const folder = await mkdtemp(join(context.scratchDir, 'hour-'));
  const wanted = files.map((file) => ({
    location: file.location,
    bytes: Number(file.bytes),
    rows: Number(file.recordCount),
    hour,
    sequenceNumber: file.sequenceNumber,
    isSorted: false,
  }));
  try {
    const inputs = await fetchInputs(meter, worker, wanted, folder, signal);
    const matches: Match[] = [];
    const clean: string[] = [];
    for (const file of inputs.files) {
      signal.throwIfAborted();
      const [row] = await worker.query(countStatement(file.path, table.schema, where));
      const rows = Number(row?.['n']);
      if (rows > 0) matches.push({ file, rows });
      else clean.push(file.location);
    }
    if (matches.length > 0 && !dryRun)
      await commitWithout({ ...context, scratchDir: folder }, table, hour, files, matches);
    const readable = new Set(inputs.files.map((file) => file.location));
    const unreadable = wanted.filter((file) => !readable.has(file.location));
    return {
      rows: matches.reduce((sum, match) => sum + match.rows, 0),
      files: matches.length,
      clean: dryRun ? inputs.files.map((file) => file.location) : clean,
      damaged: unreadable.map(({ location }) => ({
        location,
        message:
          inputs.damaged.find((file) => file.message.includes(location))?.message ?? `${location} cannot be read`,
      })),
    };
  } finally {
    // A download that another's failure left behind may still write into it.
    await rm(folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

async function commitWithout(
  context: EraseContext,
  table: TableState,
  hour: number,
  files: readonly LiveFile[],
  matches: readonly Match[],
): Promise<void> {
  const { lake } = context.meter;
  const appliedDeletes = await applyDeletes(context, table, hour, matches);
  const assertSteady = watchClock(lake.clock);
  const rewritten: NewFile[] = [];
  let rows = 0;
  for (const [index, { file }] of matches.entries()) {
    const found = files.find(({ location }) => location === file.location);
    const written = await rewrite(context, table, file, index, found?.sortOrderId ?? null);
    if (written !== null) rewritten.push(written);
    rows += file.rows - Number(written?.dataFile.recordCount ?? 0);
  }
  const add = rewritten.map((file) => file.dataFile);
  const remove = matches.map((match) => match.file.location);
  const sequenceNumber = table.currentSnapshot?.['sequence-number'] ?? 0n;
  await commitTable(lake, table.name, async () => {
    context.signal.throwIfAborted();
    assertSteady();
    const nowMs = lake.clock.nowMs();
    const listed = {
      hour,
      add: rewritten.map(({ key, dataFile }) => ({
        name: fileNameOf(dataFile.location),
        key,
        bytes: Number(dataFile.bytes),
        modifiedMs: nowMs,
      })),
      remove: remove.map(fileNameOf),
    };
    return {
      change: {
        operation: 'overwrite',
        add,
        remove,
        removeHours: [hour],
        rewrite: { sequenceNumber, appliedDeletes },
        summary: { 'penstock.removed': 'erasure' },
      },
      extra: {
        write: [pendingHour(lake.volume, table.name, hour)],
        patch: addToCounters(lake.volume, table.name, { removed: rows }),
      },
      hours: [listed],
    };
  });
}

/** Fills DELETED_TABLE for the files of `matches`; the locations of the delete files that apply to them. */
async function applyDeletes(
  { meter, worker, scratchDir, signal }: EraseContext,
  table: TableState,
  hour: number,
  matches: readonly Match[],
): Promise<ReadonlySet<string>> {
  const files = matches.map(({ file }) => file);
  const deletes = (await table.rowDeletes({ hour })).ofAll(files);
  const local = await fetchDeletes(meter, deletes, scratchDir, signal);
  const pathOf = (file: DeleteFile): string => local.get(file) ?? '';
  await leaveOutDeleted(worker, { table: DELETED_TABLE, files, deletes, metadata: table.metadata, pathOf });
  return new Set(deletes.map(({ location }) => location));
}

/** null: no row is left. `index`: of the file in DELETED_TABLE. */
async function rewrite(
  context: EraseContext,
  table: TableState,
  file: LocalFile,
  index: number,
  sortOrderId: number | null,
): Promise<NewFile | null> {
  const { meter, worker, scratchDir, where, signal } = context;
  const [counted] = await worker.query(keptStatement(file.path, table.schema, where, index));
  const kept = contentOf(counted);
  if (kept.rows === 0) return null;
  const path = join(scratchDir, `out-${index}.parquet`);
  try {
    await worker.run(rewriteStatement(file.path, path, table.schema, where, index));
    await expectContent(worker, [path], table.schema, kept);
    const { hash, bytes } = await fileFingerprint(path);
    const name = parquetName(
      `${hourName(file.hour)}${isCompacted(file.location) ? `-${COMPACTED}` : ''}-rewritten`,
      hash,
    );
    const key = dataFileKey(table.name, `${hourFolder(file.hour)}/${name}`);
    const dataFile = await describeDataFile(worker, path, {
      location: meter.lake.store.location(key),
      hour: file.hour,
      bytes,
      schema: table.schema,
      sortOrderId,
      hasNoNan: false,
    });
    assert(
      Number(dataFile.recordCount) === kept.rows,
      `${file.location}: ${dataFile.recordCount} rows are left of ${file.rows}, counted were ${kept.rows}`,
    );
    await meter.lake.store.putFile(key, path, { signal });
    return { key, dataFile };
  } finally {
    await rm(path, { force: true });
  }
}
