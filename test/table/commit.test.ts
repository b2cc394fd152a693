import { describe, expect, it } from 'vitest';
import type { DataFile } from '../../lib/table/data-file.ts';
import { commitTable } from '../../lib/table/commit.ts';
import { tablePointerKey } from '../../lib/table/keys.ts';
import { manifestsOf } from '../../lib/table/live-files.ts';
import { formatManifestList, parseManifestList } from '../../lib/table/manifest-list.ts';
import type { ManifestFile } from '../../lib/table/manifest-list.ts';
import { evolveSchema } from '../../lib/table/schema.ts';
import { createTable, loadTable } from '../../lib/table/table.ts';
import type { LakeContext, TableChange } from '../../lib/table/table.ts';
import { FaultPlan } from '../support/fault.ts';
import {
  dataFile,
  liveFiles,
  liveNames,
  metadataObjects,
  mustLoad,
  openLake,
  SCHEMA,
  TABLE,
  withFaults,
} from './lake.ts';

async function commit(lake: LakeContext, change: Partial<TableChange>): Promise<bigint> {
  const full: TableChange = { operation: 'append', add: [], remove: [], ...change };
  return (await commitTable(lake, TABLE, async () => ({ change: full, extra: {} }))).snapshotId;
}

async function lakeWithTable(): Promise<Awaited<ReturnType<typeof openLake>>> {
  const lake = await openLake();
  await createTable(lake, TABLE, { schema: SCHEMA, sortFields: [{ name: 'sensor' }] });
  return lake;
}

describe('creating a table', () => {
  it('has one creator over many, and every creator gets the same table', async () => {
    const lake = await openLake();
    const states = await Promise.all(Array.from({ length: 8 }, () => createTable(lake, TABLE, { schema: SCHEMA })));
    expect(new Set(states.map((state) => state.metadata['table-uuid'])).size).toBe(1);
  });

  it('refuses a schema without a required event time, by name', async () => {
    const lake = await openLake();
    const fields = SCHEMA.fields.map((field) => ({ ...field, required: false }));
    await expect(createTable(lake, TABLE, { schema: { ...SCHEMA, fields } })).rejects.toThrow(/_event_time/);
    expect(await loadTable(lake, TABLE)).toBeNull();
  });
});

