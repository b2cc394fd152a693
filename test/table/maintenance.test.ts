import { utimes } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { commitTable } from '../../lib/table/commit.ts';
import { commitDraft } from '../../lib/table/commit-loop.ts';
import type { TableMetadata } from '../../lib/table/metadata.ts';
import type { DataFile } from '../../lib/table/data-file.ts';
import { dataFileKey, tableFolder } from '../../lib/table/keys.ts';
import { expireSnapshots, removeOrphans } from '../../lib/table/maintenance.ts';
import { createTable } from '../../lib/table/table.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { collect } from '../support/collect.ts';
import { FaultPlan } from '../support/fault.ts';
import { dataFile, liveNames, mustLoad, openLake, SCHEMA, TABLE, withFaults } from './lake.ts';

const HOUR_MS = 3600_000;
const FAR_FUTURE_MS = 8e15;

async function replace(lake: LakeContext, add: readonly DataFile[], remove: readonly DataFile[] = []): Promise<void> {
  for (const file of add) await lake.store.put(lake.store.keyOf(file.location) ?? '', Buffer.from('rows'));
  await commitTable(lake, TABLE, async () => ({
    change: { operation: remove.length > 0 ? 'replace' : 'append', add, remove: remove.map((file) => file.location) },
    extra: {},
  }));
}

/** A table with live `ab`, and replaced `a` and `b` in its history. */
async function lakeWithHistory(): Promise<LakeContext> {
  const lake = await openLake();
  await createTable(lake, TABLE, { schema: SCHEMA });
  const [a, b, ab] = [dataFile(lake.store, 'a'), dataFile(lake.store, 'b'), dataFile(lake.store, 'ab')];
  await replace(lake, [a]);
  await replace(lake, [b]);
  await replace(lake, [ab], [a, b]);
  return lake;
}

async function keys(lake: LakeContext): Promise<string[]> {
  return (await collect(lake.store.list(tableFolder(TABLE)))).map(({ key }) => key);
}

/** Makes every object of the table two hours old. */
async function age(lake: LakeContext): Promise<void> {
  const old = new Date(Date.now() - 2 * HOUR_MS);
  for (const key of await keys(lake)) await utimes(lake.store.localPath(key) ?? '', old, old);
}

async function dataFiles(lake: LakeContext): Promise<string[]> {
  return (await keys(lake)).filter((key) => key.includes('/data/')).map((key) => key.slice(key.lastIndexOf('/') + 1));
}

/** The same lake as a machine sees it whose clock is so much ahead, or behind. */
const shifted = (lake: LakeContext, ms: number): LakeContext => ({
  ...lake,
  clock: { ...lake.clock, nowMs: () => lake.clock.nowMs() + ms },
});

async function times(lake: LakeContext): Promise<Record<string, number[]>> {
  const { metadata } = await mustLoad(lake);
  const of = (lines: readonly { readonly 'timestamp-ms': number }[]): number[] => lines.map((l) => l['timestamp-ms']);
  return {
    snapshots: of(metadata.snapshots),
    log: of(metadata['snapshot-log']),
    documents: [...of(metadata['metadata-log']), metadata['last-updated-ms']],
  };
}

