import { hostname } from 'node:os';
import { isDeepStrictEqual } from 'node:util';
import { describe, expect, test } from 'vitest';
import { datasetStats } from '../../lib/lake/dataset-stats.ts';
import { DATASET, landOnce } from '../compactor/pipeline.ts';
import { until } from '../support/mount-guard.ts';
import { configOf, GROUP } from './fleet.ts';
import { type Control, landedPipeline, reading, startControl } from './control.ts';

type Items = readonly Readonly<Record<string, unknown>>[];

/** Every item of a list, page by page; the pages must not be larger than asked for. */
async function everyPage(control: Control, path: string, limit: number): Promise<Items> {
  const items: Readonly<Record<string, unknown>>[] = [];
  for (let cursor: string | null = ''; cursor !== null;) {
    const page = await control.get(
      `${path}${path.includes('?') ? '&' : '?'}limit=${limit}${cursor === '' ? '' : `&cursor=${cursor}`}`,
    );
    expect((page['items'] as Items).length).toBeLessThanOrEqual(limit);
    items.push(...(page['items'] as Items));
    cursor = page['nextCursor'] as string | null;
  }
  return items;
}

test('datasets, tables and files say what the lake holds', async () => {
  const { pipeline, producer, rows } = await landedPipeline();
  await producer.append(0, [reading(500)]);
  await landOnce(pipeline);
  const control = await startControl(pipeline.config, pipeline.dir);
  const stats = await datasetStats(pipeline.lake, DATASET);

  const dataset = await control.get(`/v1/datasets/${DATASET}`);
  expect(dataset).toMatchObject({
    landed: rows + 7,
    quarantined: 6,
    duplicates: 0,
    liveRows: rows + 1,
    liveFiles: stats.liveFiles,
    liveBytes: stats.liveBytes,
    landedFiles: 4,
    unlanded: 0,
    oldestUnlandedMs: null,
  });
  expect(await control.get('/v1/datasets')).toEqual({ items: [dataset], nextCursor: null });

  const sizes = await control.get(`/v1/datasets/${DATASET}/file-sizes`);
  expect(sizes).toMatchObject({ smallFiles: 1, compactedFiles: 1 });
  expect((sizes['landed'] as number[])[0]).toBe(4);

  const table = await control.get(`/v1/tables/${DATASET}`);
  expect((table['fields'] as Items).map(({ name }) => name)).toEqual(
    expect.arrayContaining(['sensor', 'rms', '_event_time', '_seq']),
  );
  const snapshots = await everyPage(control, `/v1/tables/${DATASET}/snapshots`, 2);
  expect(snapshots.map(({ operation }) => operation)).toEqual(['append', 'replace', 'append', 'append', 'append']);
  expect(snapshots[0]?.['id']).toBe(table['snapshotId']);

  const files = await everyPage(control, `/v1/tables/${DATASET}/files?hour=2026-01-31T07`, 1);
  expect(files).toHaveLength(2);
  expect(files.reduce((total, file) => total + Number(file['rows']), 0)).toBe(rows + 1);
  expect(await everyPage(control, `/v1/tables/${DATASET}/files?hour=2026-01-31T08`, 10)).toEqual([]);
});

test('what waits in the log is counted, with the age of the oldest', async () => {
  const { pipeline, producer } = await landedPipeline({ compacted: false });
  await producer.append(1, [reading(300), reading(301)]);
  await producer.append(0, [reading(302)]);
  const control = await startControl(pipeline.config, pipeline.dir);
  const overview = await control.get('/v1/overview');
  // Test readings say that they arrived at 07:00:00.000005 of their hour.
  expect(overview['datasets']).toMatchObject([{ unlanded: 3, oldestUnlandedMs: Date.UTC(2026, 0, 31, 7) + 0.005 }]);
  const metrics = await control.request('GET', '/metrics');
  expect(metrics.text).toContain(`penstock_dataset_unlanded_records{dataset="${DATASET}"} 3`);
  expect(metrics.text).toContain('penstock_port_up{port="engine"} 1');
  expect(metrics.text).toContain(
    `penstock_dataset_files_by_size{dataset="${DATASET}",state="small",max_bytes="64000"} 3`,
  );
});

