/**
 * The live files of a snapshot, streamed: manifests are fetched a few ahead of the reader and decoded entry by entry, so that a
 * table of any size is planned in bounded memory.
 */
import { PenstockError, isCode } from '../errors.ts';
import type { ObjectStore } from '../store/store.ts';
import type { LiveFile } from './data-file.ts';
import { DELETED, readManifest } from './manifest.ts';
import { parseManifestList } from './manifest-list.ts';
import type { ManifestFile } from './manifest-list.ts';
import { HOUR_FIELD_ID, partitionSpec } from './metadata.ts';
import type { Snapshot, TableMetadata } from './metadata.ts';

/** Manifests fetched ahead of the one that is being decoded: hides a store's latency at a few MiB each. */
const READ_AHEAD = 4;

export interface HourFilter {
  readonly hour?: number;
  readonly hours?: ReadonlySet<number>;
}

export async function* liveFilesOf(
  store: ObjectStore,
  metadata: TableMetadata,
  snapshot: Snapshot | null,
  filter: HourFilter = {},
): AsyncGenerator<LiveFile> {
  const hours = hoursOf(filter);
  const manifests = (await manifestsOf(store, snapshot)).filter(
    (manifest) => manifest.content === 0 && hasLive(manifest) && mayHoldHours(manifest, metadata, hours),
  );
  for await (const { manifest, bytes } of fetchAhead(store, manifests)) {
    for (const entry of readManifest(bytes, manifest)) {
      if (entry.status === DELETED || (hours !== null && !hours.has(entry.file.hour))) continue;
      // Inherited values have been filled in by readManifest.
      yield { ...entry.file, sequenceNumber: entry.sequenceNumber ?? 0n, snapshotId: entry.snapshotId ?? 0n };
    }
  }
}

/** null: any hour. */
export function hoursOf(filter: HourFilter): ReadonlySet<number> | null {
  return filter.hour === undefined ? (filter.hours ?? null) : new Set([filter.hour]);
}

/** The manifests of a snapshot, data and deletes. */
export async function manifestsOf(store: ObjectStore, snapshot: Snapshot | null): Promise<readonly ManifestFile[]> {
  if (snapshot === null) return [];
  const location = snapshot['manifest-list'];
  const manifests = parseManifestList(await readTableObject(store, location), location);
  // An Avro file that ends after its header looks like an empty list.
  if (manifests.length === 0 && Number(snapshot.summary['total-data-files'] ?? '0') > 0) {
    throw new PenstockError('corrupt', `${location} lists no manifest, but its snapshot has data files`);
  }
  return manifests;
}

export function hasLive(manifest: ManifestFile): boolean {
  return manifest.files[0] + manifest.files[1] > 0;
}

/** False only when the manifest's bounds exclude every one of `hours` (null: any hour). */
export function mayHoldHours(
  manifest: ManifestFile,
  metadata: TableMetadata,
  hours: ReadonlySet<number> | null,
): boolean {
  if (hours === null) return true;
  const range = hourRange(manifest, metadata);
  return range === null || [...hours].some((hour) => range.lower <= hour && hour <= range.upper);
}

/** The bounds of the partition's hour, or null where the manifest list does not say. */
export function hourRange(manifest: ManifestFile, metadata: TableMetadata): { lower: number; upper: number } | null {
  const spec = partitionSpec(metadata, manifest.specId);
  const bounds = manifest.partitions?.[spec.fields.findIndex((field) => field['field-id'] === HOUR_FIELD_ID)];
  if (bounds?.lower?.length !== 4 || bounds.upper?.length !== 4) return null;
  return { lower: Buffer.from(bounds.lower).readInt32LE(), upper: Buffer.from(bounds.upper).readInt32LE() };
}

/** The manifests with their bytes, in order, READ_AHEAD of them on their way. */
export async function* fetchAhead(
  store: ObjectStore,
  manifests: readonly ManifestFile[],
): AsyncGenerator<{ readonly manifest: ManifestFile; readonly bytes: Buffer }> {
  const inFlight: { manifest: ManifestFile; bytes: Promise<Buffer> }[] = [];
  let next = 0;
  while (true) {
    for (let manifest; inFlight.length < READ_AHEAD && (manifest = manifests[next]) !== undefined; next++) {
      const bytes = readTableObject(store, manifest.location);
      // It may fail while the reader is still busy with an earlier one; the error is thrown when its turn comes.
      bytes.catch(() => undefined);
      inFlight.push({ manifest, bytes });
    }
    const first = inFlight.shift();
    if (first === undefined) return;
    yield { manifest: first.manifest, bytes: await first.bytes };
  }
}

/** Reads an object that metadata refers to: its absence is damage. */
export async function readTableObject(store: ObjectStore, location: string): Promise<Buffer> {
  const key = store.keyOf(location);
  if (key === null) throw new PenstockError('unsupported', `${location} is not in the store ${store.url}`);
  try {
    return await store.get(key);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
    throw new PenstockError('corrupt', `${location} does not exist, but the table refers to it`, { cause: error });
  }
}