describe('a commit', () => {
  it('adds and replaces files, keeps the sequence numbers of what it carries over, and counts', async () => {
    const lake = await lakeWithTable();
    const files = ['a', 'b', 'c'].map((name, hour) => dataFile(lake.store, name, { hour, rows: 10 }));
    const first = await commit(lake, { add: files });
    const second = await commit(lake, {
      operation: 'replace',
      add: [dataFile(lake.store, 'ab', { rows: 20 })],
      remove: [files[0]?.location ?? '', files[1]?.location ?? ''],
    });
    const state = await mustLoad(lake);
    const live = new Map((await liveFiles(state)).map((file) => [file.location, file]));
    expect([...live.values()].map((file) => [file.sequenceNumber, file.snapshotId])).toEqual([
      [1n, first],
      [2n, second],
    ]);
    expect(state.currentSnapshot?.summary).toMatchObject({
      operation: 'replace',
      'added-data-files': '1',
      'deleted-data-files': '2',
      'deleted-records': '20',
      'total-data-files': '2',
      'total-records': '30',
      'total-files-size': '2000',
    });
  });

  it('is one manifest, one list, one document, and one minitransaction', async () => {
    const lake = await lakeWithTable();
    const [a, b] = [dataFile(lake.store, 'a'), dataFile(lake.store, 'b')];
    await commit(lake, { add: [a] });
    const plan = new FaultPlan();
    const before = await metadataObjects(lake);
    await commit(withFaults(lake, plan), { operation: 'replace', add: [b], remove: [a.location] });
    expect((await metadataObjects(lake)).length - before.length).toBe(3);
    // look for a turn, read pointer, get document, list and manifest; put three; commit.
    expect(plan.calls).toBe(9);
  });

  it('finds the files of an hour through the manifests that may hold it only', async () => {
    const lake = await lakeWithTable();
    for (const hour of [1, 2, 3]) await commit(lake, { add: [dataFile(lake.store, `h${hour}`, { hour })] });
    const plan = new FaultPlan();
    expect(await liveNames(withFaults(lake, plan), { hour: 2 })).toEqual(['h2']);
    // read pointer, get document, get list, get ONE manifest.
    expect(plan.calls).toBe(4);
  });

  it('refuses to remove a file that is not live, by its name, and leaves no object behind', async () => {
    const lake = await lakeWithTable();
    await commit(lake, { add: [dataFile(lake.store, 'a')] });
    const before = await metadataObjects(lake);
    const change = {
      operation: 'replace',
      add: [dataFile(lake.store, 'c')],
      remove: [dataFile(lake.store, 'b').location],
    } as const;
    await expect(commit(lake, change)).rejects.toMatchObject({
      code: 'conflict',
      message: expect.stringContaining('b.parquet') as string,
    });
    expect(await liveNames(lake)).toEqual(['a']);
    expect(await metadataObjects(lake)).toEqual(before);
  });

  it('carries records of the caller, which hold if and only if the table changed', async () => {
    const lake = await lakeWithTable();
    const offsets = { bucket: '{lake}offsets', field: 'vibration-0' };
    const land = (file: DataFile) =>
      commitTable(lake, TABLE, async () => {
        const [current] = await lake.engine.read([offsets]);
        if (current !== null) throw new Error('offsets moved');
        return {
          change: { operation: 'append', add: [file], remove: [] },
          extra: { compare: [{ key: offsets, version: null }], write: [{ key: offsets, value: Buffer.from('17') }] },
        };
      });
    const results = await Promise.allSettled(['a', 'b'].map((name) => land(dataFile(lake.store, name))));
    expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(await liveNames(lake)).toHaveLength(1);
  });

  it('evolves the schema by the rules and refuses the rest', async () => {
    const lake = await lakeWithTable();
    const { schema, metadata } = await mustLoad(lake);
    const evolved = evolveSchema(schema, { add: [{ name: 'axis', type: 'int' }] }, metadata['last-column-id']);
    await commit(lake, { schema: evolved });
    const after = await mustLoad(lake);
    expect(after.schema.fields.at(-1)).toMatchObject({ id: 4, name: 'axis', required: false });
    expect(after.metadata.properties['schema.name-mapping.default']).toContain('axis');
    const narrowed = {
      ...after.schema,
      fields: after.schema.fields.map((f) => (f.name === 'rms' ? { ...f, type: 'float' } : f)),
    };
    await expect(commit(lake, { schema: narrowed })).rejects.toThrow(/rms: double cannot become float/);
  });

  it('merges small manifests, so that the plan of a table with many commits stays short', async () => {
    const lake = await lakeWithTable();
    const names = Array.from({ length: 130 }, (_, index) => `f${String(index).padStart(3, '0')}`);
    for (const [hour, name] of names.entries()) await commit(lake, { add: [dataFile(lake.store, name, { hour })] });
    const plan = new FaultPlan();
    expect(await liveNames(withFaults(lake, plan))).toEqual(names);
    expect(plan.calls).toBeLessThan(50);
    expect(await liveNames(lake, { hour: 7 })).toEqual(['f007']);
    const sequences = (await liveFiles(await mustLoad(lake)))
      .map((file) => file.sequenceNumber)
      .sort((a, b) => Number(a - b));
    expect(sequences).toEqual(names.map((_, index) => BigInt(index + 1)));
  });

  it('keeps as many older documents in the log as the table is told to', async () => {
    for (const [told, kept] of [
      ['2', 2],
      ['0', 1],
      ['many', 5],
    ] as const) {
      const lake = await openLake();
      const properties = { 'write.metadata.previous-versions-max': told };
      await createTable(lake, TABLE, { schema: SCHEMA, properties });
      for (let n = 0; n < 5; n++) await commit(lake, { add: [dataFile(lake.store, `f${n}`)] });
      expect((await mustLoad(lake)).metadata['metadata-log'], told).toHaveLength(kept);
    }
  });

  it('takes a manifest list without manifests for damage, not for an empty table', async () => {
    const lake = await lakeWithTable();
    await commit(lake, { add: [dataFile(lake.store, 'a')] });
    const list = (await mustLoad(lake)).currentSnapshot?.['manifest-list'] ?? '';
    const empty = formatManifestList([], { id: 1n, parentId: null, sequenceNumber: 1n });
    await lake.store.put(lake.store.keyOf(list) ?? '', empty);
    await expect(liveNames(lake)).rejects.toMatchObject({ code: 'corrupt' });
    await expect(commit(lake, { add: [dataFile(lake.store, 'b')] })).rejects.toMatchObject({ code: 'corrupt' });
  });

  it('names the object when metadata is missing or damaged', async () => {
    const lake = await lakeWithTable();
    const { metadataLocation } = await mustLoad(lake);
    const key = lake.store.keyOf(metadataLocation) ?? '';
    await lake.store.put(key, Buffer.from('{"format-version": 2}'));
    await expect(loadTable(lake, TABLE)).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining(key) as string,
    });
    await lake.store.delete([key]);
    await expect(loadTable(lake, TABLE)).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining(key) as string,
    });
  });
});

