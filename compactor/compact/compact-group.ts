/**
 * Compacts one group: files of an hour become few, sorted, de-duplicated ones, in one commit. What is in a file that stays as it is goes
 * into no new one.
 *
 * Invariants
 * - in = out + duplicates + deleted, with `in` and `out` from the files' own footers, before anything is committed.
 * - What was written is read back: the rows have the values of those that were read (a sum of hashes), before anything is committed.
 * - Rows that other writers deleted (row-level deletes) go into no new file; deletes that come while the group is being compacted make
 *   the commit fail, or apply to the new files (lib/table/settle-deletes.ts).
 * - The commit removes exactly the files that were rewritten: a file that came meanwhile stays and waits for the next run, a file that
 *   went meanwhile makes the commit fail, also one that was only compared with: its rows were left out because they are there.
 * Failure: killed anywhere before the commit, the table is untouched; objects that were uploaded are orphans. After it, done.
 */
import assert from 'node:assert';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { SqlWorker } from '../../lib/sql/sql-worker-client.ts';
import type { SpanSink } from '../../lib/tracing/span.ts';
import { commitTable } from '../../lib/table/commit.ts';
import type { DataFile } from '../../lib/table/data-file.ts';
import { dataFileKey } from '../../lib/table/keys.ts';
import { loadTable, type Rewritten, type TableState } from '../../lib/table/table.ts';
import { addToCounters } from '../../lib/lake/counters.ts';
import { leaveOutDeleted } from '../../lib/lake/row-deletes.ts';
import { FILE } from '../../lib/lake/sql-types.ts';
import type { DeleteFile } from '../../lib/table/delete-manifest.ts';
import type { CostMeter } from '../cost/cost.ts';
import { watchClock } from '../steady-clock.ts';
import { describeDataFile, fileFingerprint, fileNameOf, hourFolder, hourName } from '../parquet-object.ts';
import { COMPACTED, MERGED, parquetName } from '../../lib/lake/file-names.ts';
import { CompactionTraces } from './compaction-traces.ts';
import { expectContent, LEFT_OUT_TABLE } from './content.ts';
import {
  type DamagedFile,
  fetchDeletes,
  fetchInputs,
  findUndecodable,
  type GroupInputs,
  type LocalFile,
} from './group-inputs.ts';
import { copyStatement, duplicateStatements, type GroupQuery, sortOrderOf } from './group-sql.ts';
import type { GroupLease } from './lease.ts';
import { survey } from './packing.ts';
import type { Group } from './plan.ts';
import { judgeReadable } from './selection.ts';

export interface GroupContext {
  readonly meter: CostMeter;
  readonly worker: SqlWorker;
  readonly dataset: DatasetConfig;
  readonly targetBytes: number;
  /** Each group has a folder of its own in it. */
  readonly scratchDir: string;
  /** Where the parts of traces go. */
  readonly spans?: SpanSink | null;
  readonly signal: AbortSignal;
}

export interface GroupResult {
  readonly in: number;
  readonly out: number;
  readonly duplicates: number;
  /** Rows that delete files of other writers took out. */
  readonly deleted: number;
  readonly filesBefore: number;
  readonly filesAfter: number;
  /** Input files that could not be read; they stay in the table as they are. */
  readonly damaged: readonly DamagedFile[];
}

interface Output {
  readonly key: string;
  readonly name: string;
  readonly dataFile: DataFile;
}

