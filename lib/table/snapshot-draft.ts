/**
 * Turns a change into the next snapshot: which manifests are kept, rewritten, merged and new.
 *
 * Invariants
 * - Every live entry of the parent that is not removed is in the new snapshot exactly once, with its sequence numbers.
 * - A manifest that no removed file is in is used as it is, unless it is small and merged with others; those of delete files unless
 *   one of them has nothing left to apply to (settle-deletes.ts).
 * Limits: one manifest is decoded at a time; merging starts at SMALL_MANIFESTS_MAX small ones and takes at most one target's worth
 * of bytes per commit, so no commit pays for the whole table.
 */
import { randomUUID } from 'node:crypto';
import { PenstockError } from '../errors.ts';
import type { DataFile } from './data-file.ts';
import type { DeleteFile } from './delete-manifest.ts';
import { tableFolder } from './keys.ts';
import { fetchAhead, hasLive, hourRange, manifestsOf, mayHoldHours } from './live-files.ts';
import { ADDED, DELETED, EXISTING, ManifestWriter, readManifest } from './manifest.ts';
import type { ManifestEntry } from './manifest.ts';
import { formatManifestList } from './manifest-list.ts';
import type { ManifestFile } from './manifest-list.ts';
import { currentSchema, currentSnapshot, partitionSpec } from './metadata.ts';
import type { Snapshot, TableMetadata } from './metadata.ts';
import { type RemovedFile, settleDeletes } from './settle-deletes.ts';
import type { LakeContext, TableChange } from './table.ts';

/** Some 20,000 entries: decoded in a fraction of a second, and few objects for a large table. */
const MANIFEST_BYTES_TARGET = 4 * 2 ** 20;
/** Iceberg's `commit.manifest.min-count-to-merge`: the lander's manifest of every minute is merged after 100 minutes. */
const SMALL_MANIFESTS_MAX = 100;
/** Merging fewer than this is not worth the rewrite: they are nearly full already. */
const MERGE_COUNT_MIN = 10;

export interface DraftObject {
  readonly key: string;
  readonly bytes: Uint8Array;
}

/** The manifest of the added files alone: the same whatever it is committed on top of. */
export interface AddedManifest {
  readonly object: DraftObject;
  readonly writer: ManifestWriter;
}

export interface SnapshotDraft {
  readonly snapshot: Snapshot;
  readonly objects: readonly DraftObject[];
  /** null when the added files went into a rewritten manifest, or there are none. */
  readonly addedManifest: AddedManifest | null;
}

interface Context {
  readonly lake: LakeContext;
  readonly metadata: TableMetadata;
  readonly change: TableChange;
  readonly snapshotId: bigint;
  readonly sequenceNumber: bigint;
  readonly folder: string;
  readonly objects: DraftObject[];
}

export async function draftSnapshot(
  lake: LakeContext,
  request: {
    readonly name: string;
    /** The parent's, with the new schema in force. */
    readonly metadata: TableMetadata;
    readonly change: TableChange;
    readonly snapshotId: bigint;
    readonly reuse: AddedManifest | null;
  },
): Promise<SnapshotDraft> {
  const { metadata, change, snapshotId } = request;
  const parent = currentSnapshot(metadata);
  const context: Context = {
    lake,
    metadata,
    change,
    snapshotId,
    sequenceNumber: metadata['last-sequence-number'] + 1n,
    folder: `${tableFolder(request.name)}metadata/`,
    objects: [],
  };
  const before = (await manifestsOf(lake.store, parent)).filter(hasLive);
  const rewrite = await removeFiles(
    context,
    before.filter((manifest) => manifest.content === 0),
  );
  const deletes = await settleDeletes({
    store: lake.store,
    metadata,
    change,
    snapshotId,
    before,
    removed: rewrite.removed,
    finish: (writer) => finish(context, writer),
  });
  let addedManifest: AddedManifest | null = null;
  const fresh: ManifestFile[] = [...rewrite.finished];
  if (rewrite.open !== null) {
    for (const file of change.add) rewrite.open.add(addedEntry(context, file));
    fresh.unshift(finish(context, rewrite.open));
  } else if (change.add.length > 0) {
    addedManifest = request.reuse ?? newAddedManifest(context);
    context.objects.push(addedManifest.object);
    fresh.unshift(toManifestFile(context, addedManifest.writer, addedManifest.object));
  }
  const manifests = [...(await merge(context, [...fresh, ...rewrite.kept])), ...deletes.manifests];
  const listKey = `${context.folder}snap-${snapshotId.toString()}-1-${randomUUID()}.avro`;
  const identity = {
    id: snapshotId,
    parentId: parent?.['snapshot-id'] ?? null,
    sequenceNumber: context.sequenceNumber,
  };
  context.objects.push({ key: listKey, bytes: formatManifestList(manifests, identity) });
  return {
    snapshot: snapshotOf(context, parent, listKey, manifests, rewrite, deletes.retired),
    objects: context.objects,
    addedManifest,
  };
}

