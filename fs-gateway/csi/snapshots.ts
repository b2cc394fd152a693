/**
 * Makes snapshots of volumes: folders beside them that cannot be changed, and that count to no capacity. A snapshot has what was closed or synced.
 *
 * Invariants and failure: as of volumes (provision.ts).
 */
import type { Clock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { copyFolder } from '../tools/volume-folders.ts';
import { withEngine } from './backend.ts';
import { Records } from './records.ts';
import type { SnapshotRecord, Stored } from './records.ts';
import { ATTEMPTS, beingChanged, leave } from './removal.ts';
import type { Secrets } from './secrets.ts';
import { findSource } from './source.ts';
import { CsiError, Status } from './status.ts';
import { newFolder, parseVolumeId } from './volume-id.ts';

export interface SnapshotWish {
  readonly name: string;
  /** Of its record. */
  readonly snapshot: string;
  /** Id of the volume. */
  readonly source: string;
}

/** Throws ALREADY_EXISTS when the name is taken by a snapshot of another volume, NOT_FOUND for the volume. */
export async function createSnapshot(secrets: Secrets, wish: SnapshotWish, clock: Clock): Promise<SnapshotRecord> {
  return withEngine(secrets, async (engine) => {
    await refuseWhole(engine, wish.source);
    const records = new Records(engine);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const stored = (await records.snapshots.read(wish.snapshot)) ?? (await begin(records, wish, clock));
      if (stored === null) continue;
      const made = await finish({ engine, records, secrets, clock }, wish, stored);
      if (made !== null) return made;
    }
    throw beingChanged(wish.name);
  });
}

/** A volume that somebody else made has no folder to copy, and snapshots of its own. */
async function refuseWhole(engine: MetaEngine, source: string): Promise<void> {
  const place = parseVolumeId(source);
  if (place === undefined || place.folder !== undefined) return;
  if ((await readFormat(engine, place.volume)) === null) return;
  throw new CsiError(
    Status.FAILED_PRECONDITION,
    `volume '${place.volume}' was not made by this driver: penstock fs snapshot makes a snapshot of it`,
  );
}

async function begin(
  records: Records,
  { name, snapshot, source }: SnapshotWish,
  clock: Clock,
): Promise<Stored<SnapshotRecord> | null> {
  const { home, capacityBytes } = await findSource(records, { kind: 'volume', id: source });
  const record: SnapshotRecord = {
    ...{ version: 1, name, home: home.record.name, folder: newFolder(snapshot, 'snapshot'), state: 'creating' },
    ...{ capacityBytes, source, createdMs: clock.nowMs() },
  };
  const version = await records.join(home, records.snapshots.edit(snapshot, null, record));
  return version === null ? null : { record, version };
}

/** Null when something has changed meanwhile. */
async function finish(
  context: Parameters<typeof leave>[0],
  { snapshot, source }: SnapshotWish,
  stored: Stored<SnapshotRecord>,
): Promise<SnapshotRecord | null> {
  const { engine, records, clock } = context;
  const { record } = stored;
  const { name, folder, home: volume } = record;
  if (record.source !== source) {
    throw new CsiError(Status.ALREADY_EXISTS, `snapshot '${name}' exists, of volume '${record.source}'`);
  }
  if (record.state === 'ready') return record;
  const home = await records.homes.read(volume);
  if (record.state === 'deleting' || home === null) {
    throw new CsiError(Status.ABORTED, `snapshot '${name}' is being removed`);
  }
  try {
    const { folder: from } = await findSource(records, { kind: 'volume', id: source });
    await copyFolder({ engine, volume, clock }, { from, to: folder, bytesMax: null, frozen: true });
    // The volume's removal begins after its record says so.
    const { unchanged } = await findSource(records, { kind: 'volume', id: source });
    const ready = { ...record, state: 'ready' as const };
    const edit = records.snapshots.edit(snapshot, stored, ready);
    return (await records.commit([edit], [unchanged])) === null ? null : ready;
  } catch (error) {
    const gone = error instanceof CsiError && error.code === Status.NOT_FOUND;
    // No repeat would make it.
    if (gone) await leave(context, home, folder, records.snapshots.edit(snapshot, stored, null));
    throw error;
  }
}
