/**
 * The tables of a volume for other programs: what the requests of the Iceberg REST catalog do, without any HTTP.
 *
 * Invariants
 * - A commit is one minitransaction: the table's pointer and, for tables of the lander, the directories of the hours in which files
 *   come or go. Requirements are checked again on what another commit left before it is tried again on top of that.
 * - Nothing here deletes an object that was ever reachable: a drop removes the pointer and the directory entries, a purge does no
 *   more. A dropped table can be registered again.
 * Failure: killed before the minitransaction, a new metadata document is left for `removeOrphans`. Killed between a drop and the end
 * of its unlisting, directory entries of the dropped table stay readable until a table is registered and dropped under its name.
 * Limits: HOURS_MAX hours with changed files in one commit of another program.
 */
import { randomUUID } from 'node:crypto';
import { isCode, PenstockError } from '../../errors.ts';
import { prepareListing } from '../../volume/lake-listing.ts';
import { commitDraft } from '../commit-loop.ts';
import { tableFolder, tablePointerKey } from '../keys.ts';
import { readTableObject } from '../live-files.ts';
import { currentSnapshot, formatMetadata, parseMetadata } from '../metadata.ts';
import type { Snapshot, TableMetadata } from '../metadata.ts';
import { formatPointer } from '../pointer.ts';
import { loadTable } from '../table.ts';
import type { CommitParts, LakeContext, TableState } from '../table.ts';
import { loadNamespace, datasetName } from './namespaces.ts';
import { newTable } from './new-table.ts';
import type { CommitTableRequest, CreateTableRequest } from './requests.ts';
import { checkRequirements } from './requirements.ts';
import { RestError } from './rest-error.ts';
import { changedHours, checkSnapshot } from './snapshot-files.ts';
import { applyUpdates, emptyMetadata, isHourTable } from './table-builder.ts';

/** Each is a directory and its pointer in the same minitransaction as the table. */
const HOURS_MAX = 300;

export interface LoadedTable {
  /** null: staged, not created yet. */
  readonly metadataLocation: string | null;
  readonly metadata: TableMetadata;
}

/** Throws NoSuchTableException. */
export async function loadTableOf(lake: LakeContext, levels: readonly string[], table: string): Promise<TableState> {
  const name = datasetName(levels, table);
  const state = await loadTable(lake, name);
  if (state === null) throw noTable(name);
  return state;
}

/** Throws AlreadyExistsException, NoSuchNamespaceException. */
export async function createTableOf(
  lake: LakeContext,
  levels: readonly string[],
  request: CreateTableRequest,
): Promise<LoadedTable> {
  const name = datasetName(levels, request.name);
  await loadNamespace(lake, levels);
  if ((await loadTable(lake, name)) !== null) throw exists(name);
  const metadata = newTable(request, randomUUID(), locationOf(lake, name), lake.clock.nowMs());
  if (request['stage-create'] === true) return { metadataLocation: null, metadata };
  return writeFirst(lake, name, metadata, {});
}

/** Makes a table of metadata that lies in its own folder: the way back from a drop. */
export async function registerTable(
  lake: LakeContext,
  levels: readonly string[],
  table: string,
  metadataLocation: string,
): Promise<LoadedTable> {
  const name = datasetName(levels, table);
  await loadNamespace(lake, levels);
  if (lake.store.keyOf(metadataLocation)?.startsWith(tableFolder(name)) !== true) {
    throw new RestError('BadRequestException', `${metadataLocation} is not in the folder ${locationOf(lake, name)}`);
  }
  const metadata = parseMetadata(await readTableObject(lake.store, metadataLocation), metadataLocation);
  const listing = await listingParts(lake, name, metadata, null, currentSnapshot(metadata));
  await takeName(lake, name, metadata, metadataLocation, listing);
  return { metadataLocation, metadata };
}

export async function commitTableOf(
  lake: LakeContext,
  levels: readonly string[],
  table: string,
  request: CommitTableRequest,
): Promise<LoadedTable> {
  const name = datasetName(levels, table);
  const creates = request.requirements.some(({ type }) => type === 'assert-create');
  if (creates) return createByCommit(lake, levels, name, request);
  try {
    return await commitDraft(lake, name, async (state) => {
      checkRequirements(state.metadata, request.requirements);
      const metadata = applyUpdates(state.metadata, request.updates, false);
      await checkNewSnapshots(lake, name, state.metadata, metadata);
      const extra = await listingParts(lake, name, metadata, state.currentSnapshot, currentSnapshot(metadata));
      return { metadata, objects: [], extra };
    });
  } catch (error) {
    if (isCode(error, 'not-found')) throw noTable(name);
    throw error;
  }
}

