/**
 * Removes volumes and snapshots: record `deleting` -> folder removed -> record removed, and the home counts one less. With the last one the whole
 * Penstock volume goes, at once.
 *
 * Invariants: what is mounted, or whose object store does not answer, is refused and stays as it was; a volume that this driver did not make is kept.
 * Failure: killed between any two steps, the same call again finishes.
 * Limits: ATTEMPTS rounds when others change the records meanwhile.
 */
import type { Clock } from '../../lib/clock.ts';
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openStore } from '../../lib/registry.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';
import { destroyVolume } from '../tools/destroy.ts';
import { mountNames } from '../tools/tool.ts';
import { removeFolder } from '../tools/volume-folders.ts';
import { assertStore, withEngine } from './backend.ts';
import { Records } from './records.ts';
import type { Edit, HomeRecord, RecordTable, SnapshotRecord, Stored, VolumeRecord } from './records.ts';
import type { Secrets } from './secrets.ts';
import { findMember } from './source.ts';
import { CsiError, Status } from './status.ts';
import type { Place } from './volume-id.ts';

/** A sidecar works on ten requests at once, and all of them may be of one home. */
export const ATTEMPTS = 20;

export function beingChanged(name: string): PenstockError {
  return new PenstockError('conflict', `'${name}' is being changed by another controller`);
}

interface Context {
  readonly engine: MetaEngine;
  readonly records: Records;
  readonly secrets: Secrets;
  readonly clock: Clock;
}

/** Done when there is no such volume. Throws FAILED_PRECONDITION when it is mounted, or was not made by this driver. */
export async function deleteVolume(secrets: Secrets, place: Place, clock: Clock): Promise<void> {
  await withEngine(secrets, async (engine) => {
    const { volume, folder } = place;
    if (folder === undefined) {
      if ((await readFormat(engine, volume)) === null) return;
      throw new CsiError(Status.FAILED_PRECONDITION, `volume '${volume}' was not made by this driver: it is kept`);
    }
    const records = new Records(engine);
    await remove({ engine, records, secrets, clock }, records.volumes, place);
  });
}

/** Done when there is no such snapshot. */
export async function deleteSnapshot(secrets: Secrets, place: Place, clock: Clock): Promise<void> {
  await withEngine(secrets, async (engine) => {
    const records = new Records(engine);
    await remove({ engine, records, secrets, clock }, records.snapshots, place);
  });
}

async function remove<T extends VolumeRecord | SnapshotRecord>(
  context: Context,
  table: RecordTable<T>,
  place: Place,
): Promise<void> {
  const { records } = context;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const found = await findMember(table, place);
    if (found === null) return;
    const { name, stored } = found;
    const { record } = stored;
    const home = await records.homes.read(record.home);
    if (home === null)
      throw new PenstockError('corrupt', `volume '${record.home}', which has '${name}', has no record`);
    // With the last one its objects go: with keys that the store does not take, nothing of it may.
    if (home.record.members === 1) await assertStore(home.record.store, context.secrets);
    const version = await records.commit([table.edit(name, stored, { ...record, state: 'deleting' })]);
    if (version === null) continue;
    const marked = { record, version };
    try {
      if (await leave(context, home, record.folder, table.edit(name, marked, null))) return;
    } catch (error) {
      // In use: it stays what it was.
      if (isCode(error, 'held')) await records.commit([table.edit(name, marked, record)]);
      throw error;
    }
  }
  throw beingChanged(place.folder ?? place.volume);
}

/** Takes a folder away, and its record by `leaving`. False when something has changed meanwhile. Throws `held` when it is mounted. */
export async function leave(
  { engine, records, secrets, clock }: Context,
  home: Stored<HomeRecord>,
  folder: string,
  leaving: Edit,
): Promise<boolean> {
  const { name: volume, id, members } = home.record;
  if (members > 1) {
    await removeFolder({ engine, volume, clock }, folder, () => refuseMounted(engine, volume, folder));
    return (await records.leave(home, leaving)) !== null;
  }
  const version = await records.commit([records.homes.edit(volume, home, { ...home.record, closing: true })]);
  if (version === null) return false;
  try {
    await destroyVolume({ engine, volume, id, openStore: (url) => openStore(url, secrets.credentials) });
  } catch (error) {
    const closed = { record: home.record, version };
    const open = { ...home.record, closing: false };
    if (isCode(error, 'held')) await records.commit([records.homes.edit(volume, closed, open)]);
    throw error;
  }
  return (await records.leave({ record: home.record, version }, leaving)) !== null;
}

/** A mount of the whole volume may be used by somebody who looks into the folder. */
async function refuseMounted(engine: MetaEngine, volume: string, folder: string): Promise<void> {
  const mounts = (await liveMounts(engine, volume)).filter(({ detail }) => (detail['folder'] ?? folder) === folder);
  if (mounts.length > 0) throw new PenstockError('held', `volume '${volume}' is mounted: ${mountNames(mounts)}`);
}
