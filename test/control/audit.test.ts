import { expect, test } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { AuditLog } from '../../control/lake/audit.ts';
import { DATASET, openTestPipeline } from '../compactor/pipeline.ts';
import { landedPipeline, startControl, type Control } from './control.ts';

const FIRST = 'first-administrator-token-0123456789';

type Items = readonly Readonly<Record<string, unknown>>[];

async function audited(control: Control, query = ''): Promise<Items> {
  return (await control.get(`/v1/audit${query}`, FIRST))['items'] as Items;
}

test('every change is recorded with who, what and the outcome; reads, heartbeats and secrets are not', async () => {
  const { pipeline } = await landedPipeline();
  const control = await startControl(pipeline.config, pipeline.dir, FIRST);
  const post = (path: string, body: unknown, token = FIRST) => control.request('POST', path, { token, body });
  const made = await post('/v1/tokens', { name: 'ops', role: 'operator' });
  const operator = String(made.json['token']);
  expect((await post('/v1/lineage', { dataset: DATASET, job: 'train-1' }, operator)).status).toBe(201);
  expect((await post('/v1/lineage', { dataset: 'no.such', job: 'train-1' }, operator)).status).toBe(404);
  expect((await post('/v1/tokens', { name: 'x', role: 'viewer' }, operator)).status).toBe(403);
  expect((await post('/v1/tokens', { name: 'x', role: 'viewer', password: 'hunter2' })).status).toBe(400);
  expect((await post('/v1/agents/edge-1/heartbeat', { status: {} })).status).toBe(204);
  await control.get('/v1/datasets', operator);
  expect((await control.request('DELETE', `/v1/tokens/${String(made.json['id'])}`, { token: FIRST })).status).toBe(204);

  const records = await audited(control);
  expect(records.map(({ who, role, operation, status }) => [who, role, operation, status])).toEqual([
    ['first administrator', 'admin', 'tokens.revoke', 204],
    ['ops', 'operator', 'lineage.record', 404],
    ['ops', 'operator', 'lineage.record', 201],
    ['first administrator', 'admin', 'tokens.create', 201],
  ]);
  expect(records[2]?.['detail']).toBe(`{"dataset":"${DATASET}","job":"train-1"}`);
  expect(records[0]?.['target']).toBe(`/v1/tokens/${String(made.json['id'])}`);
  expect(JSON.stringify(records)).not.toContain(operator);
  expect(await audited(control, '?who=ops&operation=lineage.record')).toHaveLength(2);
  expect((await control.request('GET', '/v1/audit', { token: operator })).status).toBe(401);
});

test('records are kept for ninety days, and a secret in a body is left out', async () => {
  const { lake } = await openTestPipeline();
  const { engine } = lake;
  const { engine: otherEngine } = (await openTestPipeline()).lake;
  let nowMs = Date.UTC(2026, 0, 1);
  const clock = { ...systemClock, nowMs: () => nowMs, monotonicMs: () => nowMs };
  const act = { who: 'a', role: 'admin', tenant: null, address: '::1', operation: 'x.y', target: '/x' };
  const first = new AuditLog(clock);
  const record = await first.begin(engine, lake.volume, {
    ...act,
    body: { url: 's3://b', secretAccessKey: 'hunter2' },
  });
  expect(record.detail).toBe('{"url":"s3://b","secretAccessKey":"(not recorded)"}');
  expect((await first.list(engine, lake.volume, 0)).map(({ status }) => status)).toEqual([null]);
  await first.complete(engine, lake.volume, record, 200);
  expect((await first.list(engine, lake.volume, 0)).map(({ status }) => status)).toEqual([200]);

  const urls = [
    'redis://u:hunter2@h',
    's3://b?endpoint=http://u:hunter2@h',
    's3://b?endpoint=http%3a%2F%2Fu:hunter2%40h',
  ];
  const { detail } = await new AuditLog(clock).begin(otherEngine, lake.volume, { ...act, body: { urls } });
  expect(detail).toBe('{"urls":["redis://h","s3://(hidden)@h","s3://(hidden)@h"]}');

  nowMs += 89 * 86_400_000;
  await new AuditLog(clock).begin(engine, lake.volume, { ...act, body: undefined });
  expect(await first.list(engine, lake.volume, 0)).toHaveLength(2);
  expect(await first.list(engine, lake.volume, nowMs)).toHaveLength(1);
  nowMs += 2 * 86_400_000;
  await new AuditLog(clock).begin(engine, lake.volume, { ...act, body: undefined });
  expect((await first.list(engine, lake.volume, 0)).map(({ detail }) => detail)).toEqual(['', '']);
});

test('a repeat with the same Idempotency-Key makes nothing new, on another server too; another body is refused', async () => {
  const { pipeline } = await landedPipeline();
  const one = await startControl(pipeline.config, pipeline.dir, FIRST);
  const two = await startControl(pipeline.config, pipeline.dir);
  const send = (control: Control, path: string, body: unknown, key = 'k-1') =>
    control.request('POST', path, { token: FIRST, body, headers: { 'idempotency-key': key } });
  const body = { dataset: DATASET, job: 'train-1', model: 'm' };
  const first = await send(one, '/v1/lineage', body);
  expect(first.status, first.text).toBe(201);
  for (const control of [one, two]) {
    const again = await send(control, '/v1/lineage', body);
    expect([again.status, again.json]).toEqual([201, first.json]);
  }
  expect((await send(two, '/v1/lineage', { ...body, job: 'train-2' })).status).toBe(409);
  expect((await send(two, '/v1/lineage', { ...body, job: 'train-2' }, 'k-2')).status).toBe(201);
  expect((await one.get(`/v1/lineage?model=m`, FIRST))['items']).toHaveLength(2);
  expect((await send(one, '/v1/lineage', body, 'two words')).status).toBe(400);

  const token = await send(one, '/v1/tokens', { name: 'v', role: 'viewer' });
  expect(token.status).toBe(201);
  const repeated = await send(two, '/v1/tokens', { name: 'v', role: 'viewer' });
  expect(repeated.status).toBe(409);
  expect(repeated.json['detail']).toContain(String(token.json['id']));
  expect(repeated.text).not.toContain(String(token.json['token']));
  expect((await one.get('/v1/tokens', FIRST))['items']).toHaveLength(2);
  await one.request('DELETE', `/v1/tokens/${String(token.json['id'])}`, { token: FIRST });
  expect((await send(two, '/v1/tokens', { name: 'v', role: 'viewer' })).status).toBe(201);
});
