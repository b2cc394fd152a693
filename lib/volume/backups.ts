/**
 * Backups of a volume's metadata in its own store (fs-gateway/tools/backup.ts makes them), and what whoever deletes objects owes to them.
 *
 *   backups/<volume>-<volume id>/<time>-<c|f>      a dump, c: of one instant, f: not
 *                                <time>-s<number>  one that is being written, by this session
 *                                <time>-v          void: that session fell before the dump was there, and a clean-up went on without it
 *
 * <time> is when the dump began or a little earlier, by the store's clock, ms, 15 digits; no two backups have the same.
 *
 * Invariants
 * - What a backup refers to was referred to when its dump began or later. Nothing is deleted whose last reference went after the oldest
 *   backup began (`settleBackups`), so every backup that is listed can be loaded, and all its files read. It counts from its mark on,
 *   which is durable before the dump's first read.
 * - A mark whose session is gone, without its dump, is made void before a clean-up goes on; a void backup is never listed, whatever its
 *   writer still uploads. So a dead writer stops clean-ups for as long as its lease, and one that was only stopped leaves no backup without
 *   its objects.
 */
import type { MetaEngine } from '../meta/engine.ts';
import type { ObjectStore } from '../store/store.ts';
import type { VolumeFormat } from './format.ts';

export const ALL_BACKUPS = 'backups/';
export const TIME_DIGITS = 15;
const KEY = /^(backups\/(.+)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\/(\d{15}))-(?:([cf])|s(\d+)|v)$/;

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

/** The prefix of all of a volume. */
export function backupsOf({ volume, id }: VolumeFormat): string {
  return `${ALL_BACKUPS}${volume}-${id}/`;
}

export interface FoundBackups {
  /** The oldest first. */
  readonly backups: readonly (TimedBackup & { readonly stem: string })[];
  /** By what the keys have in common: those being written, with the session; those that are void, with when that was said. */
  readonly marks: ReadonlyMap<string, { readonly key: string; readonly session: number; readonly startedMs: number }>;
  readonly voids: ReadonlyMap<string, { readonly key: string; readonly writtenMs: number }>;
  readonly taken: ReadonlySet<string>;
  /** Dumps of void backups. */
  readonly refused: readonly string[];
}

/** All below a prefix. */
export async function scanBackups(store: ObjectStore, prefix: string): Promise<FoundBackups> {
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

export interface SettledBackups {
  /** When the oldest one began whose objects are to stay, also one that is being written. */
  readonly oldestMs: number | undefined;
  /** Backups whose writer was gone; void from now on. */
  readonly abandoned: number;
}

/**
 * For a clean-up of the volume's or the lake's objects, when its walk is done: a backup that begins later refers to nothing that the walk found without a reference. With `look` nothing
 * is written.
 */
export async function settleBackups(
  { engine, store }: { readonly engine: MetaEngine; readonly store: ObjectStore },
  format: VolumeFormat,
  look: boolean,
): Promise<SettledBackups> {
  const before = await scanBackups(store, backupsOf(format));
  const live = new Set((await engine.sessions()).filter((session) => session.live).map(({ id }) => id));
  const dead = [...before.marks.values()].filter(({ session }) => !live.has(session));
  if (!look) for (const { session } of dead) await engine.endSession(session);
  // Who is done takes its mark away before its session ends: a mark that still stands, of a session that was over, is of one that is not.
  const { backups, marks } = await scanBackups(store, backupsOf(format));
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
