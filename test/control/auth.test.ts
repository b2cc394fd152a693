import { request } from 'node:http';
import { expect, test } from 'vitest';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { HANG_MS } from '../support/hang.ts';
import { type Control, startControl, tokensOfRoles } from './control.ts';

const FIRST = 'first-administrator-token-0123456789';

async function withTokens(): Promise<{
  readonly control: Control;
  readonly tokens: Readonly<Record<string, string>>;
  readonly dir: string;
}> {
  const pipeline = await openTestPipeline();
  const control = await startControl(pipeline.config, pipeline.dir, FIRST);
  const tokens = await tokensOfRoles(control, FIRST);
  return { control, tokens, dir: pipeline.dir };
}

/** With headers that `fetch` does not let a program set. */
function rawStatus(control: Control, headers: Readonly<Record<string, string>>): Promise<number> {
  return new Promise((resolve, reject) => {
    request(new URL('/v1/overview', control.url), { headers }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    })
      .on('error', reject)
      .end();
  });
}

test('without any token this machine is served, and no page of another site, no proxy and no other name', async () => {
  const pipeline = await openTestPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  expect(control.serving.loopbackOnly).toBe(true);
  const host = new URL(control.url).host;
  expect(await rawStatus(control, {})).toBe(200);
  expect(await rawStatus(control, { host: `localhost:${new URL(control.url).port}` })).toBe(200);
  expect(await rawStatus(control, { host: 'evil.example' })).toBe(401);
  expect(await rawStatus(control, { host, 'x-forwarded-for': '203.0.113.9' })).toBe(401);
  expect(await rawStatus(control, { host, forwarded: 'for=203.0.113.9' })).toBe(401);
  expect(await rawStatus(control, { host, 'sec-fetch-site': 'cross-site' })).toBe(401);
  expect(await rawStatus(control, { host, 'sec-fetch-site': 'same-origin' })).toBe(200);
});

test('with tokens nothing but the public pages is served without one, or with a wrong one', async () => {
  const { control } = await withTokens();
  expect(control.serving.loopbackOnly).toBe(false);
  for (const path of ['/healthz', '/readyz', '/openapi.json', '/', '/assets/style.css']) {
    expect([path, (await control.request('GET', path)).status]).toEqual([path, 200]);
  }
  for (const path of ['/v1/overview', '/v1/datasets', '/v1/tokens', '/metrics', '/v1/sessions']) {
    const answer = await control.request('GET', path);
    expect([path, answer.status]).toEqual([path, 401]);
    expect(answer.headers.get('www-authenticate')).toContain('Bearer');
    expect((await control.request('GET', path, { token: 'pst_wrong' })).status).toBe(401);
  }
  expect(
    (await control.request('GET', '/v1/overview', { headers: { authorization: `Basic ${btoa(`a:${FIRST}`)}` } }))
      .status,
  ).toBe(401);
});

test('each role may do what it may and nothing else', async () => {
  const { control, tokens } = await withTokens();
  const heartbeat = { body: { status: {} } };
  const lineage = { body: { dataset: 'none', job: 'a' } };
  // 404: it was let in, and there is no such thing.
  const rules: readonly (readonly [
    method: string,
    path: string,
    options: object,
    allowed: readonly string[],
    status: number,
  ])[] = [
    ['GET', '/v1/overview', {}, ['viewer', 'operator', 'admin'], 200],
    ['GET', '/metrics', {}, ['viewer', 'operator', 'admin'], 200],
    ['POST', '/v1/sql', { body: { sql: 'SELECT 1' } }, ['viewer', 'operator', 'admin'], 200],
    ['POST', '/v1/agents/edge-1/heartbeat', heartbeat, ['agent', 'operator', 'admin'], 204],
    ['POST', '/v1/lineage', lineage, ['operator', 'admin'], 404],
    ['DELETE', '/v1/sessions/1', {}, ['operator', 'admin'], 404],
    ['GET', '/v1/tokens', {}, ['admin'], 200],
    ['POST', '/v1/tokens', { body: { name: 'x', role: 'viewer' } }, ['admin'], 201],
  ];
  for (const [method, path, options, allowed, status] of rules) {
    for (const role of ['viewer', 'operator', 'admin', 'agent']) {
      const answer = await control.request(method, path, { ...options, token: tokens[role] ?? '' });
      expect([role, method, path, answer.status]).toEqual([role, method, path, allowed.includes(role) ? status : 403]);
    }
  }
});

