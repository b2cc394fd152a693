/**
 * Makes and removes volumes for the controller: the steps, and what a repeat or a second controller finds half done.
 *
 * Invariants
 * - create: record `creating` -> format -> quota -> record `ready`. The record has the id of the volume to be, so whoever repeats the call, here or in
 *   another controller, makes the same volume. delete: record `deleting` -> volume destroyed -> record removed.
 * - A volume that this driver did not make is never taken over by a create, nor removed by a delete.
 * - Nothing is made before the object store was seen with these credentials.
 * Failure: killed between any two steps, the same call again finishes. A create that never comes again leaves a record and an empty volume.
 * Limits: ATTEMPTS rounds when others change the record meanwhile.
 */
import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '../../lib/clock.ts';
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { absoluteUrl, openMeta, openStore } from '../../lib/registry.ts';
import { FORMAT_DEFAULTS, readFormat, writeFormat } from '../../lib/volume/format.ts';
import { parseOptions } from '../main.ts';
import { destroyVolume } from '../tools/destroy.ts';
import { setQuota } from '../tools/quota.ts';
import { describeCapacity, fitsRange, wantedCapacity } from './capabilities.ts';
import type { CapacityRange, StringMap } from './protocol.ts';
import type { Secrets } from './secrets.ts';
import { CsiError, invalid, Status } from './status.ts';
import { VolumeRecords } from './volume-records.ts';
import type { StoredRecord, VolumeRecord } from './volume-records.ts';

const ATTEMPTS = 5;
const STORE_CHECK_MS = 10_000;

export interface VolumeWish {
  readonly name: string;
  readonly volume: string;
  readonly capacityRange: CapacityRange | null;
  readonly options: StringMap;
  readonly context: StringMap;
}

/** The engine of these secrets, for one call. */
export async function withEngine<T>(secrets: Secrets, work: (engine: MetaEngine) => Promise<T>): Promise<T> {
  const engine = await openMeta(absoluteUrl(secrets.metaUrl, '/'), { kind: 'csi' });
  try {
    return await work(engine);
  } finally {
    await engine.close();
  }
}

/** Throws what is wrong with the store or its credentials. Nothing is written. */
export async function assertStore(storeUrl: string, secrets: Secrets): Promise<void> {
  const store = await openStore(storeUrl, secrets.credentials);
  try {
    await store.head('penstock-csi', { signal: AbortSignal.timeout(STORE_CHECK_MS) });
  } catch (error) {
    // NOT_FOUND would be taken for a missing source volume.
    if (isCode(error, 'not-found')) throw new CsiError(Status.FAILED_PRECONDITION, error.message, { cause: error });
    throw error;
  } finally {
    await store.close();
  }
}

/** Throws ALREADY_EXISTS when the name is taken by another volume. */
export async function createVolume(secrets: Secrets, wish: VolumeWish, clock: Clock): Promise<VolumeRecord> {
  // What is wrong with the options is said before anything is made.
  const options = parseOptions(wish.options);
  return withEngine(secrets, async (engine) => {
    const records = new VolumeRecords(engine);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const stored = (await records.read(wish.volume)) ?? (await begin(records, secrets, wish, clock));
      if (stored === null) continue;
      const { record, version } = stored;
      assertSame(record, wish);
      if (record.state === 'ready') return record;
      if (record.state === 'deleting') throw new CsiError(Status.ABORTED, `volume '${record.volume}' is being removed`);
      await format(engine, records, stored, options);
      await applyCapacity(engine, record);
      const ready = { ...record, state: 'ready' as const };
      if ((await records.write(ready, version)) !== null) return ready;
    }
    throw new PenstockError('conflict', `volume '${wish.volume}' is being changed by another controller`);
  });
}

async function begin(
  records: VolumeRecords,
  secrets: Secrets,
  wish: VolumeWish,
  clock: Clock,
): Promise<StoredRecord | null> {
  if (secrets.storeUrl === undefined) {
    throw invalid("secret 'store' is missing: the URL of the object store, as s3://bucket/prefix?region=R");
  }
  const store = absoluteUrl(secrets.storeUrl, '/');
  await assertStore(store, secrets);
  const record: VolumeRecord = {
    version: 1,
    name: wish.name,
    volume: wish.volume,
    id: randomUUID(),
    state: 'creating',
    store,
    capacityBytes: wantedCapacity(wish.capacityRange),
    options: { ...wish.options },
    context: { ...wish.context },
    createdMs: clock.nowMs(),
  };
  const version = await records.write(record, null);
  return version === null ? null : { record, version };
}

