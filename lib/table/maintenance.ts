/**
 * Expiry of snapshots and removal of orphans: what keeps a table's metadata and folder bounded.
 *
 * Expiry only changes metadata: it makes files unreachable. Orphan removal deletes what nothing reaches: the objects of failed
 * commits, replaced files whose last snapshot has expired, old metadata.
 * Invariants
 * - An object is deleted only when no snapshot in the current metadata reaches it, nobody outside of the table refers to it (`keep`),
 *   and it is older than the grace by the *store's* clock (a probe object tells it: ours may be an hour off).
 * - The table is read again before every batch of deletes, and what it reaches by then is kept.
 * - When any manifest cannot be read, nothing is deleted.
 * - What a backup of the volume's metadata may refer to stays (orphan-notes.ts).
 * Failure: a crash in between leaves orphans for the next run.
 * Limits: the keys that the table reaches are held in memory, some 150 bytes each. A writer must commit its files within the
 * grace; ORPHAN_GRACE_MS_MIN bounds it from below.
 */
import { randomUUID } from 'node:crypto';
import { PenstockError } from '../errors.ts';
import type { ObjectInfo } from '../store/store.ts';
import { commitDraft } from './commit-loop.ts';
import { deadLettersInTable, tableFolder } from './keys.ts';
import { fetchAhead, manifestsOf } from './live-files.ts';
import { referencedLocations } from './manifest.ts';
import { OrphanNotes } from './orphan-notes.ts';
import type { Snapshot, TableMetadata } from './metadata.ts';
import { loadTable } from './table.ts';
import type { LakeContext, TableState } from './table.ts';
import { trueTimes } from './true-times.ts';

const ORPHAN_GRACE_MS_MIN = 3600_000;
/** One DeleteObjects request on S3. */
const DELETE_BATCH = 1000;

export interface ExpiryOptions {
  /** Snapshots that were made before (wall clock) go. */
  readonly olderThanMs: number;
  /** The newest of main. */
  readonly keepLast: number;
  /** What refs say of themselves, as Spark's `RETAIN ... WITH SNAPSHOT RETENTION` sets it, does not count: erased rows are in older snapshots. */
  readonly ignoreRetention?: boolean;
}

/**
 * Removes from the metadata the branches and tags that are past their own age, then the snapshots that are too old, but never one that a
 * branch or tag names, or that a branch is to keep of its history. Returns the ids that are gone. Times that cannot be become those that can (true-times.ts).
 *
 * Source: https://iceberg.apache.org/spec/#snapshot-retention-policy; ages count from when a snapshot was made.
 */
export async function expireSnapshots(
  ctx: LakeContext,
  name: string,
  options: ExpiryOptions,
): Promise<readonly bigint[]> {
  const state = await loadTable(ctx, name);
  if (state === null) throw new PenstockError('not-found', `there is no table ${name}`);
  const nowMs = ctx.clock.nowMs();
  const settle = await trueTimes(ctx, state, nowMs);
  const isIdle = ({ ids, refs }: Expired): boolean => ids.length + refs.length === 0;
  const settled = settle(state.metadata);
  const isSettled = ctx.catalog !== undefined || settled === state.metadata;
  if (isSettled && isIdle(expirable(settled, options, nowMs))) return [];
  let ids: readonly bigint[] = [];
  await commitDraft(ctx, name, async (current) => {
    const times = settle(current.metadata);
    const expired = expirable(times, options, nowMs);
    ids = expired.ids;
    // Another program's catalog takes snapshots away, and changes none.
    const metadata = ctx.catalog === undefined ? times : current.metadata;
    const refs = Object.fromEntries(Object.entries(metadata.refs).filter(([ref]) => !expired.refs.includes(ref)));
    return { metadata: withoutSnapshots({ ...metadata, refs }, new Set(ids)), objects: [], extra: {} };
  });
  return ids;
}

interface Expired {
  readonly refs: readonly string[];
  readonly ids: readonly bigint[];
}

