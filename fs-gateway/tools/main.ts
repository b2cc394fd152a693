/** The volume tools by URL, as the command line calls them: each opens what it needs, and closes it. */
import { tmpdir } from 'node:os';
import { dirname, relative, resolve } from 'node:path';
import { z } from 'zod';
import { systemClock, type Clock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { onEngineTime } from '../../lib/meta/engine-time.ts';
import { isCode, PenstockError } from '../../lib/errors.ts';
import { absoluteUrl, openMeta, openStore } from '../../lib/registry.ts';
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import { selectDatasets } from '../../lib/config/dataset-selection.ts';
import { withLake } from '../../lib/lake/ports.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { Records } from '../csi/records.ts';
import { controlRequest } from '../fuse/control.ts';
import { assertExists, findVolume, parseOptions, splitMetaUrl, volumeInfo } from '../main.ts';
import { createBackup, listBackups } from './backup.ts';
import type { Backup } from '../../lib/volume/backups.ts';
import { cloneTree, createSnapshot, deleteSnapshot, listSnapshots } from './clone.ts';
import type { CloneOptions, CopyReport, Snapshot } from './clone.ts';
import { configureVolume } from './config.ts';
import type { ConfigReport } from './config.ts';
import { dumpVolume } from './dump.ts';
import type { DumpReport } from './dump.ts';
import { verifyDump } from './dump-file.ts';
import { checkVolume } from './fsck.ts';
import type { FsckReport } from './fsck.ts';
import { destroyVolume } from './destroy.ts';
import { collectGarbage } from './gc.ts';
import type { GcReport } from './gc.ts';
import { loadVolume } from './load.ts';
import type { LoadReport } from './load.ts';
import { createDatasetSnapshot, deleteDatasetSnapshot, listDatasetSnapshots } from './dataset-snapshots.ts';
import type { DatasetSnapshot, DatasetSnapshotReport } from './dataset-snapshots.ts';
import { fileContent, pathInfo } from './path-info.ts';
import type { PathInfo } from './path-info.ts';
import { publishObjects } from './publish.ts';
import type { PublishReport } from './publish.ts';
import { getQuota, listQuotas, setQuota } from './quota.ts';
import type { QuotaLimits, QuotaReport } from './quota.ts';
import { volumeStatus } from './status.ts';
import type { VolumeStatus } from './status.ts';
import { toolError, type Progress } from './tool.ts';
import { TrashCan } from './trash.ts';
import type { RestoreReport, TrashedItem } from './trash.ts';

/** Of what the worker of a mount was started with. */
const mountedVolume = z.object({ metaUrl: z.string(), volume: z.string() });

export interface ToolRequest {
  readonly metaUrl: string;
  /** Instead of `?volume=` in the URL. */
  readonly name?: string | undefined;
  readonly progress?: Progress;
}

/** Changes the options of a volume, as people write them (`trash=7d`), or shows them when there is none; see config.ts. */
export async function configure(
  request: ToolRequest & { readonly options: Readonly<Record<string, string>> },
): Promise<ConfigReport> {
  const options = parseOptions(request.options);
  return withVolume(request, ({ engine, volume }) => configureVolume(engine, volume, options));
}

/** What a volume is, its use and its mounts; see status.ts. */
export async function statusOf(request: ToolRequest): Promise<VolumeStatus> {
  return withVolume(request, ({ engine, volume }) => volumeStatus(engine, volume));
}

/**
 * Removes a volume for good; see destroy.ts. `id` is that which `status` shows, so that nobody removes another one than was looked at. Throws `held`
 * while it is mounted, or shows the datasets of a lake, `not-found`, `conflict`.
 */
export async function destroy(
  request: ToolRequest & { readonly id: string },
): Promise<{ readonly volume: string; readonly id: string }> {
  const { id, progress } = request;
  const { url, volume } = await findVolume(request.metaUrl, request.name).catch((error: unknown) => {
    // What a removal left that was killed has no format any more.
    if (isCode(error, 'not-found')) return splitMetaUrl(request.metaUrl, request.name);
    throw error;
  });
  assertExists(url);
  const engine = await openMeta(url, { kind: 'tool', detail: { volume } });
  try {
    await assertNoLake(engine, volume);
    const removed = await destroyVolume({ engine, volume, id, openStore, ...(progress !== undefined && { progress }) });
    if (removed) return { volume, id };
    const text = `no volume '${volume}' has the id ${id}`;
    throw new PenstockError('not-found', `${text}: penstock fs status shows the id of one that there is`);
  } finally {
    await engine.close();
  }
}

async function assertNoLake(engine: MetaEngine, volume: string): Promise<void> {
  for await (const listing of engine.buckets(new VolumeKeys(volume).listingsPrefix)) {
    const text = `volume '${volume}' shows the datasets of a lake (${listing}), whose lander and compactor commit into it`;
    throw new PenstockError('held', `${text}: it goes only with the lake, by removing the engine's database`);
  }
}

/** Deletes what nothing refers to any more; see gc.ts. */
export async function gcVolume(
  request: ToolRequest & { readonly graceMs?: number; readonly uploadMs?: number; readonly dryRun?: boolean },
): Promise<GcReport> {
  const { graceMs, uploadMs, dryRun = false, progress } = request;
  return withVolume(request, async (ports) =>
    collectGarbage({
      ...ports,
      clock: await onEngineTime(ports.engine, systemClock),
      dryRun,
      ...(graceMs !== undefined && { graceMs }),
      ...(uploadMs !== undefined && { uploadMs }),
      ...(progress !== undefined && { progress }),
    }),
  );
}

/**
 * The same for the volume of the request and all that the CSI driver has made in its engine, one after the other. What one of them
 * throws is in its place.
 */
export async function gcAllVolumes(
  request: ToolRequest,
): Promise<readonly { readonly volume: string; readonly outcome: GcReport | Error }[]> {
  const { url, volume } = splitMetaUrl(request.metaUrl, request.name);
  const engine = await openMeta(url, { kind: 'tool', detail: { volume } });
  const homes = await new Records(engine).homes.all().finally(() => engine.close());
  const made = [...homes.values()].filter(({ closing }) => !closing).map((home) => home.name);
  const outcomes: { volume: string; outcome: GcReport | Error }[] = [];
  for (const name of [volume, ...made]) {
    const outcome = await gcVolume({ ...request, metaUrl: url, name }).catch((error: unknown) =>
      error instanceof Error ? error : new Error(String(error)),
    );
    outcomes.push({ volume: name, outcome });
  }
  return outcomes;
}

/** Checks every record and object; see fsck.ts. */
export async function fsckVolume(request: ToolRequest & { readonly repair?: boolean }): Promise<FsckReport> {
  const { progress, repair = false } = request;
  return withVolume(request, (ports) =>
    checkVolume({ ...ports, repair, clock: systemClock, ...(progress !== undefined && { progress }) }),
  );
}

/** Writes all metadata of a volume into a file, while it is in use; see dump.ts. */
export async function dumpToFile(request: ToolRequest & { readonly path: string }): Promise<DumpReport> {
  const { path, progress } = request;
  return withVolume(request, ({ engine, volume }) =>
    dumpVolume({
      engine,
      volume,
      path: resolve(path),
      clock: systemClock,
      ...(progress !== undefined && { progress }),
    }),
  );
}

/** Makes a volume from such a file, under its own name unless another is given; see load.ts. */
export async function loadFromFile(request: ToolRequest & { readonly path: string }): Promise<LoadReport> {
  const path = resolve(request.path);
  // The file is read before the engine is opened: that may make a database.
  const { header } = await verifyDump(path);
  const named = request.name ?? (/[?&]volume=/.test(request.metaUrl) ? undefined : header.volume);
  const { url, volume } = splitMetaUrl(request.metaUrl, named);
  const { progress } = request;
  const engine = await openMeta(url, { kind: 'tool', detail: { volume } });
  try {
    return await loadVolume({ engine, volume, path, openStore, ...(progress !== undefined && { progress }) });
  } finally {
    await engine.close();
  }
}

/** What is at a path of a mount; with the URL of its metadata also where a file's bytes are. */
export async function infoOf(path: string, request: Partial<ToolRequest> = {}): Promise<PathInfo> {
  const info = await pathInfo(path, request.progress);
  const { metaUrl, name } = request;
  if (metaUrl === undefined || info.kind !== 'file') return info;
  // The mount says which volume it is of: it need not be said again.
  const named = name ?? (/[?&]volume=/.test(metaUrl) ? undefined : /^penstock:([^/@]+)/.exec(info.source)?.[1]);
  return withVolume({ metaUrl, name: named }, async ({ engine, volume }) => {
    if (!/^[/@]/.test(info.source.replace(`penstock:${volume}`, ''))) {
      throw new PenstockError('usage', `${info.mountpoint} is a mount of ${info.source}, not of volume '${volume}'`);
    }
    return { ...info, content: await fileContent(engine, volume, info.inode) };
  });
}

/** Sets the quota of a directory, or (`/`) of the volume; see quota.ts. */
export async function setVolumeQuota(
  request: ToolRequest & { readonly path: string; readonly limits: QuotaLimits },
): Promise<QuotaReport> {
  const { path, limits, progress } = request;
  return withVolume(request, ({ engine, volume }) => setQuota(engine, volume, path, limits, progress));
}

/** The quota of a directory, or all of the volume. */
export async function volumeQuotas(request: ToolRequest & { readonly path?: string }): Promise<QuotaReport[]> {
  const { path } = request;
  return withVolume(request, async ({ engine, volume }) =>
    path === undefined ? listQuotas(engine, volume) : [await getQuota(engine, volume, path)],
  );
}

/** What is in the trash; see trash.ts. */
export async function listTrash(request: ToolRequest): Promise<TrashedItem[]> {
  return withTrash(request, (trash) => trash.list());
}

/** Brings back what was at these paths, or has these ids. */
export async function restoreTrash(
  request: ToolRequest & { readonly wanted: readonly string[]; readonly to?: string },
): Promise<RestoreReport> {
  return withTrash(request, (trash) => trash.restore(request.wanted, request.to));
}

/** Removes for good what was removed longer ago than that. */
export async function emptyTrash(
  request: ToolRequest & { readonly olderThanMs?: number },
): Promise<{ removed: number }> {
  const { olderThanMs } = request;
  return withTrash(request, async (trash, clock) => {
    const untilMs = olderThanMs === undefined ? Number.POSITIVE_INFINITY : clock.nowMs() - olderThanMs;
    return { removed: await trash.empty(untilMs) };
  });
}

async function withTrash<T>(request: ToolRequest, work: (trash: TrashCan, clock: Clock) => Promise<T>): Promise<T> {
  return withVolume(request, async ({ engine, volume }) => {
    const clock = await onEngineTime(engine, systemClock);
    return work(await TrashCan.open(engine, volume, clock, request.progress), clock);
  });
}

/**
 * Copies a file or a tree of a mount, as metadata; see clone.ts. What programs have written there until now is in it. Both paths are in one
 * mount.
 */
export async function clonePath(
  source: string,
  target: string,
  request: { readonly progress?: Progress } = {},
): Promise<CopyReport> {
  const [from, to] = [resolve(source), resolve(target)];
  const { mountpoint } = volumeInfo(from);
  if (volumeInfo(dirname(to)).mountpoint !== mountpoint) {
    throw new PenstockError('usage', `'${target}' is not in the mount of '${source}', ${mountpoint}`);
  }
  const answer = await controlRequest(mountpoint, { type: 'volume' });
  if (!answer.ok) throw new PenstockError('io', answer.message);
  const { metaUrl, volume } = mountedVolume.parse(answer.value['options']);
  const inVolume = (path: string): string => `/${relative(mountpoint, path)}`;
  return withVolume({ metaUrl, name: volume }, async ({ engine }) => {
    const report = await cloneTree({ engine, volume, clock: systemClock, ...request }, inVolume(from), inVolume(to));
    return { ...report, path: to };
  });
}

type CopyRequest = ToolRequest & Pick<CloneOptions, 'alongside'>;

/** The same by paths of the volume, wherever it is mounted: what mounts have not committed yet is not in it. */
export async function cloneInVolume(
  request: CopyRequest & { readonly source: string; readonly target: string },
): Promise<CopyReport> {
  return withSnapshots(request, (options) => cloneTree(options, request.source, request.target));
}

/** Copies the whole volume, as metadata, to `/.snapshots/NAME`. */
export async function snapshotVolume(request: CopyRequest & { readonly snapshot?: string }): Promise<CopyReport> {
  return withSnapshots(request, (options) => createSnapshot(options, request.snapshot));
}

export async function volumeSnapshots(request: ToolRequest): Promise<Snapshot[]> {
  return withSnapshots(request, listSnapshots);
}

export async function removeSnapshot(request: ToolRequest & { readonly snapshot: string }): Promise<void> {
  return withSnapshots(request, (options) => deleteSnapshot(options, request.snapshot));
}

async function withSnapshots<T>(request: CopyRequest, work: (options: CloneOptions) => Promise<T>): Promise<T> {
  const { progress, alongside } = request;
  return withVolume(request, ({ engine, volume }) =>
    work({
      engine,
      volume,
      clock: systemClock,
      ...(progress !== undefined && { progress }),
      ...(alongside !== undefined && { alongside }),
    }),
  );
}

/** Objects of the volume's store become files of it; see publish.ts. */
export async function publishInto(
  request: ToolRequest & { readonly objectUrl: string; readonly path: string },
): Promise<PublishReport> {
  const { objectUrl, path, progress } = request;
  return withVolume(request, ({ engine, store, volume }) =>
    publishObjects(
      { engine, volume, clock: systemClock, ...(progress !== undefined && { progress }) },
      store,
      objectUrl,
      path,
    ),
  );
}

export interface DatasetRequest {
  readonly config: PipelineConfig;
  /** What relative paths of the configuration are from. */
  readonly baseDir: string;
  readonly dataset: string;
}

/** A snapshot of a table as a tree of the volume; see dataset-snapshots.ts. `snapshot` undefined: the current one. */
export async function snapshotDataset(
  request: DatasetRequest & { readonly snapshot?: string | undefined; readonly progress?: Progress },
): Promise<DatasetSnapshotReport> {
  const { dataset, snapshot = null, progress } = request;
  return withDataset(request, (lake) => createDatasetSnapshot(lake, dataset, snapshot, progress));
}

export async function datasetSnapshots(request: DatasetRequest): Promise<DatasetSnapshot[]> {
  return withDataset(request, (lake) => listDatasetSnapshots(lake, request.dataset));
}

export async function removeDatasetSnapshot(request: DatasetRequest & { readonly snapshot: string }): Promise<void> {
  return withDataset(request, (lake) => deleteDatasetSnapshot(lake, request.dataset, request.snapshot));
}

async function withDataset<T>(request: DatasetRequest, work: (lake: LakeContext) => Promise<T>): Promise<T> {
  const { config, baseDir, dataset } = request;
  selectDatasets(config, dataset);
  return withLake(config, baseDir, 'tool', work);
}

/** Backs the metadata up into the store now; the mounts of the volume do so by themselves. See backup.ts. */
export async function backupVolume(request: ToolRequest): Promise<Backup> {
  const { progress } = request;
  return withVolume(request, (ports) =>
    createBackup({
      ...ports,
      clock: systemClock,
      directory: tmpdir(),
      ...(progress !== undefined && { progress }),
    }),
  );
}

/** The backups of all volumes of a store; the engines they are of may be gone. */
export async function backupsIn(storeUrl: string): Promise<Backup[]> {
  return withStore(storeUrl, async (store) =>
    (await listBackups(store)).map(({ key, volume, created, bytes, consistent }) => ({
      key,
      volume,
      created,
      bytes,
      consistent,
    })),
  );
}

/** A backup as a file, for `load`. */
export async function fetchBackup(storeUrl: string, key: string, path: string): Promise<{ readonly bytes: number }> {
  return withStore(storeUrl, async (store) => {
    await assertBackup(store, key);
    const { bytes } = await store.getFile(key, resolve(path));
    await verifyDump(resolve(path));
    return { bytes };
  });
}

/** What only it needs is garbage for the next gc. */
export async function deleteBackup(storeUrl: string, key: string): Promise<void> {
  return withStore(storeUrl, async (store) => {
    await assertBackup(store, key);
    await store.delete([key]);
  });
}

async function assertBackup(store: ObjectStore, key: string): Promise<void> {
  if ((await listBackups(store)).some((backup) => backup.key === key)) return;
  throw new PenstockError('not-found', `${store.url} has no backup '${key}'`);
}

async function withStore<T>(storeUrl: string, work: (store: ObjectStore) => Promise<T>): Promise<T> {
  const url = absoluteUrl(storeUrl, process.cwd());
  assertExists(url);
  const store = await openStore(url);
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}

interface Ports {
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly volume: string;
}

async function withVolume<T>(request: ToolRequest, work: (ports: Ports) => Promise<T>): Promise<T> {
  const { url, volume, format } = await findVolume(request.metaUrl, request.name);
  const engine = await openMeta(url, { kind: 'tool', detail: { volume } });
  try {
    const store = await openStore(format.store);
    try {
      return await work({ engine, store, volume });
    } catch (error) {
      throw toolError(error);
    } finally {
      await store.close();
    }
  } finally {
    await engine.close();
  }
}