function assertSame(record: VolumeRecord, wish: VolumeWish): void {
  const other = (what: string): CsiError =>
    new CsiError(Status.ALREADY_EXISTS, `volume '${record.volume}' exists with ${what}`);
  if (record.name !== wish.name) throw other(`the name '${record.name}'`);
  if (!fitsRange(record.capacityBytes, wish.capacityRange)) {
    throw other(`another capacity (${describeCapacity(record.capacityBytes)})`);
  }
  if (!isDeepStrictEqual(record.options, wish.options)) throw other('other parameters');
  if (!isDeepStrictEqual(record.context, wish.context)) throw other('other parameters');
}

async function format(
  engine: MetaEngine,
  records: VolumeRecords,
  { record, version }: StoredRecord,
  options: ReturnType<typeof parseOptions>,
): Promise<void> {
  const { id, volume, store, createdMs } = record;
  try {
    await writeFormat(engine, { ...FORMAT_DEFAULTS, ...options, id, volume, store, createdMs });
  } catch (error) {
    if (!isCode(error, 'exists')) {
      // Values out of range: no repeat will make it.
      if (isCode(error, 'config')) await records.remove(volume, version);
      throw error;
    }
    const found = await readFormat(engine, volume);
    if (found?.id === id) return;
    await records.remove(volume, version);
    throw new CsiError(Status.ALREADY_EXISTS, `a volume '${volume}' exists that this driver did not make`);
  }
}

/** The capacity is the quota of the volume's root. */
async function applyCapacity(engine: MetaEngine, { volume, capacityBytes }: VolumeRecord): Promise<void> {
  if (capacityBytes > 0) await setQuota(engine, volume, '/', { bytesMax: capacityBytes });
}

/** The capacity that the volume has afterwards; undefined when there is no such volume. Throws OUT_OF_RANGE for a limit below it. */
export async function expandVolume(
  secrets: Secrets,
  volume: string,
  range: CapacityRange,
): Promise<number | undefined> {
  const wanted = wantedCapacity(range);
  return withEngine(secrets, async (engine) => {
    const records = new VolumeRecords(engine);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const stored = await records.read(volume);
      if (stored?.record.state !== 'ready') return undefined;
      const { capacityBytes: now } = stored.record;
      if (range.limitBytes !== 0 && (now === 0 || now > range.limitBytes)) {
        throw new CsiError(Status.OUT_OF_RANGE, `it has ${describeCapacity(now)}: a volume does not shrink`);
      }
      const grown = { ...stored.record, capacityBytes: now === 0 ? 0 : Math.max(now, wanted) };
      if (grown.capacityBytes > now && (await records.write(grown, stored.version)) === null) continue;
      // Also when nothing is to grow: the call before this one may have ended between the record and the quota.
      await applyCapacity(engine, grown);
      // Another controller may have grown it meanwhile, and ours would be the smaller quota.
      const after = await records.read(volume);
      if (after?.record.capacityBytes === grown.capacityBytes) return grown.capacityBytes;
    }
    throw new PenstockError('conflict', `volume '${volume}' is being changed by another controller`);
  });
}

/** Done when there is no such volume. Throws FAILED_PRECONDITION when it is mounted, or was not made by this driver. */
export async function deleteVolume(secrets: Secrets, volume: string): Promise<void> {
  await withEngine(secrets, async (engine) => {
    const records = new VolumeRecords(engine);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const stored = await records.read(volume);
      if (stored === null) {
        if ((await readFormat(engine, volume)) === null) return;
        throw new CsiError(Status.FAILED_PRECONDITION, `volume '${volume}' was not made by this driver: it is kept`);
      }
      if (await remove(engine, records, stored, secrets)) return;
    }
    throw new PenstockError('conflict', `volume '${volume}' is being changed by another controller`);
  });
}

async function remove(
  engine: MetaEngine,
  records: VolumeRecords,
  { record, version }: StoredRecord,
  secrets: Secrets,
): Promise<boolean> {
  const marked = await records.write({ ...record, state: 'deleting' }, version);
  if (marked === null) return false;
  const { volume, id } = record;
  try {
    await destroyVolume({ engine, volume, id, openStore: (url) => openStore(url, secrets.credentials) });
  } catch (error) {
    // In use: it stays what it was.
    if (isCode(error, 'held')) await records.write(record, marked);
    throw error;
  }
  return records.remove(volume, marked);
}