function expirable(metadata: TableMetadata, options: ExpiryOptions, nowMs: number): Expired {
  const { olderThanMs, keepLast, ignoreRetention = false } = options;
  const byId = new Map(metadata.snapshots.map((snapshot) => [snapshot['snapshot-id'], snapshot]));
  const kept = new Set<bigint>();
  const refs: string[] = [];
  for (const [name, ref] of Object.entries(metadata.refs)) {
    const head = byId.get(ref['snapshot-id']);
    const ageMs = nowMs - (head?.['timestamp-ms'] ?? nowMs);
    if (name !== 'main' && !ignoreRetention && ageMs > (ref['max-ref-age-ms'] ?? Infinity)) {
      refs.push(name);
      continue;
    }
    kept.add(ref['snapshot-id']);
    if (ref.type !== 'branch') continue;
    const count = Math.max(
      1,
      name === 'main' ? keepLast : 1,
      (ignoreRetention ? null : ref['min-snapshots-to-keep']) ?? 1,
    );
    const sinceMs = nowMs - Number((ignoreRetention ? null : ref['max-snapshot-age-ms']) ?? -Infinity);
    let next = head;
    for (let at = 0; next !== undefined && (at < count || next['timestamp-ms'] >= sinceMs); at++) {
      kept.add(next['snapshot-id']);
      next = byId.get(next['parent-snapshot-id'] ?? -1n);
    }
  }
  const ids = metadata.snapshots
    .filter((snapshot) => snapshot['timestamp-ms'] < olderThanMs && !kept.has(snapshot['snapshot-id']))
    .map((snapshot) => snapshot['snapshot-id']);
  return { refs, ids };
}

/** Leaves the history and the statistics of what remains. */
export function withoutSnapshots(metadata: TableMetadata, expired: ReadonlySet<bigint>): TableMetadata {
  const log = metadata['snapshot-log'];
  // History before an expired snapshot would have a hole: the specification wants it gone.
  const lastGone = log.findLastIndex((line) => expired.has(line['snapshot-id']));
  return {
    ...metadata,
    ...statisticsWithout(metadata, expired),
    snapshots: metadata.snapshots.filter((snapshot) => !expired.has(snapshot['snapshot-id'])),
    'snapshot-log': log.slice(lastGone + 1),
  };
}

const STATISTICS = ['statistics', 'partition-statistics'] as const;

/** Of other writers: a file for a snapshot, which nobody can ask for without it. */
function statisticsWithout(metadata: TableMetadata, expired: ReadonlySet<bigint>): Partial<TableMetadata> {
  return Object.fromEntries(
    STATISTICS.flatMap((kind) => {
      const files = metadata[kind];
      if (!Array.isArray(files)) return [];
      const kept = (files as { 'snapshot-id'?: unknown }[]).filter((file) => {
        const id = file['snapshot-id'];
        return !((typeof id === 'bigint' || typeof id === 'number') && expired.has(BigInt(id)));
      });
      return [[kind, kept]];
    }),
  );
}

export interface OrphanOptions {
  /** Younger objects stay: they may belong to a commit that is under way. */
  readonly graceMs: number;
  /** Of these keys, those that something outside of the table refers to (volume entries, clones, listings). */
  readonly keep?: (keys: readonly string[]) => Promise<ReadonlySet<string>>;
  /** When the oldest backup began whose objects are to stay (store's time); undefined: there is none. Asked behind each look at the table. */
  readonly oldestBackupMs?: () => Promise<number | undefined>;
  readonly signal?: AbortSignal;
}