describe('expiry', () => {
  it('of snapshots that a clock years ahead has stamped goes by when they were written, and their times are set right', async () => {
    const lake = await openLake();
    const ahead = shifted(lake, 10 * 365 * 24 * HOUR_MS);
    await createTable(lake, TABLE, { schema: SCHEMA });
    const files = ['a', 'b', 'c', 'd'].map((name) => dataFile(lake.store, name));
    for (const [at, file] of files.entries()) await replace(at === 1 ? ahead : lake, [file]);
    const stamped = (await times(lake))['snapshots'] ?? [];
    expect(stamped.map((time) => time > Date.now() + HOUR_MS)).toEqual([false, true, true, true]);
    await age(lake);
    await replace(lake, [dataFile(lake.store, 'e')], files);
    const ids = (await mustLoad(lake)).metadata.snapshots.map((snapshot) => snapshot['snapshot-id']);
    const options = { olderThanMs: Date.now() - HOUR_MS, keepLast: 1 };
    expect(await expireSnapshots(lake, TABLE, options)).toEqual(ids.slice(0, 4));
    for (const kind of Object.values(await times(lake))) {
      expect(kind).toEqual(kind.toSorted((a, b) => a - b));
      expect(kind.filter((time) => time > Date.now())).toEqual([]);
    }
    await replace(lake, [dataFile(lake.store, 'f')]);
    expect((await times(lake))['snapshots']?.at(-1)).toBeLessThanOrEqual(Date.now());
    expect(await liveNames(lake)).toEqual(['e', 'f']);
  });

  it('by a clock that is years behind changes no time and removes nothing', async () => {
    const lake = await lakeWithHistory();
    const before = await times(lake);
    // On a machine by itself the store goes by the same clock.
    const newest = (await mustLoad(lake)).metadata.snapshots.at(-1)?.['manifest-list'] ?? '';
    await utimes(lake.store.localPath(lake.store.keyOf(newest) ?? '') ?? '', 0, 0);
    const behind = shifted(lake, -30 * 365 * 24 * HOUR_MS);
    expect(await expireSnapshots(behind, TABLE, { olderThanMs: behind.clock.nowMs(), keepLast: 1 })).toEqual([]);
    expect((await times(lake))['snapshots']).toEqual(before['snapshots']);
  });

  it('keeps the newest, and drops the rest with their log', async () => {
    const lake = await lakeWithHistory();
    const [first, second, third] = (await mustLoad(lake)).metadata.snapshots.map((snapshot) => snapshot['snapshot-id']);
    expect(await expireSnapshots(lake, TABLE, { olderThanMs: FAR_FUTURE_MS, keepLast: 2 })).toEqual([first]);
    const { metadata } = await mustLoad(lake);
    expect(metadata.snapshots.map((snapshot) => snapshot['snapshot-id'])).toEqual([second, third]);
    expect(metadata['snapshot-log'].map((line) => line['snapshot-id'])).toEqual([second, third]);
    expect(await liveNames(lake)).toEqual(['ab']);
  });

  it('never takes the current snapshot, nor one younger than the time given', async () => {
    const lake = await lakeWithHistory();
    expect(await expireSnapshots(lake, TABLE, { olderThanMs: 0, keepLast: 0 })).toEqual([]);
    await expireSnapshots(lake, TABLE, { olderThanMs: FAR_FUTURE_MS, keepLast: 0 });
    expect((await mustLoad(lake)).metadata.snapshots).toHaveLength(1);
    expect(await liveNames(lake)).toEqual(['ab']);
  });
});

describe('branches and tags', () => {
  const change = (lake: LakeContext, more: (metadata: TableMetadata) => Partial<TableMetadata>) =>
    commitDraft(lake, TABLE, async ({ metadata }) => ({
      metadata: { ...metadata, ...more(metadata) },
      objects: [],
      extra: {},
    }));
  const ids = async (lake: LakeContext): Promise<bigint[]> =>
    (await mustLoad(lake)).metadata.snapshots.map((snapshot) => snapshot['snapshot-id']);

  it('keep the history that they are to keep, also main over commits of ours, and go when their time is over', async () => {
    const lake = await lakeWithHistory();
    const [first = 0n, second = 0n, third = 0n] = await ids(lake);
    await change(lake, ({ refs }) => ({
      refs: {
        main: { ...refs['main'], 'snapshot-id': third, type: 'branch', 'min-snapshots-to-keep': 2 },
        release: { 'snapshot-id': first, type: 'tag', 'max-ref-age-ms': HOUR_MS },
        audit: { 'snapshot-id': second, type: 'branch', 'max-snapshot-age-ms': 2 * HOUR_MS },
        // What Java programs set for "for ever".
        always: { 'snapshot-id': second, type: 'tag', 'max-ref-age-ms': 2n ** 63n - 1n },
      },
      'partition-statistics': [first, third].map((id) => ({ 'snapshot-id': id, 'statistics-path': `${id}.puffin` })),
    }));
    await replace(lake, [dataFile(lake.store, 'c')]);
    const fourth = (await ids(lake)).at(-1);
    const at = (hours: number): LakeContext => ({
      ...lake,
      clock: { ...lake.clock, nowMs: () => Date.now() + hours * HOUR_MS },
    });
    const options = { olderThanMs: FAR_FUTURE_MS, keepLast: 1 };
    expect(await expireSnapshots(at(0), TABLE, options)).toEqual([]);
    // The tag is over; the branch still keeps what it came from.
    expect(await expireSnapshots(at(1.5), TABLE, options)).toEqual([]);
    expect(Object.keys((await mustLoad(lake)).metadata.refs)).toEqual(['main', 'audit', 'always']);
    expect(await expireSnapshots(at(3), TABLE, options)).toEqual([first]);
    const { metadata } = await mustLoad(lake);
    expect(metadata.refs['always']?.['max-ref-age-ms']).toBe(2n ** 63n - 1n);
    expect(metadata.refs['main']).toEqual({ 'snapshot-id': fourth, type: 'branch', 'min-snapshots-to-keep': 2 });
    expect(metadata['partition-statistics']).toMatchObject([{ 'snapshot-id': Number(third) }]);
    // An erasure leaves of history what refs name, and no more.
    expect(await expireSnapshots(at(3), TABLE, { ...options, ignoreRetention: true })).toEqual([third]);
    expect(await ids(lake)).toEqual([second, fourth]);
  });
});

