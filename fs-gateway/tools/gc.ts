/**
 * Garbage collection of a volume: what was in the trash for as long as the volume's option says, objects that no extent refers to,
 * replaced lake files past their grace period, and orphans whose mount is gone.
 *
 * Method: list the objects that are older than the grace period; then walk all metadata and strike out what is referred to. What is left
 * and was found by an earlier run, longer ago than the grace period (gc-lists.ts), is deleted; what is new is noted for a later run.
 * Invariants
 * - The store is listed before the metadata is walked: an object that is uploaded meanwhile is not on the list. One that was uploaded
 *   and not committed yet is younger than the grace period and, while the volume is mounted, than UPLOAD_MS, by the store's own clock.
 * - An object is deleted only when it is older than the grace period, no extent refers to it, and nobody took it as a second reference
 *   during the walk (references.ts). An object that lost its references can gain one again only by a copy of an instant before that; gc waits
 *   for those that are under way when the walk is done.
 * - What a backup of the metadata may refer to stays (backup.ts), also one that is being written, or that begins during the walk.
 * - Before each portion is deleted, the lock is still ours and none of its objects has been noted as moved. So a gc that was stopped
 *   for longer than its lease deletes nothing after another one began.
 * - A damaged record stops the deletion: what it refers to is not known.
 * - Objects outside of the volume's own blocks (the lake's tables) are never touched.
 * Failure: killed at any point, what was deleted was garbage; the next run does the rest.
 * Limits: a few bits per object id in memory (id-set.ts), and one portion of DELETE_PORTION objects.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../../lib/clock.ts';
import { describeError, PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, ScanPage, Version } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { settleBackups } from '../../lib/volume/backups.ts';
import type { SettledBackups } from '../../lib/volume/backups.ts';
import { treesIn } from '../../lib/volume/building.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { expireListings } from '../../lib/volume/lake-expire.ts';
import { walkReferences, scanBucket } from '../../lib/volume/references.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';
import { blocksPrefix, objectKey } from '../data/pieces.ts';
import { VolumeView } from '../meta/view.ts';
import { Reclaimer } from '../vfs/reclaim.ts';
import { removeAbandoned } from './clone.ts';
import { expiredOrphans } from './gc-orphans.ts';
import { forgetReports } from './gc-reports.ts';
import { GarbageLists } from './gc-lists.ts';
import { holdLock } from './volume-lock.ts';
import type { VolumeLock } from './volume-lock.ts';
import { IdSet } from './id-set.ts';
import { TrashCan } from './trash.ts';
import { forgetQuotas } from './quota.ts';
import { formatOf, mountNames, storeNowMs, storeTimeMs } from './tool.ts';
import type { Progress } from './tool.ts';

/** One DeleteObjects request of S3, and one read of the engine. */
const DELETE_PORTION = 1000;
const NOTES_PORTION = 500;
/** From an upload to its commit: a mount gives up its engine after 30 s, and a large flush goes on uploading meanwhile. */
const UPLOAD_MS = 3_600_000;
/** A copy makes thousands of files a second. */
const COPIES_AWAITED_MS = 3_600_000;
const COPIES_POLL_MS = 200;

export interface GcReport {
  /** Objects of the volume in the store. */
  readonly objects: number;
  /** With `dryRun`: what would be deleted. */
  readonly deletedObjects: number;
  readonly deletedBytes: number;
  /** Garbage whose grace period is not over. */
  readonly waitingObjects: number;
  /** With `dryRun` 0: the names are not looked at. */
  readonly expiredLakeFiles: number;
  readonly reclaimedOrphans: number;
  /** Of the trash; their objects are garbage for a later run. */
  readonly expiredTrash: number;
  /** Clones and removals of snapshots that were killed. */
  readonly abandonedTrees: number;
  /** Nothing is deleted whose last reference went after this backup of the metadata began, which may be one that is being written. */
  readonly oldestBackup: string | null;
  /** Backups that were never finished, because their writers are gone: void from now on. */
  readonly abandonedBackups: number;
  readonly dryRun: boolean;
  /** Why garbage is left; null when all of it is gone. */
  readonly problem: string | null;
}

export interface GcOptions {
  readonly volume: string;
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly clock: Clock;
  /** Instead of the volume's own; a shorter one is refused while the volume is mounted. */
  readonly graceMs?: number;
  /** While the volume is mounted, objects younger than this may be of an upload that is not committed yet. Default UPLOAD_MS. */
  readonly uploadMs?: number;
  readonly dryRun?: boolean;
  readonly progress?: Progress;
}