it('manifests of delete files are carried along by commits that only add', async () => {
  const lake = await lakeWithTable();
  await commit(lake, { add: [dataFile(lake.store, 'a')] });
  const { currentSnapshot } = await mustLoad(lake);
  const list = currentSnapshot?.['manifest-list'] ?? '';
  const [data] = parseManifestList(await lake.store.get(lake.store.keyOf(list) ?? ''), list);
  if (data === undefined) throw new Error('no manifest');
  const deletes: ManifestFile = { ...data, location: 'file:///deletes.avro', content: 1 };
  const identity = { id: 1n, parentId: null, sequenceNumber: 1n };
  await lake.store.put(lake.store.keyOf(list) ?? '', formatManifestList([data, deletes], identity));
  await commit(lake, { add: [dataFile(lake.store, 'b')] });
  const after = (await mustLoad(lake)).currentSnapshot;
  expect(after?.summary['total-delete-files']).toBe('1');
  expect(await manifestsOf(lake.store, after)).toContainEqual(deletes);
});

describe('commits that race', () => {
  it('all land when they are disjoint, and leave nothing of their lost attempts', async () => {
    const lake = await lakeWithTable();
    const sessions = await Promise.all(Array.from({ length: 4 }, () => openLake(lake.folder)));
    const names = sessions.flatMap((_, session) => Array.from({ length: 6 }, (__, index) => `s${session}-${index}`));
    await Promise.all(
      sessions.map(async (session, number) => {
        for (const name of names.filter((n) => n.startsWith(`s${number}-`))) {
          await commit(session, { add: [dataFile(lake.store, name)] });
        }
      }),
    );
    expect(await liveNames(lake)).toEqual(names);
    // The first document, and three objects per commit.
    expect(await metadataObjects(lake)).toHaveLength(1 + 3 * names.length);
  });

  it('have one winner when they replace the same file; the others are told its name', async () => {
    const lake = await lakeWithTable();
    const shared = dataFile(lake.store, 'shared');
    await commit(lake, { add: [shared] });
    const results = await Promise.allSettled(
      [1, 2, 3].map((n) =>
        commit(lake, { operation: 'replace', add: [dataFile(lake.store, `new-${n}`)], remove: [shared.location] }),
      ),
    );
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const result of results) {
      if (result.status === 'rejected')
        expect(result.reason).toMatchObject({ code: 'conflict', message: expect.stringContaining('shared') as string });
    }
    expect(await liveNames(lake)).toHaveLength(1);
  });
});

describe('a commit with a fault', () => {
  /** Every external call of a replace, failing before and after its effect. */
  it('is whole or absent, never dangling, and reports success only for what is there', async () => {
    const probe = new FaultPlan();
    const trial = async (plan: FaultPlan): Promise<void> => {
      const lake = await lakeWithTable();
      const [a, b] = [dataFile(lake.store, 'a'), dataFile(lake.store, 'b')];
      await commit(lake, { add: [a] });
      const outcome = await commit(withFaults(lake, plan), {
        operation: 'replace',
        add: [b],
        remove: [a.location],
      }).then(
        () => 'done',
        () => 'failed',
      );
      const names = await liveNames(lake);
      expect(names, `${outcome} after ${plan.calls} calls`).toEqual(outcome === 'done' ? ['b'] : ['a']);
      // The table still takes commits.
      await commit(lake, { add: [dataFile(lake.store, 'later')] });
      expect(await liveNames(lake)).toEqual([...names, 'later']);
    };
    await trial(probe);
    expect(probe.calls).toBeGreaterThanOrEqual(8);
    for (let call = 0; call < probe.calls; call++) {
      for (const moment of ['before', 'after'] as const) {
        const plan = new FaultPlan({ call, moment });
        await trial(plan);
        expect(plan.fired).toBe(1);
      }
    }
  });

  it('whose every answer is lost is found in the table and reported as done', async () => {
    const lake = await lakeWithTable();
    const faults = Array.from({ length: 5 }, (_, call) => ({ call, moment: 'after', operation: 'commit' }) as const);
    const plan = new FaultPlan(...faults);
    await commit(withFaults(lake, plan), { add: [dataFile(lake.store, 'a')] });
    expect(plan.fired).toBe(5);
    expect(await liveNames(lake)).toEqual(['a']);
    expect((await mustLoad(lake)).metadata.snapshots).toHaveLength(1);
  });

  it('whose outcome stays unknown deletes nothing', async () => {
    const lake = await lakeWithTable();
    const faults = Array.from({ length: 5 }, (_, call) => ({ call, moment: 'before', operation: 'commit' }) as const);
    const plan = new FaultPlan(...faults, { call: 2, moment: 'before', operation: 'read' });
    const before = await metadataObjects(lake);
    await expect(commit(withFaults(lake, plan), { add: [dataFile(lake.store, 'a')] })).rejects.toMatchObject({
      code: 'timeout',
    });
    expect((await metadataObjects(lake)).length).toBe(before.length + 3);
    const [pointer] = await lake.engine.read([tablePointerKey('lake', TABLE)]);
    expect(pointer?.version).toBe((await mustLoad(lake)).pointerVersion);
  });
});