interface Rewrite {
  readonly kept: readonly ManifestFile[];
  readonly finished: readonly ManifestFile[];
  /** The last rewritten manifest, with room for the added files. */
  readonly open: ManifestWriter | null;
  readonly removedBytes: bigint;
  readonly removed: readonly RemovedFile[];
}

/** Rewrites the manifests, of `before`, that hold removed files. Throws `conflict` naming a file that is not live. */
async function removeFiles(context: Context, before: readonly ManifestFile[]): Promise<Rewrite> {
  const remove = new Set(context.change.remove);
  const required = new Set(context.change.require);
  if (remove.size + required.size === 0)
    return { kept: before, finished: [], open: null, removedBytes: 0n, removed: [] };
  const hours = context.change.removeHours === undefined ? null : new Set(context.change.removeHours);
  const candidates = before.filter((manifest) => mayHoldHours(manifest, context.metadata, hours));
  const touched = new Set<ManifestFile>();
  const missing = new Set(remove);
  const finished: ManifestFile[] = [];
  let open: ManifestWriter | null = null;
  const removed: RemovedFile[] = [];
  let removedBytes = 0n;
  for await (const { manifest, bytes } of fetchAhead(context.lake.store, candidates)) {
    if (missing.size + required.size === 0) break;
    if (!findLive(bytes, manifest, missing, required)) continue;
    touched.add(manifest);
    for (const entry of readManifest(bytes, manifest)) {
      if (entry.status === DELETED) continue;
      open = roll(context, open, finished, manifest.specId);
      if (missing.delete(entry.file.location)) {
        removedBytes += entry.file.bytes;
        const { location, hour } = entry.file;
        removed.push({ location, hour, sequenceNumber: entry.sequenceNumber ?? manifest.sequenceNumber });
        open.add({ ...entry, status: DELETED, snapshotId: context.snapshotId });
      } else open.add({ ...entry, status: EXISTING });
    }
  }
  const [absent = [...required][0]] = missing;
  if (absent !== undefined) {
    const message = `${absent} is not a live file of ${context.metadata.location}: it was replaced or deleted meanwhile`;
    throw new PenstockError('conflict', message, { retryable: false });
  }
  return { kept: before.filter((manifest) => !touched.has(manifest)), finished, open, removedBytes, removed };
}

/** Whether a file to remove is in it; takes out of `required` what it holds. */
function findLive(bytes: Buffer, manifest: ManifestFile, remove: ReadonlySet<string>, required: Set<string>): boolean {
  let isFound = false;
  for (const { status, file } of readManifest(bytes, manifest)) {
    if (status === DELETED) continue;
    isFound ||= remove.has(file.location);
    required.delete(file.location);
    if (isFound && required.size === 0) break;
  }
  return isFound;
}

/** Merges the smallest manifests when there are too many of them. */
async function merge(context: Context, manifests: readonly ManifestFile[]): Promise<readonly ManifestFile[]> {
  const small = manifests
    .filter((manifest) => manifest.addedSnapshotId !== context.snapshotId)
    .filter((manifest) => manifest.bytes < MANIFEST_BYTES_TARGET)
    .sort((a, b) => Number(a.bytes - b.bytes));
  if (small.length < SMALL_MANIFESTS_MAX) return manifests;
  const chosen = new Set<ManifestFile>();
  let bytes = 0;
  for (const manifest of small) {
    bytes += Number(manifest.bytes);
    if (bytes > MANIFEST_BYTES_TARGET) break;
    chosen.add(manifest);
  }
  if (chosen.size < MERGE_COUNT_MIN) return manifests;
  const lowerHour = (manifest: ManifestFile): number => hourRange(manifest, context.metadata)?.lower ?? 0;
  const ordered = [...chosen].sort((a, b) => a.specId - b.specId || lowerHour(a) - lowerHour(b));
  const finished: ManifestFile[] = [];
  let open: ManifestWriter | null = null;
  for await (const { manifest, bytes: content } of fetchAhead(context.lake.store, ordered)) {
    for (const entry of readManifest(content, manifest)) {
      if (entry.status === DELETED) continue;
      open = roll(context, open, finished, manifest.specId);
      open.add({ ...entry, status: EXISTING });
    }
  }
  if (open !== null) finished.push(finish(context, open));
  return [...manifests.filter((manifest) => !chosen.has(manifest)), ...finished];
}

/** The writer for the next entry: a new one when there is none, it is full, or the partition spec is another. */
function roll(context: Context, open: ManifestWriter | null, finished: ManifestFile[], specId: number): ManifestWriter {
  if (open !== null && open.bytes < MANIFEST_BYTES_TARGET && open.specId === specId) return open;
  if (open !== null) finished.push(finish(context, open));
  return new ManifestWriter(currentSchema(context.metadata), partitionSpec(context.metadata, specId));
}

function addedEntry({ change, snapshotId }: Context, file: DataFile): ManifestEntry {
  const sequenceNumber = change.rewrite?.sequenceNumber ?? null;
  return { status: ADDED, snapshotId, sequenceNumber, fileSequenceNumber: null, file };
}