describe('removal of orphans', () => {
  it('removes nothing that a snapshot reaches, and everything old that none does', async () => {
    const lake = await lakeWithHistory();
    await lake.store.put(dataFileKey(TABLE, 'orphan.parquet'), Buffer.from('lost'));
    await age(lake);
    expect(await removeOrphans(lake, TABLE, { graceMs: HOUR_MS })).toEqual({ objects: 1, bytes: 4 });
    expect(await dataFiles(lake)).toEqual(['a.parquet', 'ab.parquet', 'b.parquet']);
    await expireSnapshots(lake, TABLE, { olderThanMs: FAR_FUTURE_MS, keepLast: 1 });
    await removeOrphans(lake, TABLE, { graceMs: HOUR_MS });
    expect(await dataFiles(lake)).toEqual(['ab.parquet']);
    expect(await liveNames(lake)).toEqual(['ab']);
    const lists = (await keys(lake)).filter((key) => key.includes('/snap-'));
    expect(lists).toHaveLength(1);
  });

  it('leaves what is younger than the grace by the store’s clock, whatever ours says', async () => {
    const lake = await lakeWithHistory();
    await lake.store.put(dataFileKey(TABLE, 'in-flight.parquet'), Buffer.from('x'));
    const fast: LakeContext = { ...lake, clock: { ...lake.clock, nowMs: () => Date.now() + 10 * HOUR_MS } };
    expect((await removeOrphans(fast, TABLE, { graceMs: HOUR_MS })).objects).toBe(0);
    await expect(removeOrphans(lake, TABLE, { graceMs: 1000 })).rejects.toThrow(/at least 1h/);
  });

  it('keeps what something outside of the table refers to', async () => {
    const lake = await lakeWithHistory();
    const kept = dataFileKey(TABLE, 'cloned.parquet');
    for (const key of [kept, dataFileKey(TABLE, 'orphan.parquet')]) await lake.store.put(key, Buffer.from('x'));
    await age(lake);
    const keep = async (asked: readonly string[]): Promise<ReadonlySet<string>> =>
      new Set(asked.filter((key) => key === kept));
    expect((await removeOrphans(lake, TABLE, { graceMs: HOUR_MS, keep })).objects).toBe(1);
    expect(await dataFiles(lake)).toContain('cloned.parquet');
  });

  it('keeps an old file that is committed while it looks', async () => {
    const lake = await lakeWithHistory();
    const late = dataFile(lake.store, 'late');
    await lake.store.put(lake.store.keyOf(late.location) ?? '', Buffer.from('x'));
    await age(lake);
    const store = new Proxy(lake.store, {
      get(target, name) {
        if (name === 'list') {
          return async function* (...args: Parameters<typeof target.list>) {
            yield* target.list(...args);
            await replace(lake, [late]);
          };
        }
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
    await removeOrphans({ ...lake, store }, TABLE, { graceMs: HOUR_MS });
    expect(await dataFiles(lake)).toContain('late.parquet');
  });

  it('deletes nothing when a manifest cannot be read', async () => {
    const lake = await lakeWithHistory();
    await lake.store.put(dataFileKey(TABLE, 'orphan.parquet'), Buffer.from('x'));
    await age(lake);
    const before = await keys(lake);
    for (let call = 1; ; call++) {
      const plan = new FaultPlan({ call, moment: 'before', operation: 'get' });
      const outcome = await removeOrphans(withFaults(lake, plan), TABLE, { graceMs: HOUR_MS }).then(
        () => 'done',
        () => 'failed',
      );
      if (outcome === 'done') break;
      expect(await keys(lake)).toEqual(before);
    }
    expect(await dataFiles(lake)).not.toContain('orphan.parquet');
  });
});
