/**
 * The optimistic commit of new table metadata: write objects, then move the pointer and everything that belongs to it in ONE
 * minitransaction; start again on top of the winner when the pointer had moved.
 *
 * Invariants
 * - Every object is durable in the store before the minitransaction that makes it reachable is sent.
 * - Objects of an attempt are deleted only when nothing was sent for it, or the engine itself answered that a compare did not hold.
 *   On anything less certain nothing is deleted: what looks like a lost race after a long pause may be a commit that was applied
 *   and has scrolled out of the table's history.
 * Failure: a lost answer is settled by sending the same operation again, and if that stays without an answer by reading the table:
 * our document or snapshot is in it; or the pointer has another version than the one we compare, so that ours can never be applied.
 * What stays unknown is thrown as `timeout`; the caller's next commit sees the truth in its own compares. A crash leaves objects
 * that nothing refers to, which `removeOrphans` finds.
 * Limits: ATTEMPTS_MAX attempts, then `conflict`; SENDS_MAX sends of one attempt. Who has lost a race takes a turn (commit-turn.ts).
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, isCode, PenstockError } from '../errors.ts';
import type { CommitResult, Minitransaction } from '../meta/engine.ts';
import { CommitTurn } from './commit-turn.ts';
import { tableFolder, tablePointerKey } from './keys.ts';
import { currentSnapshot, formatMetadata, succeed } from './metadata.ts';
import type { TableMetadata } from './metadata.ts';
import { formatPointer } from './pointer.ts';
import { loadTable } from './table.ts';
import type { CommitParts, LakeContext, TableCatalog, TableState } from './table.ts';

/** Each lost race means that another commit got through; 16 writers that all commit at once need about as many. */
const ATTEMPTS_MAX = 64;
const SENDS_MAX = 5;
const PAUSE_MS_MIN = 5;
const PAUSE_MS_MAX = 1000;

export interface NewObject {
  readonly key: string;
  readonly bytes: Uint8Array;
  /** A later attempt may use it again: it is kept until the commit has ended. */
  readonly reusable: boolean;
}

export interface Draft {
  /** Without the metadata log's new line and the time, which are added here. */
  readonly metadata: TableMetadata;
  readonly objects: readonly NewObject[];
  readonly extra: CommitParts;
}

export interface Committed {
  readonly metadata: TableMetadata;
  readonly metadataLocation: string;
}

/** `draft` is called once per attempt with fresh state; what it throws ends the commit. Throws `not-found` without a table. */
export async function commitDraft(
  ctx: LakeContext,
  name: string,
  draft: (state: TableState) => Promise<Draft>,
): Promise<Committed> {
  const written = new Set<string>();
  const turn = new CommitTurn(ctx, name);
  try {
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt++) {
      await turn.wait(attempt > 1);
      const state = await loadTable(ctx, name);
      if (state === null) throw new PenstockError('not-found', `there is no table ${name}`);
      const { metadata, objects, extra } = await draft(state);
      if (ctx.catalog !== undefined) {
        const location = await commitToCatalog(ctx, ctx.catalog, state, { metadata, objects, extra }, written);
        if (location !== null) return { metadata, metadataLocation: location };
        if (!turn.isOurs) await sleep(pauseMs(attempt));
        continue;
      }
      const next = succeed(metadata, state.metadataLocation, ctx.clock.nowMs());
      const document = { key: nextMetadataKey(state), bytes: formatMetadata(next), reusable: false };
      await writeAll(ctx, [...objects, document], written);
      const metadataLocation = ctx.store.location(document.key);
      if (await movePointer(ctx, state, next, metadataLocation, extra, written)) {
        const used = new Set([...objects, document].map(({ key }) => key));
        for (const key of used) written.delete(key);
        return { metadata: next, metadataLocation };
      }
      const lost = [...objects, document].filter(({ reusable }) => !reusable).map(({ key }) => key);
      await discard(ctx, lost, written);
      if (!turn.isOurs) await sleep(pauseMs(attempt));
    }
    throw new PenstockError('conflict', `table ${name} changed ${ATTEMPTS_MAX} times while this commit was prepared`);
  } finally {
    await turn.end();
    await discard(ctx, [...written], written);
  }
}

