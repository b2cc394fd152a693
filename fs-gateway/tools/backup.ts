/**
 * Backups of a volume's metadata in its own store: dumps (dump.ts), as objects that no gc takes.
 *
 *   backups/<volume>-<volume id>/<time>-<c|f>      a dump, c: of one instant, f: not
 *                                <time>-s<number>  one that is being written, by this session
 *                                <time>-v          void: that session fell before the dump was there, and a gc went on without it
 *
 * <time> is when the dump began or a little earlier, by the store's clock, ms, 15 digits; no two backups have the same.
 *
 * Invariants
 * - What a backup refers to was referred to when its dump began or later. gc deletes nothing whose last reference went after the oldest
 *   backup began (`settleBackups`), so every backup that is listed can be loaded, and all its files read. It counts from its mark on,
 *   which is durable before the dump's first read.
 * - A mark whose session is gone, without its dump, is made void before gc goes on; a void backup is never listed, whatever its writer
 *   still uploads. So a dead writer stops gc for as long as its lease, and one that was only stopped leaves no backup without its objects.
 * - The newest one of an instant is never removed for its age.
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
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { dumpVolume } from './dump.ts';
import { formatOf, storeNowMs } from './tool.ts';
import type { Progress } from './tool.ts';
import { holdLock } from './volume-lock.ts';
import type { VolumeLock } from './volume-lock.ts';

const ALL = 'backups/';
const TIME_DIGITS = 15;
const KEY = /^(backups\/(.+)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\/(\d{15}))-(?:([cf])|s(\d+)|v)$/;
/** A writer that was stopped looks for its lock before it uploads: no upload takes longer. */
const VOID_KEPT_MS = 24 * 3_600_000;

export interface Backup {
  readonly key: string;
  readonly volume: string;
  readonly created: string;
  readonly bytes: number;
  readonly consistent: boolean;
}

/** With the times that schedules need. */
export interface TimedBackup extends Backup {
  readonly startedMs: number;
  readonly writtenMs: number;
}

export interface BackupOptions {
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly volume: string;
  readonly clock: Clock;
  /** For the dump before it is uploaded. */
  readonly directory: string;
  readonly progress?: Progress;
}

function prefixOf({ volume, id }: VolumeFormat): string {
  return `${ALL}${volume}-${id}/`;
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
  const stem = await freeStem(store, format, await storeNowMs(store, `${prefixOf(format)}clock`, clock.nowMs()));
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
  const { taken } = await scan(store, prefixOf(format));
  for (let time = Math.floor(startedMs); ; time--) {
    const stem = prefixOf(format) + String(time).padStart(TIME_DIGITS, '0');
    if (!taken.has(stem)) return stem;
  }
}

interface Found {
  /** The oldest first. */
  readonly backups: readonly (TimedBackup & { readonly stem: string })[];
  /** By what the keys have in common: those being written, with the session; those that are void, with when that was said. */
  readonly marks: ReadonlyMap<string, { readonly key: string; readonly session: number; readonly startedMs: number }>;
  readonly voids: ReadonlyMap<string, { readonly key: string; readonly writtenMs: number }>;
  readonly taken: ReadonlySet<string>;
  /** Dumps of void backups. */
  readonly refused: readonly string[];
}

async function scan(store: ObjectStore, prefix: string): Promise<Found> {
  const dumps: (TimedBackup & { readonly stem: string })[] = [];
  const marks = new Map<string, { readonly key: string; readonly session: number; readonly startedMs: number }>();
  const voids = new Map<string, { readonly key: string; readonly writtenMs: number }>();
  const taken = new Set<string>();
  for await (const { key, bytes, modifiedMs } of store.list(prefix)) {
    const [, stem, volume, time, kind, session] = KEY.exec(key) ?? [];
    if (stem === undefined || volume === undefined) continue;
    taken.add(stem);
    const startedMs = Number(time);
    if (session !== undefined) marks.set(stem, { key, session: Number(session), startedMs });
    else if (kind === undefined) voids.set(stem, { key, writtenMs: modifiedMs });
    else {
      const created = new Date(startedMs).toISOString();
      dumps.push({ stem, key, volume, created, bytes, consistent: kind === 'c', startedMs, writtenMs: modifiedMs });
    }
  }
  return {
    backups: dumps.filter(({ stem }) => !voids.has(stem)).sort((a, b) => a.startedMs - b.startedMs),
    marks,
    voids,
    taken,
    refused: dumps.filter(({ stem }) => voids.has(stem)).map(({ key }) => key),
  };
}

/** All of a store, or of one volume, the oldest first. */
export async function listBackups(store: ObjectStore, format?: VolumeFormat): Promise<readonly TimedBackup[]> {
  return (await scan(store, format === undefined ? ALL : prefixOf(format))).backups;
}

export interface SettledBackups {
  /** When the oldest one began whose objects are to stay, also one that is being written. */
  readonly oldestMs: number | undefined;
  /** Backups whose writer was gone; void from now on. */
  readonly abandoned: number;
}

/**
 * For gc, when its walk is done: a backup that begins later refers to nothing that the walk found without a reference. With `look` nothing
 * is written.
 */
export async function settleBackups(
  { engine, store }: Pick<BackupOptions, 'engine' | 'store'>,
  format: VolumeFormat,
  look: boolean,
): Promise<SettledBackups> {
  const before = await scan(store, prefixOf(format));
  const live = new Set((await engine.sessions()).filter((session) => session.live).map(({ id }) => id));
  const dead = [...before.marks.values()].filter(({ session }) => !live.has(session));
  if (!look) for (const { session } of dead) await engine.endSession(session);
  // Who is done takes its mark away before its session ends: a mark that still stands, of a session that was over, is of one that is not.
  const { backups, marks } = await scan(store, prefixOf(format));
  const whole = new Set(backups.map(({ stem }) => stem));
  const left = [...marks].filter(([stem, { session }]) => before.marks.has(stem) && !live.has(session));
  const abandoned = left.filter(([stem]) => !whole.has(stem));
  if (!look) {
    for (const [stem] of abandoned) await store.put(`${stem}-v`, Buffer.from('its writer was gone when gc came\n'));
    if (left.length > 0) await store.delete(left.map(([, { key }]) => key));
  }
  const gone = new Set(left.map(([stem]) => stem));
  const begun = [...marks].filter(([stem]) => !gone.has(stem)).map(([, { startedMs }]) => startedMs);
  const all = [...begun, ...backups.map(({ startedMs }) => startedMs)];
  return { oldestMs: all.length === 0 ? undefined : Math.min(...all), abandoned: abandoned.length };
}

/** Those that are older than the volume's `backupKeep`, and what void ones left. */
export async function expireBackups(store: ObjectStore, format: VolumeFormat, nowMs: number): Promise<number> {
  const { backups, voids, refused } = await scan(store, prefixOf(format));
  const newest = backups.findLast(({ consistent }) => consistent);
  const expired = backups.filter((one) => one !== newest && one.startedMs < nowMs - format.backupKeepMs);
  // The dumps first: without its note one would count again.
  await store.delete([...expired.map(({ key }) => key), ...refused]);
  const old = [...voids.values()].filter(({ writtenMs }) => writtenMs < nowMs - VOID_KEPT_MS);
  await store.delete(old.map(({ key }) => key));
  return expired.length;
}