/** Written by every run, so its time is that of the last one. */
export function clockKey(volumeId: string): string {
  return `${volumeId}/gc-clock`;
}

interface Candidate {
  readonly id: number;
  readonly key: string;
  readonly bytes: number;
}

interface Sorted {
  readonly backups: SettledBackups;
  readonly garbage: IdSet;
  readonly fresh: IdSet;
  readonly waiting: number;
  readonly lists: GarbageLists;
}

/** Throws `corrupt` when a record cannot be read (run fsck first), `held` when another gc of the volume runs, or mounts forbid the grace. */
export async function collectGarbage(options: GcOptions): Promise<GcReport> {
  const { engine, volume } = options;
  const format = await formatOf(engine, volume);
  const graceMs = options.graceMs ?? format.graceMs;
  if (graceMs < format.graceMs) {
    const mounts = await liveMounts(engine, volume);
    if (mounts.length > 0) {
      const text = `a grace period below the volume's own (${format.graceMs / 1000} s) needs the volume unmounted`;
      throw new PenstockError('held', `${text}; it is mounted at ${mountNames(mounts)}`);
    }
  }
  const run = new Collection(options, format, graceMs);
  if (options.dryRun === true) return run.look();
  const lock = await holdLock(engine, run.keys.gcLock, `a gc of volume '${volume}'`);
  try {
    return await run.collect(lock);
  } finally {
    await lock.release();
  }
}

class Collection {
  readonly keys: VolumeKeys;
  readonly #options: GcOptions;
  readonly #format: VolumeFormat;
  readonly #volumeId: string;
  readonly #graceMs: number;
  readonly #progress: Progress;
  #objects = 0;

  constructor(options: GcOptions, format: VolumeFormat, graceMs: number) {
    this.keys = new VolumeKeys(options.volume);
    this.#options = options;
    this.#format = format;
    this.#volumeId = format.id;
    this.#graceMs = graceMs;
    this.#progress = options.progress ?? (() => undefined);
  }

