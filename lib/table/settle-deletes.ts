/**
 * What a commit that takes data files out of a table means for the delete files of other writers.
 *
 * Invariants
 * - Rows of a removed file go on in an added one only if every delete that applies to the removed file at the moment of the commit
 *   has been applied, or will still apply to the added one: an equality delete that came after the snapshot whose sequence number the
 *   added files take over. Else the commit fails with `conflict`: what was deleted never comes back.
 * - A delete file leaves the manifests when no live data file is left that it could apply to. Files of this commit are no such
 *   reason for position deletes: their names were not known to anybody.
 * Failure: nothing is written here but manifests of this commit's draft.
 * Limits: the live files of the hours in which files are removed, some 200 bytes each, and only where there are delete files.
 */
import { PenstockError } from '../errors.ts';
import type { ObjectStore } from '../store/store.ts';
import type { LiveFile } from './data-file.ts';
import { type DeleteEntry, type DeleteFile, readDeleteManifest } from './delete-manifest.ts';
import { fetchAhead, mayHoldHours } from './live-files.ts';
import type { ManifestFile } from './manifest-list.ts';
import { DELETED, EXISTING, isDeleteSpec, ManifestWriter, readManifest } from './manifest.ts';
import { currentSchema, partitionSpec, type TableMetadata } from './metadata.ts';
import { RowDeletes } from './row-deletes.ts';
import type { TableChange } from './table.ts';

export type RemovedFile = Pick<LiveFile, 'location' | 'hour' | 'sequenceNumber'>;

export interface SettledDeletes {
  /** Those of the next snapshot. */
  readonly manifests: readonly ManifestFile[];
  /** Delete files that nothing can need any more. */
  readonly retired: readonly DeleteFile[];
}

interface Request {
  readonly store: ObjectStore;
  readonly metadata: TableMetadata;
  readonly change: TableChange;
  readonly snapshotId: bigint;
  /** The live manifests of the parent. */
  readonly before: readonly ManifestFile[];
  readonly removed: readonly RemovedFile[];
  readonly finish: (writer: ManifestWriter) => ManifestFile;
}

/** Throws `conflict` naming the delete file. */
export async function settleDeletes(request: Request): Promise<SettledDeletes> {
  const { store, metadata, removed } = request;
  const all = request.before.filter((manifest) => manifest.content === 1);
  if (all.length === 0 || removed.length === 0) {
    assertApplied(request, new RowDeletes([]));
    return { manifests: all, retired: [] };
  }
  const hours = new Set(removed.map(({ hour }) => hour));
  const read: { readonly manifest: ManifestFile; readonly entries: readonly DeleteEntry[] }[] = [];
  const near = all.filter((manifest) => mayHoldHours(manifest, metadata, hours));
  for await (const { manifest, bytes } of fetchAhead(store, near)) {
    const entries = [...readDeleteManifest(bytes, manifest, metadata)].filter(({ status }) => status !== DELETED);
    read.push({ manifest, entries });
  }
  const files = read.flatMap(({ entries }) => entries.map(({ file }) => file));
  assertApplied(request, new RowDeletes(files));
  const needs = await remainingNeeds(request, hours, files);
  const manifests = all.filter((manifest) => !near.includes(manifest));
  const retired: DeleteFile[] = [];
  for (const { manifest, entries } of read) {
    // Under the specs of other writers we write no manifest.
    const isOurs = isDeleteSpec(partitionSpec(metadata, manifest.specId));
    const over = new Set(isOurs ? entries.map(({ file }) => file).filter((file) => !needs(file)) : []);
    manifests.push(over.size === 0 ? manifest : rewrite(request, manifest, entries, over));
    retired.push(...over);
  }
  return { manifests, retired };
}