test('a dataset’s partitions say how far each has landed, and which lander lands it', async () => {
  const { pipeline, producer } = await landedPipeline({ compacted: false });
  const control = await startControl(pipeline.config, pipeline.dir);
  const path = `/v1/datasets/${DATASET}/partitions`;
  const before = await everyPage(control, path, 1);
  expect(before.map(({ partition, lander }) => [partition, lander])).toEqual([
    [0, null],
    [1, null],
  ]);
  const end = Number(before[1]?.['end']);
  await producer.append(1, [reading(300), reading(301)]);
  expect((await everyPage(control, path, 10))[1]).toMatchObject({ end: end + 2, landed: end, unlanded: 2 });
  const stop = new AbortController();
  const landing = landOnce(pipeline, { once: false, signal: stop.signal, landerId: 'lander-1' });
  await until('a lander for each', async () => {
    const lander = { id: 'lander-1', host: hostname(), pid: process.pid };
    const states = await everyPage(control, path, 10);
    return states.every((state) => isDeepStrictEqual(state['lander'], lander));
  });
  stop.abort();
  await landing;
  // It may have been ended before it had read them.
  await landOnce(pipeline);
  expect((await everyPage(control, path, 10)).map(({ unlanded, lander }) => [unlanded, lander])).toEqual([
    [0, null],
    [0, null],
  ]);
});

test('runs in pages, newest first, and their costs by week', async () => {
  const { pipeline } = await landedPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  const all = await everyPage(control, '/v1/runs', 1000);
  expect(all.map(({ kind }) => kind)).toEqual(['compact', 'land', 'land', 'land']);
  expect(await everyPage(control, '/v1/runs', 1)).toEqual(all);
  expect(await everyPage(control, '/v1/runs?kind=compact', 1)).toEqual(all.slice(0, 1));
  const costs = await control.get('/v1/costs?by=week');
  expect(costs['periods']).toMatchObject([
    { kind: 'compact', runs: 1 },
    { kind: 'land', runs: 3, rows: 126 },
  ]);
  // Three commits of a minute each, in files of a few kilobytes.
  expect(costs['landing']).toMatchObject([
    { dataset: DATASET, commits: 3, targetBytes: 128e6, estimate: { commitEveryMs: 3_600_000, savedPrice: null } },
  ]);
  expect(costs['trends']).toMatchObject([{ dataset: DATASET, cpuChange: null, last7Days: { runs: 4 } }]);
});

test('quarantined records are shown with their reason and their bytes, and only what is quarantined can be read', async () => {
  const { pipeline } = await landedPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  const objects = await everyPage(control, `/v1/quarantine?dataset=${DATASET}`, 2);
  expect(objects.map(({ records }) => records)).toEqual([2, 2, 2]);
  const object = encodeURIComponent(String(objects[2]?.['object']));
  const first = await control.get(`/v1/quarantine/${DATASET}/records?object=${object}&limit=1`);
  expect(first).toMatchObject({
    items: [{ partition: 0, offset: '20', value: '{"ts": oops 1000', key: 's', valueBytes: 16 }],
    more: true,
  });
  expect(String((first['items'] as Items)[0]?.['reason'])).toMatch(/JSON/);
  expect(await control.get(`/v1/quarantine/${DATASET}/records?object=${object}&offset=1`)).toMatchObject({
    more: false,
    items: [{ offset: '41' }],
  });
  const files = await everyPage(control, `/v1/tables/${DATASET}/files`, 1);
  const key = pipeline.lake.store.keyOf(String(files[0]?.['location'])) ?? '';
  const stolen = await control.request('GET', `/v1/quarantine/${DATASET}/records?object=${encodeURIComponent(key)}`);
  expect(stolen.status).toBe(404);
});