  async collect(lock: VolumeLock): Promise<GcReport> {
    const { engine, store, volume, clock } = this.#options;
    const nowMs = clock.nowMs();
    // First, as it is what the engine misses at once where it is full.
    await engine.clearInstants(this.keys.tag);
    const expiredTrash = await this.#expireTrash(nowMs, false);
    const abandoned = await removeAbandoned(this.#options);
    await forgetQuotas(engine, volume);
    const lakeNotes = await this.#lakeNotes();
    await this.#forgetMoved();
    await forgetReports(engine, this.keys);
    const reclaimedOrphans = await this.#reclaim(nowMs);
    const expiredLakeFiles = await expireListings(engine, volume, nowMs, this.#graceMs);
    const limitMs = (await storeNowMs(store, clockKey(this.#volumeId), nowMs)) - (await this.#ageMin());
    const found = await this.#garbage(limitMs, new Set(), lakeNotes);
    const { backups, garbage, waiting, fresh, lists } = await this.#sort(found, limitMs, false);
    await this.#forgetLake(lakeNotes);
    if (fresh.size > 0) await lists.write(fresh, await storeTimeMs(store, clockKey(this.#volumeId), clock.nowMs()));
    let deletedObjects = 0;
    let deletedBytes = 0;
    let problem: string | null = null;
    for await (const objects of this.#portions(garbage, limitMs)) {
      const portion = await this.#recheck(lock, objects);
      try {
        await store.delete(portion.map((object) => object.key));
      } catch (error) {
        problem = `the store refused to delete, the next run goes on: ${describeError(error)}`;
        break;
      }
      deletedObjects += portion.length;
      deletedBytes += portion.reduce((sum, object) => sum + object.bytes, 0);
      this.#progress('objects deleted', deletedObjects);
    }
    if (problem === null) await lists.finish();
    return {
      objects: this.#objects,
      deletedObjects,
      deletedBytes,
      waitingObjects: waiting,
      expiredLakeFiles,
      reclaimedOrphans,
      expiredTrash,
      abandonedTrees: abandoned,
      ...ofBackups(backups),
      dryRun: false,
      problem,
    };
  }

  /** Writes nothing at all, neither to the store nor to the engine. */
  async look(): Promise<GcReport> {
    const { engine, clock } = this.#options;
    const limitMs = clock.nowMs() - (await this.#ageMin());
    const orphans = new Set(await expiredOrphans(engine, this.keys, clock.nowMs(), this.#graceMs));
    const found = await this.#garbage(limitMs, orphans, new Map());
    const { backups, garbage, waiting } = await this.#sort(found, limitMs, true);
    let deletedObjects = 0;
    let deletedBytes = 0;
    for await (const portion of this.#portions(garbage, limitMs)) {
      deletedObjects += portion.length;
      deletedBytes += portion.reduce((sum, object) => sum + object.bytes, 0);
    }
    return {
      objects: this.#objects,
      deletedObjects,
      deletedBytes,
      waitingObjects: waiting,
      expiredLakeFiles: 0,
      reclaimedOrphans: orphans.size,
      expiredTrash: await this.#expireTrash(clock.nowMs(), true),
      abandonedTrees: (await treesIn(engine, this.keys)).abandoned.length,
      ...ofBackups(backups),
      dryRun: true,
      problem: null,
    };
  }

  /** Mounts upload before they commit, whatever the grace period is. */
  async #ageMin(): Promise<number> {
    const { engine, volume, uploadMs = UPLOAD_MS } = this.#options;
    const mounted = (await liveMounts(engine, volume)).length > 0;
    return mounted ? Math.max(this.#graceMs, uploadMs) : this.#graceMs;
  }

  /** The records that say which objects of the lake clones refer to. */
  async #lakeNotes(): Promise<Map<string, Version>> {
    const notes = new Map<string, Version>();
    const { engine } = this.#options;
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: ScanPage = await engine.scan(this.keys.lakeReferences, cursor, NOTES_PORTION);
      for (const [field, { version }] of page.entries) notes.set(field, version);
      cursor = page.cursor;
    }
    return notes;
  }

  /** Takes away those that the walk did not need. One that is written again meanwhile has another version and stays. */
  async #forgetLake(notes: ReadonlyMap<string, Version>): Promise<void> {
    for (const [field, version] of notes) {
      const key = { bucket: this.keys.lakeReferences, field };
      await this.#options.engine.commit({ compare: [{ key, version }], write: [{ key, value: null }] });
    }
  }

  /**
   * Ids of objects older than `limitMs` that nothing refers to; the inodes in `gone` count as removed. What is referred to is taken out
   * of `lakeNotes`.
   */
  async #garbage(limitMs: number, gone: ReadonlySet<number>, lakeNotes: Map<string, Version>): Promise<IdSet> {
    const garbage = new IdSet();
    for await (const { id, old } of this.#listed(limitMs)) {
      this.#progress('objects listed', ++this.#objects);
      if (old) garbage.add(id);
    }
    let walked = 0;
    await walkReferences(this.#options.engine, this.keys, (ino, extents) => {
      this.#progress('records walked', ++walked);
      if (gone.has(ino)) return;
      for (const { source } of extents) {
        if (source.kind === 'own') garbage.delete(source.objectId);
        else if (lakeNotes.size > 0) lakeNotes.delete(this.keys.lakeReference(source.key).field);
      }
    });
    if (this.#options.dryRun !== true) await this.#awaitCopies();
    for await (const [field] of scanBucket(this.#options.engine, this.keys.movedReferences)) {
      garbage.delete(Number(field));
    }
    return garbage;
  }

  /**
   * What a copy takes from an instant before the walk may have lost its last reference since, and gets the copy's. One that begins from here on
   * refers to nothing that the walk found without a reference.
   */
  async #awaitCopies(): Promise<void> {
    const { engine, volume } = this.#options;
    const endMs = performance.now() + COPIES_AWAITED_MS;
    let awaited: ReadonlySet<string> | undefined;
    while (true) {
      const { underWay, abandoned } = await treesIn(engine, this.keys);
      // It may only seem to be over: from here on it is.
      for (const { session } of abandoned) await engine.endSession(session);
      awaited ??= new Set(underWay.map(({ version }) => version));
      const roots = underWay.filter(({ version }) => awaited?.has(version)).map(({ root }) => root);
      if (roots.length === 0) return;
      if (performance.now() > endMs) {
        const trees = `trees of volume '${volume}' (inodes ${roots.join(', ')})`;
        throw new PenstockError('held', `${trees} have been copied or removed for an hour: nothing is deleted`);
      }
      this.#progress('copies awaited', roots.length);
      await sleep(COPIES_POLL_MS);
    }
  }

  /**
   * What of the garbage may go now, and what of the rest no list has yet. Without a grace period and without a backup all of it goes. Backups
   * are looked for behind the walk: one that begins after it does not refer to what the walk found without a reference.
   */
  async #sort(found: IdSet, limitMs: number, look: boolean): Promise<Sorted> {
    const backups = await settleBackups(this.#options, this.#format, look);
    // The grace period is as long as the oldest backup is old, or longer. A list of the moment at which it began may be in it.
    const ripeMs = Math.min(limitMs, backups.oldestMs === undefined ? Infinity : backups.oldestMs - 1);
    const lists = await GarbageLists.read(this.#options.store, this.#volumeId, ripeMs);
    const [garbage, fresh] = [new IdSet(), new IdSet()];
    for (const id of found.ascending()) {
      if ((this.#graceMs === 0 && backups.oldestMs === undefined) || lists.isRipe(id)) garbage.add(id);
      else if (!lists.isKnown(id)) fresh.add(id);
    }
    return { backups, garbage, fresh, waiting: found.size - garbage.size, lists };
  }

  async *#listed(limitMs: number): AsyncGenerator<Candidate & { readonly old: boolean }> {
    for await (const { key, bytes, modifiedMs } of this.#options.store.list(blocksPrefix(this.#volumeId))) {
      const id = Number(key.slice(key.lastIndexOf('/') + 1));
      // Whatever else somebody put there is not ours to judge.
      if (!Number.isSafeInteger(id) || id < 0 || objectKey(this.#volumeId, id) !== key) continue;
      yield { id, key, bytes, old: modifiedMs <= limitMs };
    }
  }

  async *#portions(garbage: IdSet, limitMs: number): AsyncGenerator<readonly Candidate[]> {
    if (garbage.size === 0) return;
    let portion: Candidate[] = [];
    for await (const object of this.#listed(limitMs)) {
      if (!object.old || !garbage.has(object.id)) continue;
      portion.push(object);
      if (portion.length < DELETE_PORTION) continue;
      yield portion;
      portion = [];
    }
    if (portion.length > 0) yield portion;
  }

  /** Throws `fenced` when the lock is lost. */
  async #recheck(lock: VolumeLock, portion: readonly Candidate[]): Promise<readonly Candidate[]> {
    const [held, ...notes] = await this.#options.engine.read([
      this.keys.gcLock,
      ...portion.map(({ id }) => this.keys.movedReference(id)),
    ]);
    lock.check(held ?? null);
    return portion.filter((_, index) => notes[index] === null);
  }

  /**
   * Takes away the notes of shared objects that were there before the walk: whoever has them now is seen by it. One that is noted again
   * meanwhile has another version and stays.
   */
  async #forgetMoved(): Promise<void> {
    const { engine } = this.#options;
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: ScanPage = await engine.scan(this.keys.movedReferences, cursor, NOTES_PORTION);
      for (const [field, { version }] of page.entries) {
        const key = { bucket: this.keys.movedReferences, field };
        await engine.commit({ compare: [{ key, version }], write: [{ key, value: null }] });
      }
      cursor = page.cursor;
    }
  }

  async #expireTrash(nowMs: number, look: boolean): Promise<number> {
    const { engine, volume, clock, progress } = this.#options;
    const trash = await TrashCan.open(engine, volume, clock, progress);
    return trash.empty(nowMs - this.#format.trashMs, look);
  }

  async #reclaim(nowMs: number): Promise<number> {
    const { engine, volume } = this.#options;
    const left = await expiredOrphans(engine, this.keys, nowMs, this.#graceMs);
    const reclaimer = new Reclaimer(VolumeView.over(engine, volume));
    for (const [index, ino] of left.entries()) {
      await reclaimer.reclaim(ino);
      this.#progress('orphans reclaimed', index + 1);
    }
    return left.length;
  }
}

function ofBackups({ oldestMs, abandoned }: SettledBackups): Pick<GcReport, 'oldestBackup' | 'abandonedBackups'> {
  return {
    oldestBackup: oldestMs === undefined ? null : new Date(oldestMs).toISOString(),
    abandonedBackups: abandoned,
  };
}