/** Also what was applied must still be there: a roll-back may have brought back the rows that it deleted. */
function assertApplied({ change, removed, metadata }: Request, deletes: RowDeletes): void {
  if (change.add.length === 0) return;
  const applied = new Set(change.rewrite?.appliedDeletes);
  const conflict = (location: string, what: string): never => {
    const message = `${location} ${what} files of ${metadata.location} while they were rewritten`;
    throw new PenstockError('conflict', message, { retryable: false });
  };
  for (const { kind, location, sequenceNumber } of deletes.ofAll(removed)) {
    if (applied.has(location)) continue;
    const stillApplies =
      kind === 'equality' && change.rewrite !== undefined && sequenceNumber > change.rewrite.sequenceNumber;
    if (!stillApplies) conflict(location, 'came to delete rows of');
  }
  const live = new Set(deletes.files.map(({ location }) => location));
  const gone = [...applied].find((location) => !live.has(location));
  if (gone !== undefined) conflict(gone, 'no longer deletes rows of');
}

/** Says of a delete file whether some data file of the next snapshot may need it. */
async function remainingNeeds(
  { store, metadata, change, before, removed }: Request,
  hours: ReadonlySet<number>,
  deletes: readonly DeleteFile[],
): Promise<(file: DeleteFile) => boolean> {
  const newest = deletes.reduce((max, { sequenceNumber }) => (sequenceNumber > max ? sequenceNumber : max), 0n);
  const gone = new Set(removed.map(({ location }) => location));
  const staying = new Map<number, RemovedFile[]>([...hours].map((hour) => [hour, []]));
  // Added files inherit a number above all deletes, unless they take one over.
  let lowest = change.rewrite !== undefined && change.add.length > 0 ? change.rewrite.sequenceNumber : newest + 1n;
  const lower = (sequence: bigint): void => {
    if (sequence < lowest) lowest = sequence;
  };
  const old = before.filter(({ content, minSequenceNumber }) => content === 0 && minSequenceNumber <= newest);
  for (const manifest of old) if (!mayHoldHours(manifest, metadata, hours)) lower(manifest.minSequenceNumber);
  const near = old.filter((manifest) => mayHoldHours(manifest, metadata, hours));
  for await (const { manifest, bytes } of fetchAhead(store, near)) {
    for (const { status, sequenceNumber, file } of readManifest(bytes, manifest)) {
      if (status === DELETED || gone.has(file.location)) continue;
      lower(sequenceNumber ?? manifest.sequenceNumber);
      const { location, hour } = file;
      staying.get(hour)?.push({ location, hour, sequenceNumber: sequenceNumber ?? manifest.sequenceNumber });
    }
  }
  const addedTo = new Set(change.add.map(({ hour }) => hour));
  return ({ kind, hour, dataFile, sequenceNumber }) => {
    if (dataFile !== null && hour === null) return !gone.has(dataFile);
    if (hour === null) return kind === 'position' || lowest < sequenceNumber;
    const files = staying.get(hour);
    if (files === undefined) return true;
    if (dataFile !== null) return files.some(({ location }) => location === dataFile);
    if (kind === 'position') return files.some((file) => file.sequenceNumber <= sequenceNumber);
    const added = addedTo.has(hour) ? change.rewrite?.sequenceNumber : undefined;
    return [...files.map((file) => file.sequenceNumber), ...(added === undefined ? [] : [added])].some(
      (sequence) => sequence < sequenceNumber,
    );
  };
}

function rewrite(
  { metadata, snapshotId, finish }: Request,
  manifest: ManifestFile,
  entries: readonly DeleteEntry[],
  over: ReadonlySet<DeleteFile>,
): ManifestFile {
  const spec = partitionSpec(metadata, manifest.specId);
  const writer = new ManifestWriter(currentSchema(metadata), spec, 'deletes');
  for (const { record, file } of entries) {
    const isOver = over.has(file);
    writer.addRecord({
      ...record,
      status: isOver ? DELETED : EXISTING,
      snapshot_id: isOver ? snapshotId : record.snapshot_id,
    });
  }
  return finish(writer);
}