/** The end of a staged create, as `CREATE TABLE ... AS SELECT` does it. */
async function createByCommit(
  lake: LakeContext,
  levels: readonly string[],
  name: string,
  request: CommitTableRequest,
): Promise<LoadedTable> {
  await loadNamespace(lake, levels);
  checkRequirements((await loadTable(lake, name))?.metadata ?? null, request.requirements);
  const empty = emptyMetadata(randomUUID(), locationOf(lake, name), lake.clock.nowMs());
  const metadata = applyUpdates(empty, request.updates, true);
  await checkNewSnapshots(lake, name, empty, metadata);
  return writeFirst(lake, name, metadata, await listingParts(lake, name, metadata, null, currentSnapshot(metadata)));
}

/** Throws NoSuchTableException. Objects stay: orphan removal of a table with this name, or an administrator, deletes them. */
export async function dropTable(lake: LakeContext, levels: readonly string[], table: string): Promise<void> {
  const state = await loadTableOf(lake, levels, table);
  const key = tablePointerKey(lake.volume, state.name);
  const result = await lake.engine.commit({
    compare: [{ key, version: state.pointerVersion }],
    write: [{ key, value: null }],
    operation: randomUUID(),
  });
  if (!result.ok) throw new RestError('CommitFailedException', `table ${state.name} changed while it was dropped`);
  if (!isHourTable(state.metadata)) return;
  const changes = await changedHours(lake.store, state.currentSnapshot, null, lake.clock.nowMs());
  for (let at = 0; at < changes.length; at += HOURS_MAX) {
    const part = changes.slice(at, at + HOURS_MAX);
    const parts = await prepareListing(lake.engine, lake.volume, state.name, part, lake.clock.nowMs());
    await lake.engine.commit({ ...parts, operation: randomUUID() });
  }
}

/** Snapshots of branches count as well: what they refer to must be as safe from orphan removal as main's. */
async function checkNewSnapshots(
  lake: LakeContext,
  name: string,
  before: TableMetadata,
  after: TableMetadata,
): Promise<void> {
  const known = new Map(before.snapshots.map((snapshot) => [snapshot['snapshot-id'], snapshot]));
  for (const snapshot of after.snapshots) {
    if (known.has(snapshot['snapshot-id'])) continue;
    const parent = known.get(snapshot['parent-snapshot-id'] ?? -1n) ?? null;
    await checkSnapshot(lake.store, name, snapshot, parent, after);
  }
}

async function listingParts(
  lake: LakeContext,
  name: string,
  metadata: TableMetadata,
  before: Snapshot | null,
  after: Snapshot | null,
): Promise<CommitParts> {
  if (!isHourTable(metadata)) return {};
  const changes = await changedHours(lake.store, before, after, lake.clock.nowMs());
  if (changes.length === 0) return {};
  if (changes.length > HOURS_MAX) {
    throw new RestError(
      'BadRequestException',
      `files change in ${changes.length} hours, at most ${HOURS_MAX} in one commit: write fewer days at once ` +
        '(rewrite_data_files: partial-progress.enabled)',
    );
  }
  return prepareListing(lake.engine, lake.volume, name, changes, lake.clock.nowMs());
}

async function writeFirst(
  lake: LakeContext,
  name: string,
  metadata: TableMetadata,
  extra: CommitParts,
): Promise<LoadedTable> {
  const key = `${tableFolder(name)}metadata/00000-${randomUUID()}.metadata.json`;
  await lake.store.put(key, formatMetadata(metadata));
  const metadataLocation = lake.store.location(key);
  await takeName(lake, name, metadata, metadataLocation, extra);
  return { metadataLocation, metadata };
}

/** Makes the pointer of a name that has none. Throws AlreadyExistsException. */
async function takeName(
  lake: LakeContext,
  name: string,
  metadata: TableMetadata,
  metadataLocation: string,
  extra: CommitParts,
): Promise<void> {
  const key = tablePointerKey(lake.volume, name);
  const snapshotId = currentSnapshot(metadata)?.['snapshot-id'].toString() ?? null;
  const pointer = formatPointer({ metadataLocation, uuid: metadata['table-uuid'], snapshotId });
  try {
    const result = await lake.engine.commit({
      compare: [{ key, version: null }, ...(extra.compare ?? [])],
      write: [{ key, value: pointer }, ...(extra.write ?? [])],
      patch: extra.patch ?? [],
      publish: extra.publish ?? [],
      operation: randomUUID(),
    });
    if (result.ok) return;
  } catch (error) {
    if (!isCode(error, 'timeout', 'unavailable')) throw error;
    const now = await loadTable(lake, name).catch(() => null);
    if (now?.metadataLocation === metadataLocation) return;
    throw new PenstockError('timeout', `it is not known whether table ${name} was created`, { cause: error });
  }
  if ((await loadTable(lake, name)) !== null) throw exists(name);
  throw new RestError('CommitFailedException', `the directories of ${name} changed while it was created: try again`);
}

const locationOf = (lake: LakeContext, name: string): string => lake.store.location(tableFolder(name).slice(0, -1));

function noTable(name: string): RestError {
  return new RestError('NoSuchTableException', `there is no table ${name}`);
}

function exists(name: string): RestError {
  return new RestError('AlreadyExistsException', `table ${name} exists already`);
}
