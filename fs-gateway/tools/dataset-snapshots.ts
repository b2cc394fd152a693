/**
 * `penstock dataset snapshot`: a snapshot of a table as a read-only tree of the volume, `/lake/<dataset>/.snapshots/<id>/dt=…/hour=…/`, for a job that
 * must see the same rows for as long as it runs, or again in a year.
 *
 * Invariants
 * - It has the files of that snapshot, all of them, without a copy; it appears whole or not at all, and nothing of it changes.
 * - Its objects stay while it is there, also after the table has expired its snapshot: each file notes its object (references.ts), and after these
 *   notes the table is read again. When the snapshot is still there, no clean-up can have missed them.
 * - No listing shows `.snapshots` (vfs/system-directories.ts): a glob over the dataset does not find rows twice.
 * Failure: killed at any point, gc removes what was built.
 */
import { PenstockError } from '../../lib/errors.ts';
import { hasLive, liveFilesOf, manifestsOf } from '../../lib/table/live-files.ts';
import { snapshotOfId } from '../../lib/table/metadata.ts';
import { loadTable } from '../../lib/table/table.ts';
import type { LakeContext, TableState } from '../../lib/table/table.ts';
import { hourPath } from '../../lib/volume/lake-directories.ts';
import { INODE_FROZEN, S_IFDIR } from '../../lib/volume/inode.ts';
import type { Node } from '../meta/cache.ts';
import { ensureSystemDirectory, LAKE_NAME, SNAPSHOTS_NAME } from '../vfs/system-directories.ts';
import { snapshotsIn, TreeWork } from './clone.ts';
import type { Progress } from './tool.ts';
import { ObjectTree } from './object-tree.ts';
import type { ObjectFile } from './object-tree.ts';
import { resolveNames } from './volume-path.ts';

const SNAPSHOT_ID = /^-?\d{1,19}$/;
const OPEN_TO_ALL = { mode: S_IFDIR | 0o755, flags: INODE_FROZEN };

export interface DatasetSnapshot {
  readonly dataset: string;
  /** Of the table, a decimal number. */
  readonly snapshot: string;
  /** In the volume. */
  readonly path: string;
  /** When the view was made. */
  readonly created: string;
}

export interface DatasetSnapshotReport {
  readonly dataset: string;
  readonly snapshot: string;
  readonly path: string;
  readonly files: number;
  readonly bytes: number;
  readonly rows: number;
}

type TableSnapshot = NonNullable<TableState['currentSnapshot']>;

/** `id` null: the current one. Throws `not-found`, `exists`, `quota`, `conflict`. */
export async function createDatasetSnapshot(
  lake: LakeContext,
  dataset: string,
  id: string | null,
  progress: Progress = () => undefined,
): Promise<DatasetSnapshotReport> {
  const { engine, volume, clock, store } = lake;
  const work = await TreeWork.open({ engine, volume, clock, progress });
  const { view, nowNs } = work;
  const { state, snapshot } = await findSnapshot(lake, dataset, id);
  const name = String(snapshot['snapshot-id']);
  const deletes = (await manifestsOf(store, snapshot)).filter((one) => one.content === 1 && hasLive(one));
  if (deletes.length > 0) {
    throw new PenstockError(
      'conflict',
      `snapshot ${name} of ${dataset} has row-level deletes, which its Parquet files do not show: run \`penstock compact\`, then take the new snapshot`,
    );
  }
  let rows = 0;
  async function* files(): AsyncGenerator<ObjectFile> {
    for await (const { location, bytes, recordCount, hour } of liveFilesOf(store, state.metadata, snapshot)) {
      const key = store.keyOf(location);
      if (key === null) throw new PenstockError('corrupt', `${location} is not in the store ${store.url}`);
      const { day, hour: folder } = hourPath(hour);
      const file = location.slice(location.lastIndexOf('/') + 1);
      rows += Number(recordCount);
      const object = { key, objectBytes: Number(bytes) };
      yield { names: [day, folder, file], object, modifiedMs: snapshot['timestamp-ms'] };
    }
  }
  const directory = await resolveNames(view, [LAKE_NAME, dataset], `/${LAKE_NAME}/${dataset}`);
  const parent = await ensureSystemDirectory(view, directory, SNAPSHOTS_NAME, OPEN_TO_ALL, nowNs);
  const path = pathOf(dataset, name);
  const report = await work.build({ parent, name, path, frozen: true }, async (root, quota) => {
    const tree = new ObjectTree({ view, quota, frozen: true, nowNs, progress });
    await tree.tree(files(), parent.ino, root);
    if (tree.skipped > 0) throw new PenstockError('corrupt', `${dataset}: ${tree.problems.join('; ')}`);
    // From here on the clean-up sees the notes. What it saw before it began with was a table without the snapshot.
    await findSnapshot(lake, dataset, name);
    return { files: tree.files, bytes: tree.bytes };
  });
  return { dataset, snapshot: name, path, files: report.files, bytes: report.bytes, rows };
}

/** Oldest first. */
export async function listDatasetSnapshots(lake: LakeContext, dataset: string): Promise<DatasetSnapshot[]> {
  const work = await workOn(lake);
  const parent = await snapshotsOf(work, dataset);
  const found = parent === null ? [] : await snapshotsIn(work.view, parent.ino);
  return found.map(({ name, created }) => ({ dataset, snapshot: name, path: pathOf(dataset, name), created }));
}

/** Its objects go with the table's next clean-up, unless something else refers to them. Throws `not-found`, `usage`. */
export async function deleteDatasetSnapshot(lake: LakeContext, dataset: string, id: string): Promise<void> {
  // Other characters are not the bytes of a name.
  if (!SNAPSHOT_ID.test(id)) {
    throw new PenstockError('usage', `'${id}' is no id of a snapshot: expected a decimal number, as list prints it`);
  }
  const work = await workOn(lake);
  const root = await work.unlink(await snapshotsOf(work, dataset), id);
  if (root === undefined) throw new PenstockError('not-found', `${dataset} has no view of snapshot ${id}`);
  await work.discard(root);
}

async function workOn({ engine, volume, clock }: LakeContext): Promise<TreeWork> {
  return TreeWork.open({ engine, volume, clock });
}

function pathOf(dataset: string, id: string): string {
  return `/${LAKE_NAME}/${dataset}/${SNAPSHOTS_NAME}/${id}`;
}

/** Null: there was never one. Throws `not-found` when the dataset has no directory. */
async function snapshotsOf({ view }: TreeWork, dataset: string): Promise<Node | null> {
  const directory = await resolveNames(view, [LAKE_NAME, dataset], `/${LAKE_NAME}/${dataset}`);
  const entry = await view.entry(directory.ino, SNAPSHOTS_NAME);
  return entry === null ? null : view.node(entry.ino);
}

async function findSnapshot(
  lake: LakeContext,
  dataset: string,
  id: string | null,
): Promise<{ readonly state: TableState; readonly snapshot: TableSnapshot }> {
  const state = await loadTable(lake, dataset);
  if (state === null) throw new PenstockError('not-found', `there is no table ${dataset} yet`);
  if (id === null) {
    if (state.currentSnapshot === null) throw new PenstockError('not-found', `${dataset} has no snapshot yet`);
    return { state, snapshot: state.currentSnapshot };
  }
  const snapshot = snapshotOfId(state.metadata, id);
  if (snapshot === undefined) {
    throw new PenstockError('not-found', `${dataset} has no snapshot ${id}, or it has expired`);
  }
  return { state, snapshot };
}
