/**
 * Backups of a volume's metadata in its own store: dumps (dump.ts), as objects that no gc takes.
 *
 *   backups/<volume>-<volume id>/<when the dump began, by the store's clock, ms, 15 digits>-<c|f>    c: of one instant, f: not
 *
 * Invariants
 * - What a backup refers to was referred to when its dump began or later. gc deletes nothing whose last reference went after the oldest
 *   backup began (`oldestBackupMs`), so every backup that is listed can be loaded, and all its files read.
 * - The newest one of an instant is never removed for its age.
 * Failure: a backup is there whole or not at all.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { randomUUID } from 'node:crypto';
import type { Clock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { dumpVolume } from './dump.ts';
import { formatOf, storeNowMs } from './tool.ts';
import type { Progress } from './tool.ts';

const ALL = 'backups/';
const TIME_DIGITS = 15;
const KEY = /^backups\/(.+)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\/(\d{15})-([cf])$/;

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

export async function createBackup(options: BackupOptions): Promise<Backup> {
  const { engine, store, volume, clock, directory, progress } = options;
  const format = await formatOf(engine, volume);
  const prefix = prefixOf(format);
  const startedMs = await storeNowMs(store, `${prefix}clock`, clock.nowMs());
  const path = join(directory, `penstock-backup-${randomUUID()}`);
  try {
    const { consistent } = await dumpVolume({
      engine,
      volume,
      path,
      clock,
      ...(progress !== undefined && { progress }),
    });
    const time = String(Math.floor(startedMs)).padStart(TIME_DIGITS, '0');
    const { key, bytes } = await store.putFile(`${prefix}${time}-${consistent ? 'c' : 'f'}`, path);
    return { key, volume, created: new Date(startedMs).toISOString(), bytes, consistent };
  } finally {
    await rm(path, { force: true });
  }
}

/** All of a store, or of one volume, the oldest first. */
export async function listBackups(store: ObjectStore, format?: VolumeFormat): Promise<TimedBackup[]> {
  const backups: TimedBackup[] = [];
  for await (const { key, bytes, modifiedMs } of store.list(format === undefined ? ALL : prefixOf(format))) {
    const match = KEY.exec(key);
    if (match === null) continue;
    const startedMs = Number(match[2]);
    const created = new Date(startedMs).toISOString();
    const consistent = match[3] === 'c';
    backups.push({ key, volume: match[1] ?? '', created, bytes, consistent, startedMs, writtenMs: modifiedMs });
  }
  return backups.sort((a, b) => a.startedMs - b.startedMs);
}

/** When the oldest one began whose objects are to stay. */
export async function oldestBackupMs(store: ObjectStore, format: VolumeFormat): Promise<number | undefined> {
  return (await listBackups(store, format))[0]?.startedMs;
}

/** Those that are older than the volume's `backupKeep`. */
export async function expireBackups(store: ObjectStore, format: VolumeFormat, nowMs: number): Promise<number> {
  const backups = await listBackups(store, format);
  const newest = backups.findLast(({ consistent }) => consistent);
  const expired = backups.filter((one) => one !== newest && one.startedMs < nowMs - format.backupKeepMs);
  await store.delete(expired.map(({ key }) => key));
  return expired.length;
}