test("an agent's token speaks for that agent only", async () => {
  const { control, tokens } = await withTokens();
  const answer = await control.request('POST', '/v1/agents/edge-2/heartbeat', {
    token: tokens['agent'] ?? '',
    body: { status: {} },
  });
  expect(answer.status).toBe(403);
});

test('a token of a fleet speaks for the agents whose id begins as it says, and for no other', async () => {
  const { control } = await withTokens();
  const made = await control.request('POST', '/v1/tokens', {
    token: FIRST,
    body: { name: 'plant-a-*', role: 'agent' },
  });
  const token = String(made.json['token']);
  for (const [agent, status] of [
    ['plant-a-7', 204],
    ['plant-a-', 204],
    ['plant-a', 403],
    ['plant-b-7', 403],
  ] as const) {
    const beat = await control.request('POST', `/v1/agents/${agent}/heartbeat`, { token, body: { status: {} } });
    expect([agent, beat.status]).toEqual([agent, status]);
    const config = await control.request('GET', `/v1/agents/${agent}/config`, { token });
    expect([agent, config.status]).toEqual([agent, status === 204 ? 200 : 403]);
  }
});

test('a token is kept as a hash, shown once, and refused when it is revoked or expired', async () => {
  const { control, tokens } = await withTokens();
  const listed = await control.request('GET', '/v1/tokens', { token: FIRST });
  for (const token of Object.values(tokens)) expect(listed.text).not.toContain(token);
  const items = listed.json['items'] as readonly { readonly id: string; readonly role: string }[];
  const viewer = items.find(({ role }) => role === 'viewer')?.id ?? '';
  expect((await control.request('GET', '/v1/datasets', { token: tokens['viewer'] ?? '' })).status).toBe(200);
  expect((await control.request('DELETE', `/v1/tokens/${viewer}`, { token: FIRST })).status).toBe(204);
  expect((await control.request('GET', '/v1/datasets', { token: tokens['viewer'] ?? '' })).status).toBe(401);
  const admin = items.find(({ role }) => role === 'admin')?.id ?? '';
  // Not even when it is the only token: the server would be open again.
  expect((await control.request('DELETE', `/v1/tokens/${admin}`, { token: FIRST })).status).toBe(409);
});

test('a token that another server revokes is refused because it was told, not because its belief ended', async () => {
  const pipeline = await openTestPipeline();
  const one = await startControl(pipeline.config, pipeline.dir, FIRST);
  const tokens = await tokensOfRoles(one, FIRST);
  // On the clock of this one no belief ever ends.
  const clock = { nowMs: () => Date.now(), monotonicMs: () => 1 };
  const other = await startControl(pipeline.config, pipeline.dir, FIRST, { clock });
  const ask = async (role: string): Promise<number> =>
    (await other.request('GET', '/v1/datasets', { token: tokens[role] ?? '' })).status;
  expect([await ask('viewer'), await ask('operator')]).toEqual([200, 200]);
  const { items } = (await one.get('/v1/tokens', FIRST)) as { items: readonly { id: string; role: string }[] };
  const viewer = items.find(({ role }) => role === 'viewer')?.id ?? '';
  expect((await one.request('DELETE', `/v1/tokens/${viewer}`, { token: FIRST })).status).toBe(204);
  await expect.poll(() => ask('viewer'), { timeout: HANG_MS }).toBe(401);
  expect(await ask('operator')).toBe(200);
});

test('the first administrator’s token is taken only while there is none', async () => {
  const pipeline = await openTestPipeline();
  await startControl(pipeline.config, pipeline.dir, FIRST);
  const second = await startControl(pipeline.config, pipeline.dir, 'another-token-that-came-too-late-1');
  expect((await second.request('GET', '/v1/tokens', { token: FIRST })).status).toBe(200);
  expect((await second.request('GET', '/v1/tokens', { token: 'another-token-that-came-too-late-1' })).status).toBe(401);
  await expect(startControl((await openTestPipeline()).config, pipeline.dir, 'short')).rejects.toMatchObject({
    code: 'config',
  });
});

test('guessing is ended after some tries', async () => {
  const { control } = await withTokens();
  const statuses: number[] = [];
  for (let attempt = 0; attempt < 70; attempt++)
    statuses.push((await control.request('GET', '/v1/overview', { token: `guess-${attempt}` })).status);
  expect(statuses[0]).toBe(401);
  expect(statuses.at(-1)).toBe(429);
  expect((await control.request('GET', '/v1/overview', { token: FIRST })).status).toBe(200);
});