/** Deletes what nothing refers to in the table's folder. Throws `corrupt` (and deletes nothing) when the table cannot be read whole. */
export async function removeOrphans(
  ctx: LakeContext,
  name: string,
  options: OrphanOptions,
): Promise<{ readonly objects: number; readonly bytes: number }> {
  if (options.graceMs < ORPHAN_GRACE_MS_MIN) {
    throw new PenstockError(
      'config',
      `the grace for orphans of ${name} must be at least 1h: a commit may take that long`,
    );
  }
  const signal = options.signal === undefined ? {} : { signal: options.signal };
  const oldMs = (await storeNowMs(ctx, name)) - options.graceMs;
  const reached = new ReachedKeys(ctx, name);
  await reached.refresh();
  const notes = await OrphanNotes.read(ctx.store, name);
  const removed = { objects: 0, bytes: 0 };
  let batch: ObjectInfo[] = [];
  const flush = async (): Promise<void> => {
    await reached.refresh();
    const candidates = batch.filter(({ key }) => !reached.has(key));
    const kept = (await options.keep?.(candidates.map(({ key }) => key))) ?? new Set<string>();
    const orphans = candidates.filter(({ key }) => !kept.has(key));
    const oldestMs = await options.oldestBackupMs?.();
    const gone = oldestMs === undefined ? orphans : orphans.filter(({ key }) => notes.mayGo(key, oldestMs));
    await ctx.store.delete(
      gone.map(({ key }) => key),
      signal,
    );
    removed.objects += gone.length;
    removed.bytes += gone.reduce((total, { bytes }) => total + bytes, 0);
    batch = [];
  };
  for await (const object of ctx.store.list(tableFolder(name), signal)) {
    if (object.modifiedMs >= oldMs || reached.has(object.key)) continue;
    // The records of the engine refer to these.
    if (object.key.startsWith(deadLettersInTable(name))) continue;
    // Another program's catalog writes these, and may name them in its own way.
    if (ctx.catalog !== undefined && object.key.endsWith('.metadata.json')) continue;
    batch.push(object);
    if (batch.length >= DELETE_BATCH) await flush();
  }
  if (batch.length > 0) await flush();
  await notes.finish(() => storeNowMs(ctx, name));
  return removed;
}

async function storeNowMs(ctx: LakeContext, name: string): Promise<number> {
  const key = `${tableFolder(name)}metadata/clock-${randomUUID()}`;
  await ctx.store.put(key, Buffer.from('probe'));
  try {
    const info = await ctx.store.head(key);
    if (info === null)
      throw new PenstockError('unavailable', `${ctx.store.location(key)} was written and is not there`);
    return info.modifiedMs;
  } finally {
    await ctx.store.delete([key]);
  }
}

/** The keys that the table's metadata reaches; grows as the table moves on, so that nothing it ever reached meanwhile is lost. */
export class ReachedKeys {
  readonly #ctx: LakeContext;
  readonly #name: string;
  readonly #keys = new Set<string>();
  #metadataLocation: string | null = null;

  constructor(ctx: LakeContext, name: string) {
    this.#ctx = ctx;
    this.#name = name;
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  async refresh(): Promise<void> {
    const state = await loadTable(this.#ctx, this.#name);
    if (state === null) throw new PenstockError('not-found', `there is no table ${this.#name}`);
    if (state.metadataLocation === this.#metadataLocation) return;
    this.#addDocuments(state);
    for (const snapshot of state.metadata.snapshots) await this.#addSnapshot(snapshot);
    this.#metadataLocation = state.metadataLocation;
  }

  #addDocuments({ metadata, metadataLocation }: TableState): void {
    this.#add(metadataLocation);
    for (const line of metadata['metadata-log']) this.#add(line['metadata-file']);
    for (const kind of STATISTICS) {
      const files = metadata[kind];
      if (!Array.isArray(files)) continue;
      for (const file of files as { 'statistics-path'?: unknown }[]) {
        if (typeof file['statistics-path'] === 'string') this.#add(file['statistics-path']);
      }
    }
  }

  async #addSnapshot(snapshot: Snapshot): Promise<void> {
    if (!this.#add(snapshot['manifest-list'])) return;
    const manifests = (await manifestsOf(this.#ctx.store, snapshot)).filter(({ location }) => this.#add(location));
    for await (const { manifest, bytes } of fetchAhead(this.#ctx.store, manifests)) {
      for (const location of referencedLocations(bytes, manifest)) this.#add(location);
    }
  }

  /** False when it was there already. */
  #add(location: string): boolean {
    const key = this.#ctx.store.keyOf(location);
    // Objects of other stores cannot be in our folder.
    if (key === null || this.#keys.has(key)) return false;
    this.#keys.add(key);
    return true;
  }
}
