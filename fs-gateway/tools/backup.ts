/**
 * Makes, lists and expires backups of a volume's metadata in its own store: dumps (dump.ts), as objects that no gc takes. What is where, and what
 * every clean-up owes to them, is in lib/volume/backups.ts.
 *
 * Invariants: the mark of a backup is durable before the dump's first read. The newest backup of an instant is never removed for its age.
 * Failure: a backup is there whole or not at all. Killed before that, its mark is left for gc.
 * Limits: one backup of a volume at a time.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { randomUUID } from 'node:crypto';
import type { Clock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { ALL_BACKUPS, backupsOf, scanBackups, TIME_DIGITS } from '../../lib/volume/backups.ts';
import type { Backup, TimedBackup } from '../../lib/volume/backups.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { dumpVolume } from './dump.ts';
import { formatOf, storeNowMs } from './tool.ts';
import type { Progress } from './tool.ts';
import { holdLock } from './volume-lock.ts';
import type { VolumeLock } from './volume-lock.ts';

/** A writer that was stopped looks for its lock before it uploads: no upload takes longer. */
const VOID_KEPT_MS = 24 * 3_600_000;

export interface BackupOptions {
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly volume: string;
  readonly clock: Clock;
  /** For the dump before it is uploaded. */
  readonly directory: string;
  readonly progress?: Progress;
}

/** Throws `held` while another one is being written. */
export async function createBackup(options: BackupOptions): Promise<Backup> {
  return lockBackups(options, (lock) => writeBackup(options, lock));
}

/** What `work` does is done by one at a time. Throws `held`. */
export async function lockBackups<T>(
  { engine, volume }: Pick<BackupOptions, 'engine' | 'volume'>,
  work: (lock: VolumeLock) => Promise<T>,
): Promise<T> {
  const lock = await holdLock(engine, new VolumeKeys(volume).backupLock, `a backup of volume '${volume}'`);
  try {
    return await work(lock);
  } finally {
    await lock.release();
  }
}

/** Throws `fenced` when the session falls meanwhile. */
export async function writeBackup(options: BackupOptions, lock: VolumeLock): Promise<Backup> {
  const { engine, store, volume, clock, directory, progress } = options;
  const format = await formatOf(engine, volume);
  const stem = await freeStem(store, format, await storeNowMs(store, `${backupsOf(format)}clock`, clock.nowMs()));
  const mark = `${stem}-s${engine.sessionId}`;
  const path = join(directory, `penstock-backup-${randomUUID()}`);
  await store.put(mark, Buffer.from('written by penstock while it backs the metadata up\n'));
  try {
    const { consistent } = await dumpVolume({
      engine,
      volume,
      path,
      clock,
      ...(progress !== undefined && { progress }),
    });
    await lock.assertHeld();
    const { key, bytes } = await store.putFile(`${stem}-${consistent ? 'c' : 'f'}`, path);
    await lock.assertHeld();
    return { key, volume, created: new Date(Number(stem.slice(-TIME_DIGITS))).toISOString(), bytes, consistent };
  } finally {
    await rm(path, { force: true });
    // One that stays is taken away by gc.
    await store.delete([mark]).catch(() => undefined);
  }
}

/** A time that no other backup has. An earlier one than the true one is as good: gc leaves more. */
async function freeStem(store: ObjectStore, format: VolumeFormat, startedMs: number): Promise<string> {
  const { taken } = await scanBackups(store, backupsOf(format));
  for (let time = Math.floor(startedMs); ; time--) {
    const stem = backupsOf(format) + String(time).padStart(TIME_DIGITS, '0');
    if (!taken.has(stem)) return stem;
  }
}

/** All of a store, or of one volume, the oldest first. */
export async function listBackups(store: ObjectStore, format?: VolumeFormat): Promise<readonly TimedBackup[]> {
  return (await scanBackups(store, format === undefined ? ALL_BACKUPS : backupsOf(format))).backups;
}

/** Those that are older than the volume's `backupKeep`, and what void ones left. */
export async function expireBackups(store: ObjectStore, format: VolumeFormat, nowMs: number): Promise<number> {
  const { backups, voids, refused } = await scanBackups(store, backupsOf(format));
  const newest = backups.findLast(({ consistent }) => consistent);
  const expired = backups.filter((one) => one !== newest && one.startedMs < nowMs - format.backupKeepMs);
  // The dumps first: without its note one would count again.
  await store.delete([...expired.map(({ key }) => key), ...refused]);
  const old = [...voids.values()].filter(({ writtenMs }) => writtenMs < nowMs - VOID_KEPT_MS);
  await store.delete(old.map(({ key }) => key));
  return expired.length;
}