/** The same in the catalog of another program, which writes the metadata document itself; null: try again. */
async function commitToCatalog(
  ctx: LakeContext,
  catalog: TableCatalog,
  state: TableState,
  { metadata, objects, extra }: Draft,
  written: Set<string>,
): Promise<string | null> {
  await writeAll(ctx, objects, written);
  let location: string | null;
  try {
    location = await catalog.commit(ctx, state, metadata, extra);
  } catch (error) {
    // It may have been committed: from here on nothing that was written may be deleted.
    written.clear();
    throw error;
  }
  if (location === null) {
    const lost = objects.filter(({ reusable }) => !reusable).map(({ key }) => key);
    await discard(ctx, lost, written);
  } else for (const { key } of objects) written.delete(key);
  return location;
}

/** True: it is committed. False: certainly not, try again. Throws when the outcome is unknown or trying again is of no use. */
async function movePointer(
  ctx: LakeContext,
  state: TableState,
  metadata: TableMetadata,
  metadataLocation: string,
  extra: CommitParts,
  written: Set<string>,
): Promise<boolean> {
  const pointer = tablePointerKey(ctx.volume, state.name);
  const snapshotId = currentSnapshot(metadata)?.['snapshot-id'].toString() ?? null;
  const transaction: Minitransaction = {
    compare: [{ key: pointer, version: state.pointerVersion }, ...(extra.compare ?? [])],
    write: [
      { key: pointer, value: formatPointer({ metadataLocation, uuid: metadata['table-uuid'], snapshotId }) },
      ...(extra.write ?? []),
    ],
    ...(extra.patch === undefined ? {} : { patch: extra.patch }),
    ...(extra.publish === undefined ? {} : { publish: extra.publish }),
    operation: randomUUID(),
  };
  try {
    return (await send(ctx, transaction)).ok;
  } catch (error) {
    // From here on nothing that was written may be deleted.
    written.clear();
    const outcome = await readOutcome(ctx, state, metadata, metadataLocation).catch(() => 'unknown' as const);
    if (outcome === 'applied') return true;
    if (!isCode(error, 'timeout', 'unavailable')) throw error;
    if (outcome === 'failed') return false;
    const message = `it is not known whether table ${state.name} was committed as ${metadataLocation}: ${describeError(error)}`;
    throw new PenstockError('timeout', message, { cause: error });
  }
}

/** Sends until there is an answer: the engine gives a repeated operation its first result. */
async function send(ctx: LakeContext, transaction: Minitransaction): Promise<CommitResult> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ctx.engine.commit(transaction);
    } catch (error) {
      if (attempt >= SENDS_MAX || !isCode(error, 'timeout', 'unavailable')) throw error;
      await sleep(pauseMs(attempt + 3));
    }
  }
}

async function readOutcome(
  ctx: LakeContext,
  before: TableState,
  metadata: TableMetadata,
  metadataLocation: string,
): Promise<'applied' | 'failed' | 'unknown'> {
  const now = await loadTable(ctx, before.name);
  if (now === null) return 'unknown';
  const inLog = now.metadata['metadata-log'].some((line) => line['metadata-file'] === metadataLocation);
  if (now.metadataLocation === metadataLocation || inLog) return 'applied';
  const ours = currentSnapshot(metadata)?.['snapshot-id'];
  const isNew = ours !== before.currentSnapshot?.['snapshot-id'];
  if (isNew && now.metadata.snapshots.some((snapshot) => snapshot['snapshot-id'] === ours)) return 'applied';
  return now.pointerVersion === before.pointerVersion ? 'unknown' : 'failed';
}

/** Writes what is not written yet, at once: no object needs another one to be there before the pointer moves. */
async function writeAll(ctx: LakeContext, objects: readonly NewObject[], written: Set<string>): Promise<void> {
  const missing = objects.filter(({ key }) => !written.has(key));
  for (const { key } of missing) written.add(key);
  const results = await Promise.allSettled(missing.map(({ key, bytes }) => ctx.store.put(key, bytes)));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** Best effort: what stays is found by `removeOrphans`. */
async function discard(ctx: LakeContext, keys: readonly string[], written: Set<string>): Promise<void> {
  if (keys.length === 0) return;
  for (const key of keys) written.delete(key);
  await ctx.store.delete(keys).catch(() => undefined);
}

/** `00042-UUID.metadata.json` after `00041-...`, as every Iceberg catalog names them. */
function nextMetadataKey(state: TableState): string {
  const version = Number(/\/(\d+)-[^/]*$/.exec(state.metadataLocation)?.[1] ?? '0') + 1;
  return `${tableFolder(state.name)}metadata/${String(version).padStart(5, '0')}-${randomUUID()}.metadata.json`;
}

/** Full jitter: writers that collided must not collide again. */
function pauseMs(attempt: number): number {
  return Math.random() * Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** attempt);
}