/** Throws `held` or `conflict` when others were faster; `full`, `corrupt`, `unavailable` (the worker died), `aborted`. */
export async function compactGroup(context: GroupContext, group: Group, lease: GroupLease): Promise<GroupResult> {
  const { meter, worker, scratchDir, signal } = context;
  const table = await loadTable(meter.lake, group.dataset);
  if (table === null) throw new PenstockError('not-found', `there is no table ${group.dataset}`);
  // No two files of a worker ever have the same path: what it may have kept of the first is never taken for the second.
  const workDir = await mkdtemp(join(scratchDir, 'group-'));
  try {
    const inputs = await fetchInputs(meter, worker, [...group.files, ...group.compared], workDir, signal);
    const compared = new Set(group.compared.map(({ location }) => location));
    const paths = inputs.files.filter(({ location }) => !compared.has(location)).map(({ path }) => path);
    const { spans } = context;
    const traces = spans == null ? null : await CompactionTraces.of(spans, meter.lake.clock, group, worker, paths);
    const result = await mergeReadable({ ...context, scratchDir: workDir }, group, lease, table, inputs);
    if (result.filesBefore > 0) traces?.committed(result);
    return result;
  } finally {
    // A download that another's failure left behind may still write into it.
    await rm(workDir, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** Files of other writers carry no fingerprint: that a page of theirs is damaged shows only when it is decoded. */
async function mergeReadable(
  context: GroupContext,
  group: Group,
  lease: GroupLease,
  table: TableState,
  { files: readable, damaged }: GroupInputs,
): Promise<GroupResult> {
  const compared = new Set(group.compared.map(({ location }) => location));
  const sources = (files: readonly LocalFile[]): Sources => ({
    files: files.filter(({ location }) => !compared.has(location)),
    compared: files.filter(({ location }) => compared.has(location)),
  });
  try {
    return { ...(await merge(context, group, lease, table, sources(readable))), damaged };
  } catch (error) {
    if (!isCode(error, 'corrupt')) throw error;
    const undecodable = await findUndecodable(context.worker, readable, table.schema);
    if (undecodable.size === 0) throw error;
    const decodable = readable.filter((file) => !undecodable.has(file));
    const merged = await merge(context, group, lease, table, sources(decodable));
    return { ...merged, damaged: [...damaged, ...undecodable.values()] };
  }
}

interface Sources {
  /** Become new files. */
  readonly files: readonly LocalFile[];
  /** Stay. */
  readonly compared: readonly LocalFile[];
}

async function merge(
  context: GroupContext,
  group: Group,
  lease: GroupLease,
  table: TableState,
  sources: Sources,
): Promise<Omit<GroupResult, 'damaged'>> {
  const { worker, signal } = context;
  const { files, compared } = sources;
  const rowDeletes = await table.rowDeletes({ hour: group.hour });
  // Also what cannot be applied to files that stay holds up the others: a row that it deleted would make a repeat of the one that came later.
  const deletes = rowDeletes.ofAll([...files, ...compared]);
  const locations = new Set([...files, ...compared].map(({ location }) => location));
  const { isDue, isChecked } = judgeReadable(group.choices, locations);
  if (files.length === 0 || !isDue) {
    return { in: 0, out: 0, duplicates: 0, deleted: 0, filesBefore: 0, filesAfter: 0 };
  }
  const query: GroupQuery = {
    paths: files.map((file) => file.path),
    compared: compared.map((file) => file.path),
    schema: table.schema,
    dataset: context.dataset,
    order: sortOrderOf(table.metadata, table.schema, context.dataset.sort),
  };
  const rowsIn = files.reduce((sum, file) => sum + file.rows, 0);
  const deleted = await leaveOutDeletedRows(context, table, sources, deletes);
  const duplicates = await findDuplicates(worker, query, deletes.length > 0, deleted);
  const leftOut = duplicates + deleted;
  const paths = leftOut === rowsIn ? [] : await writeSorted(context, group, query, files, leftOut > 0);
  signal.throwIfAborted();
  const assertSteady = watchClock(context.meter.lake.clock);
  const outputs: Output[] = [];
  const kind = isChecked ? COMPACTED : MERGED;
  for (const [index, path] of paths.entries())
    outputs.push(await upload(context, group, table, path, `${kind}-${index}`));
  const rowsOut = outputs.reduce((sum, output) => sum + Number(output.dataFile.recordCount), 0);
  assert(
    rowsIn === rowsOut + duplicates + deleted,
    `${group.dataset} ${hourName(group.hour)}: ${rowsIn} rows in, ${rowsOut} out, ${duplicates} duplicates, ${deleted} deleted`,
  );
  const rewrite = {
    sequenceNumber: table.currentSnapshot?.['sequence-number'] ?? 0n,
    appliedDeletes: new Set(deletes.map(({ location }) => location)),
  };
  const left = { duplicates, deleted };
  await commitGroup(context, group, lease, { ...sources, outputs, rewrite, left, assertSteady });
  return { in: rowsIn, out: rowsOut, ...left, filesBefore: files.length, filesAfter: outputs.length };
}

/** Returns how many rows of `files` that are. A row that was deleted from a compared file makes no repeat. */
async function leaveOutDeletedRows(
  { meter, worker, scratchDir, signal }: GroupContext,
  table: TableState,
  { files, compared }: Sources,
  deletes: readonly DeleteFile[],
): Promise<number> {
  const local = await fetchDeletes(meter, deletes, scratchDir, signal);
  await leaveOutDeleted(worker, {
    table: LEFT_OUT_TABLE,
    files: [...files, ...compared],
    deletes,
    metadata: table.metadata,
    pathOf: (file) => local.get(file) ?? '',
  });
  return countLeftOut(worker, files.length);
}

/** Of the first so many files. */
async function countLeftOut(worker: SqlWorker, files: number): Promise<number> {
  const [row] = await worker.query(`SELECT count(*) AS n FROM ${LEFT_OUT_TABLE} WHERE ${FILE} < ${files}`);
  return Number(row?.['n']);
}

/** `deleted`: how many rows of `query.paths` are left out already. */
async function findDuplicates(
  worker: SqlWorker,
  query: GroupQuery,
  hasDeletes: boolean,
  deleted: number,
): Promise<number> {
  const statements = duplicateStatements(query, hasDeletes);
  for (const statement of statements) await worker.run(statement);
  if (statements.length === 0) return 0;
  return (await countLeftOut(worker, query.paths.length)) - deleted;
}

/** The paths of the files written, in the order of their rows. */
async function writeSorted(
  context: GroupContext,
  group: Group,
  query: GroupQuery,
  files: readonly LocalFile[],
  hasLeftOut: boolean,
): Promise<string[]> {
  const { worker, targetBytes, scratchDir } = context;
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const metadata = { 'penstock.hour': hourName(group.hour) };
  const { content, packing } = await survey(worker, { files, schema: query.schema, hasLeftOut });
  // Sorted rows compress no worse than unsorted ones, so the input's size bounds the output's.
  const split = bytes <= targetBytes ? {} : { fileBytes: targetBytes };
  const target = join(scratchDir, bytes <= targetBytes ? 'out.parquet' : 'out');
  await worker.run(copyStatement(query, target, { packing, hasLeftOut, metadata, ...split }));
  const paths = bytes <= targetBytes ? [target] : await filesInOrder(target);
  await expectContent(worker, paths, query.schema, content);
  return paths;
}

/** What a folder of numbered files holds. */
async function filesInOrder(folder: string): Promise<string[]> {
  const names = await readdir(folder);
  return names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).map((name) => join(folder, name));
}

async function upload(
  context: GroupContext,
  group: Group,
  table: TableState,
  path: string,
  stem: string,
): Promise<Output> {
  const { meter, worker, signal } = context;
  const { hash, bytes } = await fileFingerprint(path, signal);
  const name = parquetName(`${hourName(group.hour)}-${stem}`, hash);
  const key = dataFileKey(group.dataset, `${hourFolder(group.hour)}/${name}`);
  const sortOrderId = table.metadata['default-sort-order-id'];
  const dataFile = await describeDataFile(worker, path, {
    location: meter.lake.store.location(key),
    hour: group.hour,
    bytes,
    schema: table.schema,
    sortOrderId: sortOrderId === 0 ? null : sortOrderId,
    hasNoNan: false,
  });
  await meter.lake.store.putFile(key, path, { signal });
  return { key, name, dataFile };
}

interface Compacted extends Sources {
  readonly outputs: readonly Output[];
  readonly rewrite: Rewritten;
  readonly left: { readonly duplicates: number; readonly deleted: number };
  readonly assertSteady: () => void;
}

async function commitGroup(
  context: GroupContext,
  group: Group,
  lease: GroupLease,
  { files, compared, outputs, rewrite, left, assertSteady }: Compacted,
): Promise<void> {
  const { lake } = context.meter;
  const held = await lease.release();
  const add = outputs.map((output) => output.dataFile);
  const remove = files.map((file) => file.location);
  await commitTable(lake, group.dataset, async () => {
    context.signal.throwIfAborted();
    assertSteady();
    if (!(await lease.isOurs())) {
      throw new PenstockError(
        'held',
        `the lease on ${group.dataset} ${hourName(group.hour)} was taken by another compactor`,
      );
    }
    const nowMs = lake.clock.nowMs();
    const listed = {
      hour: group.hour,
      add: outputs.map(({ name, key, dataFile }) => ({ name, key, bytes: Number(dataFile.bytes), modifiedMs: nowMs })),
      remove: remove.map(fileNameOf),
    };
    return {
      change: {
        operation: 'replace',
        add,
        remove,
        removeHours: [group.hour],
        require: compared.map((file) => file.location),
        rewrite,
        summary: { 'penstock.duplicates': String(left.duplicates), 'penstock.deleted': String(left.deleted) },
      },
      extra: {
        compare: [held.compare],
        write: [held.write],
        patch: addToCounters(lake.volume, group.dataset, { duplicates: left.duplicates, removed: left.deleted }),
      },
      hours: [listed],
    };
  });
}
