/**
 * What a snapshot of another program means for our files: whether it may be kept, and what it adds to and removes from the hours.
 *
 * Only manifests that one of two snapshots has and the other has not are read; a file that is live in both is no change, so a
 * rewrite of manifests cancels out.
 * Invariants: everything that a snapshot refers to lies in the table's own folder. What lies elsewhere could be deleted by the
 * orphan removal of another table, or by nobody ever.
 * Limits: the files of the changed manifests are held in memory, some 300 bytes each.
 */
import { PenstockError } from '../../errors.ts';
import type { ObjectStore } from '../../store/store.ts';
import type { HourChange } from '../../volume/lake-listing.ts';
import { readDeleteManifest } from '../delete-manifest.ts';
import { tableFolder } from '../keys.ts';
import { fetchAhead, hasLive, manifestsOf, readTableObject } from '../live-files.ts';
import { DELETED, readManifest, referencedLocations } from '../manifest.ts';
import { parseManifestList } from '../manifest-list.ts';
import type { ManifestFile } from '../manifest-list.ts';
import type { Snapshot, TableMetadata } from '../metadata.ts';
import { RestError } from './rest-error.ts';
import { isHourTable } from './table-builder.ts';

/** A table's property: the directories of its hours may show rows that are deleted, until these are compacted. */
const ROW_DELETES = 'penstock.row-deletes';

/**
 * Throws BadRequestException when a new snapshot refers to what is not the table's, or has delete files that a table of the lander
 * cannot have: the volume's directories show whole files, and the compactor must be able to apply them.
 */
export async function checkSnapshot(
  store: ObjectStore,
  name: string,
  snapshot: Snapshot,
  parent: Snapshot | null,
  metadata: TableMetadata,
): Promise<void> {
  const list = snapshot['manifest-list'];
  assertInFolder(store, name, list);
  const known = new Set((await manifestsOf(store, parent)).map(({ location }) => location));
  const fresh = (await readList(store, list)).filter(({ location }) => !known.has(location));
  const deletes = fresh.filter((manifest) => manifest.content === 1 && hasLive(manifest));
  for (const { location } of fresh) assertInFolder(store, name, location);
  const [first] = isHourTable(metadata) && metadata.properties[ROW_DELETES] !== 'accept' ? deletes : [];
  if (first !== undefined) {
    throw new RestError(
      'BadRequestException',
      `${first.location} has delete files, and the volume shows whole files: write with write.delete.mode, ` +
        `write.update.mode and write.merge.mode copy-on-write, or set the table's property ${ROW_DELETES}=accept, ` +
        'after which its directories show deleted rows until an hour is compacted',
    );
  }
  for await (const { manifest, bytes } of fetchAhead(store, fresh)) {
    for (const location of referencedLocations(bytes, manifest)) assertInFolder(store, name, location);
    if (isHourTable(metadata) && deletes.includes(manifest)) assertApplicable(bytes, manifest, metadata);
  }
}

/** What could never be applied would keep its hours from being compacted. */
function assertApplicable(bytes: Buffer, manifest: ManifestFile, metadata: TableMetadata): void {
  for (const { status, file } of readDeleteManifest(bytes, manifest, metadata)) {
    if (status !== DELETED && file.problem !== null) throw new RestError('BadRequestException', file.problem);
  }
}

/** The client's own objects: what is wrong with them is its mistake, not damage of ours. */
async function readList(store: ObjectStore, location: string): Promise<readonly ManifestFile[]> {
  try {
    return parseManifestList(await readTableObject(store, location), location);
  } catch (error) {
    if (!(error instanceof PenstockError) || error.code !== 'corrupt') throw error;
    throw new RestError('BadRequestException', error.message, { cause: error });
  }
}

function assertInFolder(store: ObjectStore, name: string, location: string): void {
  const key = store.keyOf(location);
  if (key?.startsWith(tableFolder(name)) === true) return;
  throw new RestError(
    'BadRequestException',
    `${location} is not in the table's folder ${store.location(tableFolder(name).slice(0, -1))}: copy it there first`,
  );
}

interface LiveEntry {
  readonly location: string;
  readonly hour: number;
  readonly bytes: number;
}

/** What the directories of the hours must show differently when `before` is followed by `after`. */
export async function changedHours(
  store: ObjectStore,
  before: Snapshot | null,
  after: Snapshot | null,
  nowMs: number,
): Promise<readonly HourChange[]> {
  if (before?.['snapshot-id'] === after?.['snapshot-id']) return [];
  const [old, next] = [await manifestsOf(store, before), await manifestsOf(store, after)];
  const [oldLocations, nextLocations] = [new Set(old.map(locationOf)), new Set(next.map(locationOf))];
  const gone = await liveEntries(
    store,
    old.filter(({ location }) => !nextLocations.has(location)),
  );
  const come = await liveEntries(
    store,
    next.filter(({ location }) => !oldLocations.has(location)),
  );
  const hours = new Map<number, { add: HourChange['add'][number][]; remove: string[] }>();
  const at = (hour: number): { add: HourChange['add'][number][]; remove: string[] } => {
    const found = hours.get(hour) ?? { add: [], remove: [] };
    hours.set(hour, found);
    return found;
  };
  for (const entry of come.values()) {
    if (gone.has(entry.location)) continue;
    const key = store.keyOf(entry.location);
    if (key === null) throw new PenstockError('corrupt', `${entry.location} is not in the store ${store.url}`);
    at(entry.hour).add.push({ name: fileName(entry.location), key, bytes: entry.bytes, modifiedMs: nowMs });
  }
  for (const entry of gone.values()) {
    if (!come.has(entry.location)) at(entry.hour).remove.push(fileName(entry.location));
  }
  return [...hours].map(([hour, change]) => ({ hour, ...change })).sort((a, b) => a.hour - b.hour);
}

const locationOf = ({ location }: ManifestFile): string => location;
const fileName = (location: string): string => location.slice(location.lastIndexOf('/') + 1);

async function liveEntries(store: ObjectStore, manifests: readonly ManifestFile[]): Promise<Map<string, LiveEntry>> {
  const entries = new Map<string, LiveEntry>();
  const data = manifests.filter((manifest) => manifest.content === 0 && hasLive(manifest));
  for await (const { manifest, bytes } of fetchAhead(store, data)) {
    for (const { status, file } of readManifest(bytes, manifest)) {
      if (status === DELETED) continue;
      entries.set(file.location, { location: file.location, hour: file.hour, bytes: Number(file.bytes) });
    }
  }
  return entries;
}
