/**
 * A table as a program sees it: what its pointer names, and the files that are live in its current snapshot.
 *
 * Invariants: a `TableState` is one snapshot in time and never changes; everything that it names is immutable.
 * Failure: a pointer that names metadata which is not there is `corrupt` by name; the pointer is written only after the object.
 * Limits: `liveFiles` holds a few manifests in memory (MANIFEST_BYTES_TARGET each), never the list of files.
 */
import { randomUUID } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { PenstockError } from '../errors.ts';
import type { Compare, MetaEngine, Patch, Publish, Version, Write } from '../meta/engine.ts';
import type { ObjectStore } from '../store/store.ts';
import type { DataFile, LiveFile } from './data-file.ts';
import { tableFolder, tablePointerKey } from './keys.ts';
import { type HourFilter, liveFilesOf, readTableObject } from './live-files.ts';
import { currentSchema, currentSnapshot, formatMetadata, newMetadata, parseMetadata } from './metadata.ts';
import type { Snapshot, SortField, TableMetadata } from './metadata.ts';
import { formatPointer, parsePointer } from './pointer.ts';
import { type RowDeletes, rowDeletesOf } from './row-deletes.ts';
import type { Schema } from './schema.ts';

/** What a program needs to work with the tables of one volume. */
export interface LakeContext {
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  /** The plain name, as `lake`. */
  readonly volume: string;
  readonly clock: Clock;
  /** Another program's catalog has the tables; without it the engine's pointers are the truth. */
  readonly catalog?: TableCatalog;
}

/** See foreign/foreign-catalog.ts. */
export interface TableCatalog {
  /** null: there is no such table. When it answers, the engine has what the table's last commit brought. */
  load(lake: LakeContext, name: string): Promise<TableState | null>;
  /** When others were faster nothing is done. */
  create(lake: LakeContext, name: string, metadata: TableMetadata): Promise<void>;
  /** The location of the new metadata; null: the race was lost, and nothing of it will ever be true. */
  commit(lake: LakeContext, state: TableState, next: TableMetadata, extra: CommitParts): Promise<string | null>;
}

export interface TableState {
  readonly name: string;
  readonly metadata: TableMetadata;
  readonly metadataLocation: string;
  /** Of the pointer record: a commit compares it. */
  readonly pointerVersion: Version;
  /** The current schema. */
  readonly schema: Schema;
  /** null: the table has no data yet. */
  readonly currentSnapshot: Snapshot | null;
  /**
   * The data files of the current snapshot, in manifest order. With `hour` or `hours`, only those of these partitions, and only the
   * manifests that may hold them are read. Throws `corrupt` naming the manifest.
   */
  liveFiles(filter?: HourFilter): AsyncIterable<LiveFile>;
  /** Row-level deletes of other writers in the current snapshot: the rows of `liveFiles` are those of its files without these. */
  rowDeletes(filter?: HourFilter): Promise<RowDeletes>;
}

export interface TableChange {
  /** `append` adds only; `replace` changes files and no row (compaction); `overwrite` and `delete` change rows. */
  readonly operation: 'append' | 'replace' | 'overwrite' | 'delete';
  readonly add: readonly DataFile[];
  /** Locations; each must be live, or the commit fails with `conflict` naming it. */
  readonly remove: readonly string[];
  /** Locations of files that stay, and must be live, too: what was done holds only with them. */
  readonly require?: readonly string[];
  /** The hours in which the removed and required files lie: only the manifests of these are searched. All are when it is absent. */
  readonly removeHours?: readonly number[];
  /** More entries of the snapshot's summary. */
  readonly summary?: Readonly<Record<string, string>>;
  /** The schema from now on (see `evolveSchema`). */
  readonly schema?: Schema;
  /** Where `add` has rows of `remove`: the snapshot that these were read in. */
  readonly rewrite?: Rewritten;
}

/** What became of a rewritten row is judged by this at the commit (settle-deletes.ts). */
export interface Rewritten {
  /** Of the snapshot that was read: added files take it over, so that equality deletes that came since still apply to them. */
  readonly sequenceNumber: bigint;
  /** Locations of the delete files that were applied, also to files of `require`. */
  readonly appliedDeletes: ReadonlySet<string>;
}

/** What becomes true in the same minitransaction as the table's change. */
export interface CommitParts {
  readonly compare?: readonly Compare[];
  readonly write?: readonly Write[];
  readonly patch?: readonly Patch[];
  readonly publish?: readonly Publish[];
}

/** null: there is no such table. */
export async function loadTable(ctx: LakeContext, name: string): Promise<TableState | null> {
  if (ctx.catalog !== undefined) return ctx.catalog.load(ctx, name);
  const [stored] = await ctx.engine.read([tablePointerKey(ctx.volume, name)]);
  if (stored === null || stored === undefined) return null;
  const { metadataLocation } = parsePointer(stored.value, name);
  const metadata = parseMetadata(await readTableObject(ctx.store, metadataLocation), metadataLocation);
  return stateOf(ctx, name, metadata, metadataLocation, stored.version);
}

/** Creates the table, or loads the one that is there. */
export async function createTable(
  ctx: LakeContext,
  name: string,
  options: {
    readonly schema: Schema;
    readonly sortFields?: readonly SortField[];
    readonly properties?: Readonly<Record<string, string>>;
  },
): Promise<TableState> {
  const existing = await loadTable(ctx, name);
  if (existing !== null) return existing;
  const folder = tableFolder(name);
  const uuid = randomUUID();
  const metadata = newMetadata({
    uuid,
    location: ctx.store.location(folder.slice(0, -1)),
    schema: options.schema,
    sortFields: options.sortFields ?? [],
    properties: options.properties ?? {},
    nowMs: ctx.clock.nowMs(),
  });
  let won = false;
  if (ctx.catalog === undefined) won = await writePointer(ctx, name, metadata);
  else await ctx.catalog.create(ctx, name, metadata);
  // Lost the race (then our document is an orphan) or won it: either way there is a table now.
  const state = await loadTable(ctx, name);
  if (state !== null) return state;
  throw new PenstockError('conflict', `table ${name} was dropped while it was created (created: ${won})`);
}

/** False: others were faster. */
async function writePointer(ctx: LakeContext, name: string, metadata: TableMetadata): Promise<boolean> {
  const uuid = metadata['table-uuid'];
  const key = `${tableFolder(name)}metadata/00000-${randomUUID()}.metadata.json`;
  await ctx.store.put(key, formatMetadata(metadata));
  const metadataLocation = ctx.store.location(key);
  const pointer = tablePointerKey(ctx.volume, name);
  const result = await ctx.engine.commit({
    compare: [{ key: pointer, version: null }],
    write: [{ key: pointer, value: formatPointer({ metadataLocation, uuid, snapshotId: null }) }],
    operation: uuid,
  });
  return result.ok;
}

export function stateOf(
  ctx: LakeContext,
  name: string,
  metadata: TableMetadata,
  metadataLocation: string,
  pointerVersion: Version,
): TableState {
  return {
    name,
    metadata,
    metadataLocation,
    pointerVersion,
    schema: currentSchema(metadata),
    currentSnapshot: currentSnapshot(metadata),
    liveFiles: (filter) => liveFilesOf(ctx.store, metadata, currentSnapshot(metadata), filter),
    rowDeletes: (filter) => rowDeletesOf(ctx.store, metadata, currentSnapshot(metadata), filter),
  };
}
