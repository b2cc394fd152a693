import { expect, test } from 'vitest';
import { liveFiles } from '../compactor/pipeline.ts';
import { startControl } from './control.ts';
import { FIRST, openTwoTenants, TENANTS } from './two-tenants.ts';

test('the SQL box has no other tables and no files than those of the tenant', async () => {
  const { pipeline, control, parties } = await openTwoTenants();
  const [file = ''] = await liveFiles(pipeline.lake, 'team-b.unit');
  const path = pipeline.lake.store.localPath(pipeline.lake.store.keyOf(file) ?? '') ?? '';
  const token = parties[0]?.token ?? '';
  const own = await control.request('POST', '/v1/sql', { token, body: { sql: 'SELECT sensor FROM "team-a".unit' } });
  expect([own.status, own.json['rows']]).toEqual([200, [['alpha-1']]]);
  for (const sql of [
    'SELECT * FROM "team-b".unit',
    'SELECT * FROM "team-a".unit JOIN "team-b".unit USING (ts)',
    `SELECT * FROM '${path}'`,
    `SELECT * FROM read_parquet('${path}') -- "team-b".unit`,
    `SELECT * FROM read_blob('${path}')`,
    `SELECT * FROM glob('${path.replace(/[^/]*$/, '*')}')`,
  ]) {
    const answer = await control.request('POST', '/v1/sql', { token, body: { sql } });
    expect([sql, answer.status, /bravo/.test(answer.text.replaceAll(path, ''))]).toEqual([sql, 400, false]);
  }
  const catalog = await control.request('POST', '/v1/sql', {
    token,
    body: {
      sql: `SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal -- "team-a".unit "team-b".unit`,
    },
  });
  expect(catalog.json['rows']).toEqual([['team-a', 'unit']]);
});

test('the platform sees all tenants, or one; sums are of what is seen', async () => {
  const { control, parties } = await openTwoTenants();
  const names = async (path: string, token = FIRST): Promise<unknown> =>
    ((await control.get(path, token))['items'] as readonly { readonly name: string }[]).map(({ name }) => name).sort();
  expect(await names('/v1/datasets')).toEqual(['plant.vibration', 'team-a.unit', 'team-b.unit']);
  expect(await names('/v1/datasets?tenant=team-a')).toEqual(['team-a.unit']);
  expect(await names('/v1/tenants')).toEqual(['team-a', 'team-b']);
  expect(await names('/v1/tenants', parties[0]?.token)).toEqual(['team-a']);
  expect((await control.request('GET', '/v1/datasets?tenant=team-c', { token: FIRST })).status).toBe(404);
  expect((await control.request('GET', '/v1/datasets?tenant=a&tenant=b', { token: FIRST })).status).toBe(400);
  const agents = async (token: string): Promise<unknown> => (await control.get('/v1/overview', token))['agents'];
  expect(await agents(FIRST)).toEqual({ total: 4, late: 0 });
  expect(await agents(parties[1]?.token ?? '')).toEqual({ total: 2, late: 0 });
  const metrics = await control.request('GET', '/metrics', { token: parties[1]?.token ?? '' });
  expect(metrics.text).toContain('penstock_dataset_landed_records{dataset="team-b.unit"} 2');
  expect(metrics.text).toContain('penstock_agents{late="false"} 2');
  expect(metrics.text).not.toContain('penstock_port_up');
  expect(await control.get('/v1/sessions', parties[0]?.token)).toEqual({ items: [], nextCursor: null });
  expect(await control.get('/v1/volumes', parties[0]?.token)).toEqual({ items: [], nextCursor: null });
});

test('a tenant’s administrator makes and revokes tokens of that tenant only; one of a tenant that is gone does nothing', async () => {
  const { pipeline, control, parties } = await openTwoTenants();
  const [a, b] = [parties[0]?.token ?? '', parties[1]?.token ?? ''];
  const made = await control.request('POST', '/v1/tokens', { token: a, body: { name: 'ops', role: 'admin' } });
  expect([made.status, made.json['tenant']]).toEqual([201, 'team-a']);
  const listed = (await control.get('/v1/tokens', FIRST))['items'] as readonly { readonly id: string; name: string }[];
  const first = listed.find(({ name }) => name === 'first administrator')?.id ?? '';
  for (const [token, id] of [
    [b, String(made.json['id'])],
    [a, first],
  ]) {
    expect((await control.request('DELETE', `/v1/tokens/${id ?? ''}`, { token: token ?? '' })).status).toBe(404);
  }
  // It is no administrator of the platform: that one is still the last.
  expect((await control.request('DELETE', `/v1/tokens/${first}`, { token: FIRST })).status).toBe(409);
  // A token for every agent is one for every agent of the tenant.
  const fleet = await control.request('POST', '/v1/tokens', { token: a, body: { name: '*', role: 'agent' } });
  for (const [agent, status] of [
    ['team-a.edge', 204],
    ['team-b.edge', 404],
    ['edge', 404],
  ] as const) {
    const beat = await control.request('POST', `/v1/agents/${agent}/heartbeat`, {
      token: String(fleet.json['token']),
      body: { status: {} },
    });
    expect([agent, beat.status]).toEqual([agent, status]);
  }
  const serve = { ...pipeline.config.serve, tenants: ['team-a'] };
  const later = await startControl({ ...pipeline.config, serve }, pipeline.dir);
  expect((await later.request('GET', '/v1/datasets', { token: b })).status).toBe(403);
  expect((await later.request('GET', '/v1/datasets', { token: a })).status).toBe(200);
});

test('one key of two people with one name in two tenants is two requests', async () => {
  const { control, parties } = await openTwoTenants();
  const body = { name: 'ci', role: 'operator' };
  const tokens = await Promise.all(
    parties.map(({ token }) => control.request('POST', '/v1/tokens', { token, body: { ...body, role: 'admin' } })),
  );
  const ids = new Set<unknown>();
  for (const { json } of tokens) {
    const headers = { 'idempotency-key': 'k-1' };
    const made = await control.request('POST', '/v1/tokens', { token: String(json['token']), body, headers });
    expect(made.status, made.text).toBe(201);
    ids.add(made.json['id']);
  }
  for (const tenant of TENANTS) {
    const headers = { 'idempotency-key': 'k-2' };
    const made = await control.request('POST', `/v1/tokens?tenant=${tenant}`, { token: FIRST, body, headers });
    expect(made.status, made.text).toBe(201);
    ids.add(made.json['id']);
  }
  expect(ids.size).toBe(4);
});

test('a group takes no agent of another tenant, not even from the platform', async () => {
  const { control } = await openTwoTenants();
  await control.request('PUT', '/v1/agent-groups/plant', { token: FIRST });
  for (const [group, agent, status] of [
    ['team-a.group', 'team-b.edge', 409],
    ['team-a.group', 'edge-1', 409],
    ['plant', 'team-b.edge', 409],
    ['plant', 'edge-1', 204],
    ['plant', 'edge-2.hall.example', 204],
  ] as const) {
    const answer = await control.request('PUT', `/v1/agent-groups/${group}/agents/${agent}`, { token: FIRST });
    expect([group, agent, answer.status]).toEqual([group, agent, status]);
  }
});
