/**
 * Puts the layers of a mounted volume together: the metadata view, the block reader and cache, the staging area, and the virtual file
 * system over them. The one place that constructs them; the worker and the tests call it.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../lib/clock.ts';
import { describeError, isCode, PenstockError } from '../lib/errors.ts';
import { thisProcess } from '../lib/process-identity.ts';
import { acquireProcessLock } from '../lib/process-lock.ts';
import type { ProcessLock } from '../lib/process-lock.ts';
import type { SessionInfo } from '../lib/meta/engine.ts';
import { openMeta, openStore } from '../lib/registry.ts';
import type { StoreCredentials } from '../lib/store/store.ts';
import { lifeOf, readFormat } from '../lib/volume/format.ts';
import type { VolumeFormat } from '../lib/volume/format.ts';
import { saveMountReport } from '../lib/volume/mount-reports.ts';
import type { MountReport } from '../lib/volume/mount-reports.ts';
import { BLOCKS_FOLDER } from './data/abandoned.ts';
import { BlockCache } from './data/block-cache.ts';
import { BlockReader } from './data/block-reader.ts';
import { EarlierLives } from './data/earlier-lives.ts';
import type { FileHolder } from './data/file-holder.ts';
import { ASIDE_FOLDER, KeptAside } from './data/kept-aside.ts';
import { Staging } from './data/staging.ts';
import { Uploader } from './data/uploader.ts';
import { Content } from './meta/content.ts';
import { VolumeView } from './meta/view.ts';
import { VolumeIdentity } from './meta/volume-identity.ts';
import { identityPath, mountIdOf, onlyOne, refuseAnotherVolume, stagingFolder } from './mount-identity.ts';
import { WHOLE_FOLDER } from './data/whole-files.ts';
import { bootId, openPassthrough, openWholeFiles } from './open-passthrough.ts';
import { CacheGroup } from './peers/cache-group.ts';
import type { CacheGroupOptions } from './peers/cache-group.ts';
import { Acls } from './vfs/acls.ts';
import { Away } from './vfs/away.ts';
import { flushOperation } from './vfs/append.ts';
import { TimeSource } from './vfs/context.ts';
import type { Context } from './vfs/context.ts';
import { DirectWrites } from './vfs/direct-writes.ts';
import { EarlyUploads } from './vfs/early-uploads.ts';
import { Files } from './vfs/files.ts';
import { FileSystem } from './vfs/filesystem.ts';
import { Flusher } from './vfs/flusher.ts';
import { Flushes } from './vfs/flushes.ts';
import { FreshOpens } from './vfs/fresh-opens.ts';
import { Handles } from './vfs/handles.ts';
import { LockTable } from './vfs/lock-table.ts';
import { Locks } from './vfs/locks.ts';
import { Namespace } from './vfs/namespace.ts';
import { Orphans } from './vfs/orphans.ts';
import type { KernelBacking, KernelNotifier, Operations, Result } from './vfs/operations.ts';
import type { PassthroughMode } from './vfs/passthrough.ts';
import { Reclaimer } from './vfs/reclaim.ts';
import { RemovedFiles } from './vfs/removed-files.ts';
import { ToldNames } from './vfs/told-names.ts';
import { Writeback } from './vfs/writeback.ts';
import { ExtendedAttributes } from './vfs/xattrs.ts';

/** With its entry, version and times about 1000 bytes each: 50 MB of cached metadata. */
const CACHED_INODES = 49_152;
/** Longer than a failover takes. */
const ENGINE_DEADLINE_MS = 30_000;
/** Kept free on the cache's disk, for everybody else. */
const FREE_BYTES_MIN = 2 ** 30;
/** Bytes staged before writers wait; with `writeback`, as many as the cache may have. */
const STAGED_MAX = 2 ** 29;
/** Of the cache: segments of the staging area that serve nobody at present. Whole files may have the rest (open-passthrough.ts). */
const IDLE_SHARE = 0.1;
/** A program that writes one file after the other wants them again within a moment. */
const IDLE_MS = 30_000;
const LOCK_WAIT_MS = 10_000;
const LOCK_RETRY_MS = 50;

