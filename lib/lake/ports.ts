/** The ports that a program works with the lake of a configuration through, and how they are opened from a configuration. */
import { resolve } from 'node:path';
import { type Clock, systemClock } from '../clock.ts';
import type { PipelineConfig } from '../config/pipeline.ts';
import { PenstockError } from '../errors.ts';
import type { Log } from '../log/log.ts';
import { absoluteUrl, openLog, openMeta, openStore } from '../registry.ts';
import type { ObjectStore } from '../store/store.ts';
import { ForeignCatalog } from '../table/foreign/foreign-catalog.ts';
import { VendedStore } from '../table/foreign/vended-store.ts';
import { tableFolder } from '../table/keys.ts';
import type { LakeContext } from '../table/table.ts';

const DEFAULT_VOLUME = 'lake';
/**
 * Commits of large files are minutes apart and the process may be busy writing Parquet: longer than the file system's lease, so
 * that a stall is no fencing. Exactness does not hang on it (every commit compares what it began from).
 */
const LEASE_MS = 30_000;

/** The volume whose lake a configuration fills: `?volume=` of its `meta`, else `lake`. */
export function volumeOf(config: PipelineConfig): string {
  return new URL(config.meta).searchParams.get('volume') ?? DEFAULT_VOLUME;
}

export interface LakePorts {
  readonly lake: LakeContext;
  close(): Promise<void>;
}

/** `baseDir`: what relative paths in the configuration are relative to. */
export async function openLake(
  config: PipelineConfig,
  baseDir: string,
  kind: string,
  { clock = systemClock, leaseMs = LEASE_MS }: { readonly clock?: Clock; readonly leaseMs?: number } = {},
): Promise<LakePorts> {
  const catalog = catalogOf(config, baseDir);
  const store = await openLakeStore(config, baseDir, catalog, clock);
  try {
    const engine = await openMeta(absoluteUrl(config.meta, baseDir), { kind, leaseMs });
    return {
      lake: { engine, store, volume: volumeOf(config), clock, ...(catalog && { catalog }) },
      close: async () => {
        await engine.close();
        await store.close();
      },
    };
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** Opens the ports, does the work, and closes them, whatever comes of it. */
export async function withLake<T>(
  config: PipelineConfig,
  baseDir: string,
  kind: string,
  use: (lake: LakeContext) => Promise<T>,
): Promise<T> {
  const ports = await openLake(config, baseDir, kind);
  try {
    return await use(ports.lake);
  } finally {
    await ports.close();
  }
}

/** The store of the tables, with the credentials that their catalog hands out where it is to. Nothing is asked of either yet. */
export async function openLakeStore(
  config: PipelineConfig,
  baseDir: string,
  catalog: ForeignCatalog | undefined,
  clock: Clock,
): Promise<ObjectStore> {
  const url = absoluteUrl(config.store, baseDir);
  if (catalog === undefined || config.catalog?.accessDelegation === undefined) return openStore(url);
  if (!url.startsWith('s3:')) {
    throw new PenstockError(
      'config',
      `catalog.accessDelegation: a catalog hands out credentials of s3:// stores, store is ${url}`,
    );
  }
  const base = await openStore(url);
  return new VendedStore({
    base,
    open: (credentials) => openStore(url, credentials),
    vend: (table) => catalog.credentials(table, base.location(tableFolder(table).slice(0, -1))),
    clock,
  });
}

/** The tables' catalog, where it is not the engine. Nothing is asked of it yet. */
export function catalogOf({ catalog }: PipelineConfig, baseDir: string): ForeignCatalog | undefined {
  if (catalog === null) return undefined;
  const resolved = (path?: string): string | undefined => (path === undefined ? undefined : resolve(baseDir, path));
  const { tokenFile, credentialFile } = catalog;
  const files = { tokenFile: resolved(tokenFile), credentialFile: resolved(credentialFile) };
  return new ForeignCatalog({ ...catalog, ...files });
}

export function openPipelineLog(config: PipelineConfig, baseDir: string): Promise<Log> {
  return openLog(absoluteUrl(config.log, baseDir));
}