test('agents report and are listed; lineage answers both ways', async () => {
  const { pipeline } = await landedPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  const beat = await control.request('POST', '/v1/agents/edge-7/heartbeat', { body: { status: { readings: 12 } } });
  expect(beat.status).toBe(204);
  expect(await control.get('/v1/agents')).toMatchObject({
    items: [{ id: 'edge-7', late: false, status: { readings: 12 } }],
  });
  const huge = await control.request('POST', '/v1/agents/edge-7/heartbeat', {
    body: { status: { text: 'x'.repeat(40_000) } },
  });
  expect(huge.status).toBe(413);

  const { snapshotId } = await control.get(`/v1/tables/${DATASET}`);
  const model = 'anomalies/väl 1';
  for (const job of ['train-1', 'train-2']) {
    const recorded = await control.request('POST', '/v1/lineage', { body: { dataset: DATASET, job, model } });
    expect(recorded.status, recorded.text).toBe(201);
    expect(recorded.json).toMatchObject({ snapshotId, job });
  }
  const trained = await everyPage(control, `/v1/lineage?model=${encodeURIComponent(model)}`, 1);
  expect(trained.map(({ dataset, snapshotId: id }) => [dataset, id])).toEqual([
    [DATASET, snapshotId],
    [DATASET, snapshotId],
  ]);
  const used = await everyPage(control, `/v1/lineage?dataset=${DATASET}&snapshotId=${String(snapshotId)}`, 10);
  expect(new Set(used.map(({ job }) => job))).toEqual(new Set(['train-1', 'train-2']));
  const unknown = await control.request('POST', '/v1/lineage', {
    body: { dataset: DATASET, job: 'x', snapshotId: '17' },
  });
  expect(unknown.status).toBe(404);
});

test('an agent that is no more is forgotten with its configuration and its place in its group, one that reports is not', async () => {
  const { pipeline } = await landedPipeline({ compacted: false });
  const now = { ms: Date.now() };
  const clock = { nowMs: () => now.ms, monotonicMs: () => performance.now() };
  const control = await startControl(pipeline.config, pipeline.dir, undefined, { clock });
  const beat = async (): Promise<number> =>
    (await control.request('POST', '/v1/agents/edge-7/heartbeat', { body: { status: {} } })).status;
  const forget = async (): Promise<number> => (await control.request('DELETE', '/v1/agents/edge-7')).status;
  expect(await forget()).toBe(404);
  expect(await beat()).toBe(204);
  await control.request('PUT', '/v1/agents/edge-7/config', { body: { config: configOf(1) } });
  await control.request('PUT', GROUP);
  await control.request('PUT', `${GROUP}/agents/edge-7`);
  expect(await control.get('/v1/agents/edge-7')).toMatchObject({ id: 'edge-7', late: false, group: 'plant-a' });
  expect(await forget()).toBe(409);
  now.ms += 61_000;
  expect(await control.get('/v1/agents/edge-7')).toMatchObject({ late: true });
  expect(await forget()).toBe(204);
  expect((await control.request('GET', '/v1/agents/edge-7')).status).toBe(404);
  expect(await control.get('/v1/agents')).toMatchObject({ items: [] });
  expect(await control.get('/v1/agents/edge-7/config')).toMatchObject({ version: 'none', group: null });
  expect((await control.request('DELETE', GROUP)).status).toBe(204);
  // It was only switched off.
  expect(await beat()).toBe(204);
  expect(await control.get('/v1/agents')).toMatchObject({ items: [{ id: 'edge-7', late: false }] });
});

test('volumes and sessions; ending a session refuses its commits', async () => {
  const { pipeline } = await landedPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  expect(await control.get('/v1/volumes')).toMatchObject({ items: [{ name: 'lake', formatted: false, mounts: [] }] });
  const { engine } = pipeline.lake;
  expect((await control.get('/v1/sessions'))['items']).toContainEqual(
    expect.objectContaining({ id: engine.sessionId, kind: 'test', live: true }),
  );
  expect((await control.request('DELETE', `/v1/sessions/${engine.sessionId}`)).status).toBe(204);
  await expect(
    engine.commit({ write: [{ key: { bucket: '{lake}x', field: 'a' }, value: Buffer.from('1') }] }),
  ).rejects.toMatchObject({ code: 'fenced' });
});