export interface VolumeOptions {
  /** Without `?volume=`. */
  readonly metaUrl: string;
  readonly volume: string;
  /** What the mount is for (tools/volume-folders.ts), for whoever looks at sessions. */
  readonly folder?: string;
  /** Shared by the mounts of this machine; each volume and mount has its own folder in it. */
  readonly cacheDir: string;
  readonly cacheBytes: number;
  readonly mountpoint: string;
  /** How long the kernel may keep names and attributes, milliseconds. */
  readonly ttlMs: number;
  /** Of the object store; without them, those of the process's environment. */
  readonly credentials?: StoreCredentials;
  /** One life of the mount, the same for all its workers: its locks fall with it. Default: as long as the mount point has this name. */
  readonly mountLife?: string;
  /** Which opens the kernel serves by itself; needs `kernel`. Default `off`. */
  readonly passthrough?: PassthroughMode;
  readonly kernel?: KernelBacking;
  /** Of files that somebody removes while the kernel has them. */
  readonly holder?: FileHolder;
  /** close and fsync return when the local disk has the bytes. */
  readonly writeback?: boolean;
  /** How long an operation waits for a metadata engine that is gone, before it fails with EIO. */
  readonly engineDeadlineMs?: number;
  /** Bytes staged before writers wait. */
  readonly stagedMax?: number;
  /** Opens believe what the feed has told, without a round trip. */
  readonly openCache?: boolean;
  /** The mounts of this volume with the same name here serve each other blocks. */
  readonly cacheGroup?: CacheGroupOptions;
}

export interface OpenVolume {
  readonly format: VolumeFormat;
  readonly operations: Operations;
  stats(): Readonly<Record<string, string | number>>;
  /** Whether the kernel serves the file by itself at present. */
  passesThrough(ino: number): boolean;
  /** Where these are, as far as the names are in the cache. */
  pathsOf(inos: ReadonlySet<number>): ReadonlyMap<number, string>;
  saveReport(report: MountReport): Promise<void>;
  /** Ends the session; call `operations.drain()` first. */
  close(): Promise<void>;
}

/** Throws `not-found` when the volume has no format, `held` when another process serves this mount point's staging area, or is this mount elsewhere. */
export async function openVolume(
  options: VolumeOptions,
  clock: Clock,
  notifier: KernelNotifier | undefined,
  report: (message: string) => void,
): Promise<OpenVolume> {
  const mountId = mountIdOf(options.cacheDir, options.mountpoint);
  const lockOwner = options.mountLife ?? mountId;
  const { volume, folder, mountpoint } = options;
  const group = options.cacheGroup === undefined ? undefined : await CacheGroup.open({ ...options.cacheGroup, report });
  const { space, born = '' } = thisProcess;
  const own = { volume, mountpoint, mountId, lockOwner, space, born, ...(folder !== undefined && { folder }) };
  const identity = new VolumeIdentity(volume);
  const view = await VolumeView.open({
    open: () => identity.confirmed(openMeta(options.metaUrl, { kind: 'mount', detail: { ...own, ...group?.detail } })),
    volume,
    mountId,
    cacheEntries: CACHED_INODES,
    deadlineMs: options.engineDeadlineMs ?? ENGINE_DEADLINE_MS,
    report,
  }).catch(async (error: unknown) => {
    await group?.close();
    throw error;
  });
  try {
    const format = await readFormat(await view.engine(), options.volume);
    if (format === null) {
      throw new PenstockError('not-found', `volume '${options.volume}' is not formatted: run penstock fs format`);
    }
    const { cacheDir, mountLife: life } = options;
    if (life !== undefined) refuseAnotherVolume(lifeOf(format), { cacheDir, mountpoint, life });
    return await assemble({ options, clock, notifier, report, view, format, mountId, lockOwner, group });
  } catch (error) {
    await group?.close();
    await view.close();
    throw error;
  }
}

/** The worker before this one may still be ending: its lock falls with it. */
async function lockStaging(path: string, mountpoint: string, clock: Clock): Promise<ProcessLock> {
  const deadline = clock.monotonicMs() + LOCK_WAIT_MS;
  while (true) {
    try {
      return await acquireProcessLock(path, { label: `mount of ${mountpoint}` });
    } catch (error) {
      if (!isCode(error, 'held') || clock.monotonicMs() > deadline) throw error;
      await sleep(LOCK_RETRY_MS);
    }
  }
}

interface Ingredients {
  readonly options: VolumeOptions;
  readonly clock: Clock;
  readonly notifier: KernelNotifier | undefined;
  readonly report: (message: string) => void;
  readonly view: VolumeView;
  readonly format: VolumeFormat;
  readonly mountId: string;
  readonly lockOwner: string;
  readonly group: CacheGroup | undefined;
}

