/**
 * Garbage collection of a volume: objects that no extent refers to, replaced lake files past their grace period, and orphans whose
 * mount is gone.
 *
 * Invariants
 * - The store is listed before the metadata is walked: an object that is uploaded meanwhile is not on the list.
 * - An object is deleted only when it is older than the grace period, no extent refers to it, and nobody took it as a second reference
 *   during the walk (references.ts). An object that lost its references cannot gain one again: a copy compares its source.
 * - A damaged record stops the deletion: what it refers to is not known.
 * - Objects outside of the volume's own prefix (the lake's tables) are never touched.
 * Failure: killed at any point, what was deleted was garbage; the next run does the rest.
 */
import type { Clock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, ScanPage } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { expireListings } from '../../lib/volume/lake-expire.ts';
import { liveObjects, scanBucket } from '../../lib/volume/references.ts';
import { blocksPrefix } from '../data/pieces.ts';
import { VolumeView } from '../meta/view.ts';
import { Reclaimer } from '../vfs/reclaim.ts';

const DELETE_PORTION = 1000;
const NOTES_PORTION = 500;

export interface GcReport {
  readonly objects: number;
  readonly deletedObjects: number;
  readonly deletedBytes: number;
  readonly expiredLakeFiles: number;
  readonly reclaimedOrphans: number;
}

export interface GcOptions {
  readonly volume: string;
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly clock: Clock;
  /** Shorter than the volume's own only where nobody can be reading (tests, an unmounted volume). */
  readonly graceMs?: number;
}

/** Throws `corrupt` when a record cannot be read (run fsck first), `held` when another gc of the volume runs. */
export async function collectGarbage(options: GcOptions): Promise<GcReport> {
  const keys = new VolumeKeys(options.volume);
  return withLock(options.engine, keys, () => collect(options, keys));
}

async function collect(options: GcOptions, keys: VolumeKeys): Promise<GcReport> {
  const { engine, store, volume, clock } = options;
  const format = await readFormat(engine, volume);
  if (format === null) throw new PenstockError('not-found', `volume '${volume}' is not formatted`);
  const graceMs = options.graceMs ?? format.graceMs;
  const nowMs = clock.nowMs();
  await forgetMoved(engine, keys);
  const reclaimedOrphans = await reclaimOrphans(engine, volume);
  const expiredLakeFiles = await expireListings(engine, volume, nowMs, graceMs);

  const candidates = new Map<number, { readonly key: string; readonly bytes: number }>();
  let objects = 0;
  const prefix = blocksPrefix(format.id);
  for await (const { key, bytes, modifiedMs } of store.list(prefix)) {
    objects++;
    const id = Number(key.slice(key.lastIndexOf('/') + 1));
    if (Number.isSafeInteger(id) && modifiedMs <= nowMs - graceMs) candidates.set(id, { key, bytes });
  }
  const live = await liveObjects(engine, keys);
  const garbage = [...candidates].filter(([id]) => !live.own.has(id)).map(([, object]) => object);
  for (let at = 0; at < garbage.length; at += DELETE_PORTION) {
    await store.delete(garbage.slice(at, at + DELETE_PORTION).map((object) => object.key));
  }
  return {
    objects,
    deletedObjects: garbage.length,
    deletedBytes: garbage.reduce((sum, object) => sum + object.bytes, 0),
    expiredLakeFiles,
    reclaimedOrphans,
  };
}

/**
 * Takes away the notes of shared objects that were there before the walk: whoever has them now is seen by it. One that is noted again
 * meanwhile has another version and stays.
 */
async function forgetMoved(engine: MetaEngine, keys: VolumeKeys): Promise<void> {
  for (let cursor: string | null = ''; cursor !== null;) {
    const page: ScanPage = await engine.scan(keys.movedReferences, cursor, NOTES_PORTION);
    for (const [field, { version }] of page.entries) {
      const key = { bucket: keys.movedReferences, field };
      await engine.commit({ compare: [{ key, version }], write: [{ key, value: null }] });
    }
    cursor = page.cursor;
  }
}

/**
 * One gc at a time: another one would take away the notes that this one's walk needs. The lock is a record with the session that holds
 * it; it falls with the session.
 */
async function withLock<T>(engine: MetaEngine, keys: VolumeKeys, work: () => Promise<T>): Promise<T> {
  const key = keys.gcLock;
  const [held] = await engine.read([key]);
  const holder = held === null || held === undefined ? undefined : Number(held.value.toString());
  if ((await engine.sessions()).some((session) => session.live && session.id === holder)) {
    throw new PenstockError('held', `a gc of volume '${keys.volume}' is running (session ${holder ?? 0})`);
  }
  const taken = await engine.commit({
    compare: [{ key, version: held?.version ?? null }],
    write: [{ key, value: Buffer.from(String(engine.sessionId)) }],
  });
  if (!taken.ok) throw new PenstockError('held', `a gc of volume '${keys.volume}' has just begun`);
  try {
    return await work();
  } finally {
    await engine.commit({ compare: [{ key, version: taken.version }], write: [{ key, value: null }] });
  }
}

/** Orphans of mounts that have no live session. */
async function reclaimOrphans(engine: MetaEngine, volume: string): Promise<number> {
  const keys = new VolumeKeys(volume);
  const mounts = new Set((await engine.sessions()).filter((s) => s.live).map((s) => s.detail['mountId']));
  const left: number[] = [];
  for await (const [field, owner] of scanBucket(engine, keys.orphans)) {
    if (!mounts.has(owner.toString('latin1'))) left.push(Number(field));
  }
  if (left.length === 0) return 0;
  const view = VolumeView.over(engine, volume);
  const reclaimer = new Reclaimer(view, 'gc', () => undefined);
  for (const ino of left) await reclaimer.reclaim(ino);
  return left.length;
}