function newAddedManifest(context: Context): AddedManifest {
  const { metadata, change } = context;
  const writer = new ManifestWriter(currentSchema(metadata), partitionSpec(metadata, metadata['default-spec-id']));
  for (const file of change.add) writer.add(addedEntry(context, file));
  return { writer, object: { key: newManifestKey(context), bytes: writer.finish() } };
}

function newManifestKey(context: Context): string {
  return `${context.folder}${randomUUID()}-m0.avro`;
}

function finish(context: Context, writer: ManifestWriter): ManifestFile {
  const object = { key: newManifestKey(context), bytes: writer.finish() };
  context.objects.push(object);
  return toManifestFile(context, writer, object);
}

function toManifestFile(context: Context, writer: ManifestWriter, object: DraftObject): ManifestFile {
  const sequence = context.sequenceNumber;
  const bound = (hour: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(hour);
    return bytes;
  };
  const partition = {
    containsNull: writer.hasNullHour,
    containsNan: false,
    lower: writer.hours && bound(writer.hours.lower),
    upper: writer.hours && bound(writer.hours.upper),
  };
  return {
    location: context.lake.store.location(object.key),
    bytes: BigInt(object.bytes.byteLength),
    specId: writer.specId,
    content: writer.content,
    sequenceNumber: sequence,
    minSequenceNumber: writer.minSequenceNumber ?? sequence,
    addedSnapshotId: context.snapshotId,
    files: [...writer.files],
    rows: [...writer.rows],
    partitions: writer.isPartitioned ? [partition] : [],
  };
}

function snapshotOf(
  context: Context,
  parent: Snapshot | null,
  listKey: string,
  manifests: readonly ManifestFile[],
  rewrite: Rewrite,
  retired: readonly DeleteFile[],
): Snapshot {
  const { change, metadata, lake, snapshotId } = context;
  const data = manifests.filter((manifest) => manifest.content === 0);
  const own = data.filter((manifest) => manifest.addedSnapshotId === snapshotId);
  const sum = (values: readonly bigint[]): bigint => values.reduce((total, value) => total + value, 0n);
  const addedBytes = sum(change.add.map((file) => file.bytes));
  const removedBytes = rewrite.removedBytes;
  const previousBytes = parent === null ? '0' : parent.summary['total-files-size'];
  const hours = new Set([...change.add.map((file) => file.hour), ...rewrite.removed.map((file) => file.hour)]);
  const counts: Record<string, bigint | number> = {
    'added-data-files': change.add.length,
    'deleted-data-files': own.reduce((total, manifest) => total + manifest.files[2], 0),
    'added-records': sum(change.add.map((file) => file.recordCount)),
    'deleted-records': sum(own.map((manifest) => manifest.rows[2])),
    'added-files-size': addedBytes,
    'removed-files-size': removedBytes,
    'changed-partition-count': hours.size,
    'total-data-files': data.reduce((total, manifest) => total + manifest.files[0] + manifest.files[1], 0),
    'total-records': sum(data.map((manifest) => manifest.rows[0] + manifest.rows[1])),
    ...deleteCounts(parent, manifests, retired),
  };
  // Another writer may have left the total out; then it stays unknown.
  if (typeof previousBytes === 'string') counts['total-files-size'] = BigInt(previousBytes) + addedBytes - removedBytes;
  const summary = Object.fromEntries(Object.entries(counts).map(([key, value]) => [key, value.toString()]));
  const time = Math.max(lake.clock.nowMs(), parent?.['timestamp-ms'] ?? 0);
  return {
    'snapshot-id': snapshotId,
    ...(parent === null ? {} : { 'parent-snapshot-id': parent['snapshot-id'] }),
    'sequence-number': context.sequenceNumber,
    'timestamp-ms': time,
    'manifest-list': lake.store.location(listKey),
    summary: { ...change.summary, ...summary, operation: change.operation },
    'schema-id': metadata['current-schema-id'],
  };
}

/** Totals that another writer left out stay unknown. */
function deleteCounts(
  parent: Snapshot | null,
  manifests: readonly ManifestFile[],
  retired: readonly DeleteFile[],
): Readonly<Record<string, bigint | number>> {
  const files = manifests.reduce(
    (total, { content, files: [existing, added] }) => (content === 1 ? total + existing + added : total),
    0,
  );
  const counts: Record<string, bigint | number> = { 'total-delete-files': files };
  if (retired.length > 0) counts['removed-delete-files'] = retired.length;
  for (const kind of ['position', 'equality'] as const) {
    const own = retired.filter((file) => file.kind === kind);
    const rows = own.reduce((sum, file) => sum + file.rows, 0);
    if (own.length > 0) {
      counts[`removed-${kind}-delete-files`] = own.length;
      counts[`removed-${kind}-deletes`] = rows;
    }
    const before = parent === null || files === 0 ? '0' : parent.summary[`total-${kind}-deletes`];
    if (typeof before === 'string') counts[`total-${kind}-deletes`] = files === 0 ? 0 : BigInt(before) - BigInt(rows);
  }
  return counts;
}