async function assemble({
  options,
  clock,
  notifier,
  report,
  view,
  format,
  mountId,
  lockOwner,
  group,
}: Ingredients): Promise<OpenVolume> {
  const store = await openStore(format.store, options.credentials);
  const base = join(options.cacheDir, lifeOf(format));
  const mountFolder = stagingFolder(options.mountpoint);
  const stagingDir = join(base, mountFolder);
  const lock = await lockStaging(join(stagingDir, 'lock'), options.mountpoint, clock);
  const { cacheDir } = options;
  let earlier: readonly SessionInfo[];
  try {
    earlier = (await view.sessions()).filter(({ detail }) => detail['mountId'] === mountId);
    await view.takeOver(await onlyOne({ mountId, life: lockOwner, cacheDir, sessions: () => view.sessions() }));
  } catch (error) {
    lock.release();
    throw error;
  }
  const cache = new BlockCache({
    dir: join(base, BLOCKS_FOLDER),
    bytesMax: options.cacheBytes,
    freeBytesMin: FREE_BYTES_MIN,
  });
  const peers = await group?.join({ view, format, store, mountId, clock });
  const reader = new BlockReader({ store, cache, volumeId: format.id, ...(peers !== undefined && { peers }) });
  /** What gives way to staged bytes on a full disk, in this order. */
  const caches: { giveWay(): boolean; close(): void }[] = [cache];
  const room = {
    idleBytesMax: options.cacheBytes * IDLE_SHARE,
    idleMs: IDLE_MS,
    hasReserve: () => cache.hasReserve(),
    idleChanged: (bytes: number) => cache.share('staging', bytes),
    giveWay: () => caches.some((each) => each.giveWay()),
  };
  const staging = new Staging({
    dir: stagingDir,
    room,
    life: lockOwner,
    bootId: bootId(),
    promises: options.writeback === true,
    isCommitted: (ino, id) => view.wasApplied(flushOperation(ino, id)),
    identity: identityPath(cacheDir),
    lock,
    report,
    putBack: () => {
      for (const each of caches) each.close();
    },
  });
  options.kernel?.unregisterOthers(staging.journalPath, staging.opens.backingIds);
  const whole = await openWholeFiles({
    base,
    stagingDir,
    cacheBytes: options.cacheBytes,
    freeBytesMin: FREE_BYTES_MIN,
    staging,
    cache,
    holder: options.holder,
    report,
  });
  caches.push(whole);
  options.kernel?.omitAccessTimes(join(stagingDir, WHOLE_FOLDER));
  const context: Context = {
    view,
    content: new Content(view),
    format,
    reader,
    staging,
    whole,
    away: new Away(clock, () => view.session, staging.bases),
    handles: new Handles(),
    told: new ToldNames(),
    keptAside: new KeptAside(join(stagingDir, ASIDE_FOLDER)),
    time: new TimeSource(clock),
    ttlMs: options.ttlMs,
    report,
  };
  const uploader = new Uploader({
    store,
    reader,
    volumeId: format.id,
    blockSize: format.blockSize,
    compression: format.compression,
    newObjectId: () => view.newId('object'),
  });
  const orphans = new Orphans({
    view,
    mountId,
    reclaimer: new Reclaimer(view),
    clock,
    open: staging.opens,
    onUnlinked(ino) {
      const file = staging.get(ino);
      if (file !== undefined) context.away.unlinked(file);
    },
    report,
  });
  const namespace = new Namespace(context, orphans, notifier);
  const commit = (ino: number): Result<void> => (writeback === undefined ? flushes.flush(ino) : writeback.add(ino));
  const removed = new RemovedFiles(context, commit);
  const { passthrough, ...passing } = openPassthrough({
    context,
    removed,
    cache,
    mode: options.passthrough ?? 'off',
    kernel: options.kernel,
    flush: (ino) => flushes.flush(ino),
    commit,
    letGo: (ino) => flushes.letGo(ino),
  });
  const flusher = new Flusher(context, uploader);
  const writeback = options.writeback === true ? new Writeback(clock, (ino) => flushes.flush(ino)) : undefined;
  const flushes: Flushes = new Flushes({ context, flusher, orphans, passthrough, removed, writeback });
  const stagedMax =
    options.stagedMax ?? (writeback === undefined ? STAGED_MAX : Math.max(STAGED_MAX, options.cacheBytes));
  const earlyUploads = new EarlyUploads({ context, uploader, clock, commit, staged: writeback === undefined });
  const freshOpens = new FreshOpens({
    view,
    told: context.told,
    cached: options.openCache ?? false,
    monotonicMs: () => clock.monotonicMs(),
    notifier,
  });
  const directWrites = new DirectWrites(staging.opens.counts, notifier);
  const files = new Files({
    context,
    namespace,
    flusher,
    orphans,
    passthrough,
    flushes,
    earlyUploads,
    freshOpens,
    directWrites,
    stagedMax,
    commit: (ino) => (writeback === undefined ? flushes.flush(ino) : writeback.inTurn(ino)),
  });
  if (notifier !== undefined) {
    // Names are looked up anew, and attributes with them; files that are open are not.
    const forgetOpen = (): void => {
      for (const ino of staging.opens.inos()) notifier.invalidateInode(BigInt(ino), 0n, 0n);
    };
    view.listen({
      inodeChanged: (ino) => notifier.invalidateInode(BigInt(ino), 0n, 0n),
      entryChanged: (parent, name) => notifier.invalidateEntry(BigInt(parent), name),
      everythingChanged() {
        notifier.incrementEpoch();
        forgetOpen();
      },
    });
    // A worker that takes over does not know what the kernel missed since the one before it died.
    forgetOpen();
  }
  view.listen({
    inodeChanged: (ino) => orphans.inodeChanged(ino),
    everythingChanged: () => orphans.everythingChanged(),
  });
  view.listen({
    inodeChanged: (ino) => passthrough.changed(ino),
    everythingChanged: () => passthrough.changedAll(),
  });
  const earlierLives = new EarlierLives({
    cacheDir,
    life: lifeOf(format),
    mountFolder,
    bootId: bootId(),
    clock,
    holes: (fd) => options.kernel?.holes(fd) ?? [],
    report,
  });
  const acls = new Acls(view);
  const table = new LockTable({
    view,
    mount: lockOwner,
    lost: ({ handle }, message) => context.handles.lostLock(handle, message),
    report,
  });
  const locks = new Locks({
    table,
    flush: (ino) => flushes.flush(ino),
    settled: () => all(notifier?.settled(), passthrough.settled()),
    report,
  });
  view.lockEvents = locks;
  await table.claim();
  passthrough.resume();
  context.away.resume(staging.files.values(), earlier);
  for (const { ino, message } of staging.losses) {
    if (ino === undefined) context.handles.lostOfAny(message);
    else if (staging.opens.has(ino)) context.handles.lost(ino, message);
  }
  await flushes.recover();
  passthrough.lookAfter();
  for (const ino of whole.live) earlyUploads.watch(ino);
  await orphans.resume();
  group?.serve(reader);
  const keepingAside = earlierLives.keepAside();
  return {
    format,
    operations: new FileSystem({
      context,
      namespace,
      files,
      freshOpens,
      directWrites,
      flushes,
      xattrs: new ExtendedAttributes(context, acls),
      acls,
      locks,
      orphans,
    }),
    stats: () => ({
      volume: options.volume,
      stagedFiles: staging.files.size,
      stagedBytes: staging.bytes,
      ...(staging.failure !== undefined && { cacheDisk: describeError(staging.failure) }),
      keptAside: context.keptAside.count + earlierLives.keptAside,
      ...(writeback !== undefined && { writeback: 'on', oldestStagedMs: writeback.oldestMs }),
      cachedBytes: cache.bytes,
      fetchedBytes: reader.fetchedBytes,
      uploadedBytes: uploader.uploadedBytes,
      ...(format.compression !== 'none' && { savedBytes: uploader.savedBytes }),
      ...passthrough.stats(),
      ...group?.stats(),
    }),
    passesThrough: (ino) => staging.opens.backingOf(ino) !== undefined,
    pathsOf: (inos) => view.pathsOf(inos),
    saveReport: async (report) => saveMountReport(await view.engine(), view.keys, mountId, report),
    async close() {
      await keepingAside;
      await group?.close();
      locks.close();
      earlyUploads.close();
      removed.close();
      await orphans.close();
      await writeback?.close();
      await passing.close();
      await reader.close();
      staging.close();
      await view.close();
      await store.close();
      lock.release();
    },
  };
}

function all(...waits: readonly (Promise<unknown> | undefined)[]): Promise<void> | undefined {
  const pending = waits.filter((wait) => wait !== undefined);
  return pending.length === 0 ? undefined : Promise.all(pending).then(() => undefined);
}
