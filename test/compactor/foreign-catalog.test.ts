/**
 * The lander and the compactor on tables of another program's catalog: Iceberg's own reference of one. Rows come once; offsets,
 * counters, dead letters and directories follow the catalog.
 */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { offsetsBucket } from '../../lib/lake/offsets.ts';
import type { Stored } from '../../lib/meta/engine.ts';
import { stringifyJson } from '../../lib/table/json.ts';
import { expireSnapshots } from '../../lib/table/maintenance.ts';
import { loadTable, type TableCatalog } from '../../lib/table/table.ts';
import { startIcebergRest } from '../support/iceberg-rest.ts';
import { missing } from '../support/services.ts';
import { expectWhole, listedNames, openForeignPipeline, PER_LANDING, records } from './foreign-catalog-pipeline.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  landOnce,
  liveFiles,
  readRows,
  recordOf,
  sortedBy,
  TestProducer,
} from './pipeline.ts';
import { freePorts } from '../support/ports.ts';

describe.skipIf(missing('iceberg-rest'))('tables in Iceberg’s reference catalog', () => {
  test('rows land, evolve, are compacted and expire there, and the volume follows', async () => {
    const { lake, ...rest } = await openForeignPipeline(await startIcebergRest());
    const pipeline = { lake, ...rest };
    const producer = new TestProducer(pipeline.log);
    for (let landing = 0; landing < 2; landing++) {
      await producer.append(landing, records(landing * PER_LANDING));
      expect((await landOnce(pipeline)).problems).toEqual([]);
      await expectWhole(lake, landing + 1, false);
    }
    expect((await compactAll(pipeline)).problems).toEqual([]);
    await expectWhole(lake, 2, true);
    const evolved = { seq: 2 * PER_LANDING, value: { sensor: 's-0', ts: HOUR_MS, axis: 3 } };
    await producer.append(0, [recordOf(evolved)]);
    expect((await landOnce(pipeline)).problems).toEqual([]);
    const table = await loadTable(lake, DATASET);
    expect(table?.schema.fields.at(-1)).toMatchObject({ name: 'axis' });
    expect((await readRows(lake)).filter((row) => row['axis'] !== undefined && row['axis'] !== null)).toHaveLength(1);

    const sorted = sortedBy(pipeline, 'axis', 'sensor');
    expect((await compactAll(sorted, { rewriteAll: true })).problems).toEqual([]);
    expect(await compactAll(sorted)).toMatchObject({ summary: { groups: 0 }, notes: [] });
    // Back to an order that the catalog has from before.
    expect(await compactAll(pipeline, { rewriteAll: true })).toMatchObject({ problems: [], notes: [] });
    expect(await compactAll(pipeline)).toMatchObject({ summary: { groups: 0 }, notes: [] });
  });

  test('a commit whose answer is lost is found in the catalog, and made once', async () => {
    const { url, lose } = await startLossyProxy(await startIcebergRest());
    const pipeline = await openForeignPipeline(url);
    const producer = new TestProducer(pipeline.log);
    for (let landing = 0; landing < 3; landing++) {
      await producer.append(0, records(landing * PER_LANDING));
      lose();
      expect((await landOnce(pipeline)).problems).toEqual([]);
      await expectWhole(pipeline.lake, landing + 1, false);
    }
    lose();
    expect((await compactAll(pipeline)).problems).toEqual([]);
    await expectWhole(pipeline.lake, 3, true);
    // A commit of the order alone, which makes no snapshot to be known by.
    const sorted = sortedBy(pipeline, 'ts');
    lose();
    expect(await compactAll(sorted, { rewriteAll: true })).toMatchObject({ problems: [], notes: [] });
    await expectWhole(pipeline.lake, 3, true);
  });

  test('landers and a compactor at the same time land every record once', async () => {
    const pipeline = await openForeignPipeline(await startIcebergRest());
    const producer = new TestProducer(pipeline.log);
    const landings = 4;
    for (let landing = 0; landing < landings; landing++) {
      await producer.append(landing % 2, records(landing * PER_LANDING));
      const scratch = (n: number): { readonly scratchRoot: string } => ({
        scratchRoot: join(pipeline.dir, `scratch-${n}`),
      });
      await Promise.all([
        landOnce(pipeline, scratch(1)),
        landOnce(pipeline, scratch(2)),
        compactAll(pipeline, scratch(3)),
      ]);
    }
    expect((await compactAll(pipeline)).problems).toEqual([]);
    await expectWhole(pipeline.lake, landings, true);
  });

  test('what others change there is followed, back and forth', async () => {
    const catalog = await startIcebergRest();
    const pipeline = await openForeignPipeline(catalog);
    const { lake } = pipeline;
    const producer = new TestProducer(pipeline.log);
    const snapshots: bigint[] = [];
    for (let landing = 0; landing < 2; landing++) {
      await producer.append(0, records(landing * PER_LANDING));
      await landOnce(pipeline);
      snapshots.push((await loadTable(lake, DATASET))?.currentSnapshot?.['snapshot-id'] ?? 0n);
    }
    const both = await listedNames(lake);
    const update = async (...updates: readonly object[]): Promise<void> => {
      const url = `${catalog}/v1/namespaces/plant/tables/vibration`;
      const body = stringifyJson({ requirements: [], updates });
      const answer = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
      expect(answer.status).toBe(200);
    };
    const main = (id: bigint | undefined): object => ({
      action: 'set-snapshot-ref',
      'ref-name': 'main',
      type: 'branch',
      'snapshot-id': id,
    });
    await update(main(snapshots[0]));
    await loadTable(lake, DATASET);
    const one = await listedNames(lake);
    expect(one).toHaveLength(both.length / 2);
    await update(main(snapshots[1]));
    await loadTable(lake, DATASET);
    expect(await listedNames(lake)).toEqual(both);
    // Nothing landed again, and nothing was counted twice.
    await landOnce(pipeline);
    await expectWhole(lake, 2, false);
    // A redo of somebody else reaches nothing but its dataset.
    const write = [['{lake}tokens', 'admin', Buffer.from('mine').toString('base64')]];
    const redo = JSON.stringify({ id: '1', previous: null, write, add: [] });
    const { 'penstock.redo': ours = '' } = (await loadTable(lake, DATASET))?.metadata.properties ?? {};
    await update({ action: 'set-properties', updates: { 'penstock.redo': redo } });
    await expect(loadTable(lake, DATASET)).rejects.toMatchObject({ code: 'corrupt' });
    expect(await lake.engine.read([{ bucket: '{lake}tokens', field: 'admin' }])).toEqual([null]);
    await update({ action: 'set-properties', updates: { 'penstock.redo': ours } });
    // The snapshot that the directories show is gone before anybody looks.
    await update(main(snapshots[0]), { action: 'remove-snapshots', 'snapshot-ids': [snapshots[1]] });
    await loadTable(lake, DATASET);
    expect(await listedNames(lake)).toEqual(one);
  });

  test('a tag that is over, and is given to another snapshot at that moment, stays', async () => {
    const url = await startIcebergRest();
    const { lake, log, ...rest } = await openForeignPipeline(url);
    const producer = new TestProducer(log);
    const snapshots: bigint[] = [];
    for (let landing = 0; landing < 2; landing++) {
      await producer.append(0, records(landing * PER_LANDING));
      await landOnce({ lake, log, ...rest });
      snapshots.push((await loadTable(lake, DATASET))?.currentSnapshot?.['snapshot-id'] ?? 0n);
    }
    const tag = async (id: bigint | undefined, more: object): Promise<void> => {
      const update = { action: 'set-snapshot-ref', 'ref-name': 'release', type: 'tag', 'snapshot-id': id, ...more };
      const body = stringifyJson({ requirements: [], updates: [update] });
      const headers = { 'content-type': 'application/json' };
      const answer = await fetch(`${url}/v1/namespaces/plant/tables/vibration`, { method: 'POST', headers, body });
      expect(answer.status).toBe(200);
    };
    await tag(snapshots[0], { 'max-ref-age-ms': 1 });
    const { catalog } = lake;
    if (catalog === undefined) throw new Error('no catalog');
    let isGiven = false;
    const slow: TableCatalog = {
      load: (...args) => catalog.load(...args),
      create: (...args) => catalog.create(...args),
      commit: async (...args) => {
        if (!isGiven) await tag(snapshots[1], {});
        isGiven = true;
        return catalog.commit(...args);
      },
    };
    const options = { olderThanMs: lake.clock.nowMs() + HOUR_MS, keepLast: 1 };
    expect(await expireSnapshots({ ...lake, catalog: slow }, DATASET, options)).toEqual([snapshots[0]]);
    const refs = (await loadTable(lake, DATASET))?.metadata.refs;
    expect(refs?.['release']).toMatchObject({ 'snapshot-id': snapshots[1] });
  });

  test('an engine that forgot its last commits gets the offsets back: nothing lands twice', async () => {
    const pipeline = await openForeignPipeline(await startIcebergRest());
    const { lake } = pipeline;
    const producer = new TestProducer(pipeline.log);
    const key = { bucket: offsetsBucket(lake.volume, DATASET), field: '0' };
    const followed = { bucket: `{${lake.volume}}followed`, field: DATASET };
    const landed: (Stored | null)[] = [];
    for (let landing = 0; landing < 3; landing++) {
      await producer.append(0, records(landing * PER_LANDING));
      await landOnce(pipeline);
      if (landing === 0) landed.push(...(await lake.engine.read([key, followed])));
    }
    await compactAll(pipeline);
    const rows = (await readRows(lake)).length;
    const write = [key, followed].map((one, index) => ({ key: one, value: landed[index]?.value ?? null }));
    await lake.engine.commit({ write });
    expect((await landOnce(pipeline)).summary.records).toBe(0);
    expect(await readRows(lake)).toHaveLength(rows);
  });

  test('a table that was dropped and made anew is followed from its beginning', async () => {
    const catalog = await startIcebergRest();
    const pipeline = await openForeignPipeline(catalog);
    const producer = new TestProducer(pipeline.log);
    await producer.append(0, records(0));
    await landOnce(pipeline);
    const url = `${catalog}/v1/namespaces/plant/tables/vibration`;
    expect((await fetch(url, { method: 'DELETE' })).ok).toBe(true);
    await producer.append(0, records(PER_LANDING));
    expect((await landOnce(pipeline)).problems).toEqual([]);
    expect(await readRows(pipeline.lake)).toHaveLength(PER_LANDING);
    const names = (await liveFiles(pipeline.lake)).map((location) => location.slice(location.lastIndexOf('/') + 1));
    expect(await listedNames(pipeline.lake)).toEqual(names.sort());
  });

  test('a table elsewhere, and a catalog that is away, are named, and nothing is lost', async () => {
    const catalog = await startIcebergRest();
    const first = await openForeignPipeline(catalog);
    await new TestProducer(first.log).append(0, records(0));
    await landOnce(first);
    const second = await openForeignPipeline(catalog);
    await new TestProducer(second.log).append(0, records(0));
    await expect(landOnce(second)).rejects.toThrow(/table plant\.vibration lies at .* expected file:/);
    const [closed = 0] = await freePorts(1);
    const away = await openForeignPipeline(`http://127.0.0.1:${closed}`);
    await new TestProducer(away.log).append(0, records(0));
    const gaveUp = new AbortController();
    const landing = landOnce(away, {
      signal: gaveUp.signal,
      onStatus: (status) => {
        if (status.kind === 'problem') gaveUp.abort(new Error(status.message));
      },
    });
    await expect(landing).rejects.toThrow(`http://127.0.0.1:${closed}/v1/config`);
  });
});

/** Passes everything on; after `lose` the next commit of a table is made, and its answer dropped. */
async function startLossyProxy(target: string): Promise<{ readonly url: string; readonly lose: () => void }> {
  let isDue = false;
  const server = createServer((request, response) => {
    void (async () => {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      const { method = 'GET', url = '' } = request;
      const body = parts.length === 0 ? {} : { body: Buffer.concat(parts) };
      const headers = { 'content-type': 'application/json' };
      const answer = await fetch(`${target}${url}`, { method, headers, ...body });
      const text = await answer.text();
      if (isDue && method === 'POST' && url.includes('/tables/') && text.includes('"snapshots":[{')) {
        isDue = false;
        request.socket.destroy();
      } else response.writeHead(answer.status, { 'content-type': 'application/json' }).end(text);
    })();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, lose: () => (isDue = true) };
}