describe('hostile and wrong requests', () => {
  test('get a problem document that says what was expected', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir);
    const cases: readonly (readonly [method: string, path: string, status: number, body?: unknown])[] = [
      ['GET', '/v1/nothing', 404],
      ['GET', '/v1/datasets/..%2f..%2fetc%2fpasswd', 404],
      ['GET', '/assets/..%2f..%2fpackage.json', 404],
      ['GET', '/v1/runs?limit=0', 400],
      ['GET', '/v1/runs?limit=ten', 400],
      ['GET', '/v1/runs?cursor=%00%ff', 400],
      ['GET', '/v1/runs?cursor=WzFd', 400],
      ['GET', '/v1/lineage', 400],
      ['GET', `/v1/tables/${DATASET}/files?hour=2026-13-45T99`, 400],
      ['GET', `/v1/quarantine/${DATASET}/records?object=%F0%9F%98%80`, 404],
      ['POST', '/v1/agents/../heartbeat', 404, { status: {} }],
      ['POST', '/v1/agents/a%20b/heartbeat', 400, { status: {} }],
      ['POST', '/v1/agents/a/heartbeat', 400, { status: 1 }],
      ['POST', '/v1/sql', 400, { sql: '' }],
      ['POST', '/v1/sql', 413, { sql: 'x'.repeat(300_000) }],
      ['POST', '/v1/lineage', 400, { dataset: DATASET, job: 'a', unknownKey: 1 }],
      ['DELETE', '/v1/sessions/0', 400],
      ['GET', `/v1/datasets/${'x'.repeat(300)}`, 400],
      ['GET', `/v1/datasets/${'x'.repeat(5000)}`, 414],
      ['GET', '/v1/datasets/%zz', 400],
      ['PUT', '/v1/datasets', 405],
      ['GET', '/v1/sql', 405],
      ['DELETE', '/v1/tokens/1', 400],
    ];
    for (const [method, path, status, body] of cases) {
      const answer = await control.request(method, path, body === undefined ? {} : { body });
      expect([path, answer.status, answer.headers.get('content-type')]).toEqual([
        path,
        status,
        'application/problem+json',
      ]);
      expect(answer.json).toMatchObject({ status, type: expect.stringMatching(/^urn:penstock:problem:/) as string });
    }
    const text = await control.request('POST', '/v1/sql', {
      headers: { 'content-type': 'text/plain' },
      body: { sql: 'SELECT 1' },
    });
    expect(text.status).toBe(415);
  });

  test('say which key of which part is wrong and what was expected, in none of the words of the schema library', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir);
    const cases: readonly (readonly [method: string, path: string, body: unknown, detail: string])[] = [
      ['GET', '/v1/runs?limit=ten', undefined, 'limit in the query: expected a number'],
      ['GET', '/v1/runs?limit=0', undefined, 'limit in the query: expected at least 1'],
      ['POST', '/v1/sql', {}, 'sql in the body: missing: expected a text'],
      ['POST', '/v1/sql', [], 'the body: expected a map of keys, and this is a list'],
      ['POST', '/v1/sql', { sql: 'SELECT 1', row: 1 }, 'row in the body: unknown key'],
      [
        'POST',
        `${GROUP}/rollout`,
        { config: configOf(1), steps: [{}] },
        'steps[0] in the body: agents: missing: expected a number, or percent: missing: expected a number',
      ],
      [
        'POST',
        '/v1/tokens',
        { name: 7, role: 'root' },
        'name in the body: expected a text, and this is a number; role in the body: expected one of viewer, operator, admin, agent',
      ],
    ];
    for (const [method, path, body, detail] of cases) {
      const { status, json } = await control.request(method, path, body === undefined ? {} : { body });
      expect([path, status, json['detail']]).toEqual([path, 400, detail]);
    }
  });

  test('every answer carries the secure headers, and names no framework', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir);
    const { headers } = await control.request('GET', '/v1/overview');
    expect(headers.get('content-security-policy')).toContain("default-src 'none'");
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('access-control-allow-origin')).toBeNull();
    expect(headers.get('x-powered-by')).toBeNull();
  });
});

test('the OpenAPI document names every operation once, with its parameters and answers', async () => {
  const { pipeline } = await landedPipeline({ compacted: false });
  const control = await startControl(pipeline.config, pipeline.dir);
  const document = await control.get('/openapi.json');
  expect(document['openapi']).toBe('3.1.0');
  const operations = Object.values(
    document['paths'] as Record<string, Record<string, { operationId: string; responses: object }>>,
  ).flatMap((methods) => Object.values(methods));
  const ids = operations.map(({ operationId }) => operationId);
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids).toEqual(
    expect.arrayContaining([
      'datasets.list',
      'datasets.partitions',
      'tables.snapshots',
      'sql.query',
      'agents.heartbeat',
      'lineage.record',
      'tokens.create',
    ]),
  );
  for (const { operationId, responses } of operations) {
    expect(Object.keys(responses), operationId).toEqual(expect.arrayContaining(['default']));
  }
  // Every reference leads somewhere.
  const text = JSON.stringify(document);
  const references = [...text.matchAll(/"\$ref":"([^"]+)"/g)].map((match) => match[1]);
  expect(new Set(references)).toEqual(new Set(['#/components/responses/Problem']));
});
