/** What agents are to run with, through the API: versions, conditions, waiting, groups, and who may do what. */
import { expect, test } from 'vitest';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { type Answer, type Control, startControl, tokensOfRoles } from './control.ts';

const FIRST = 'first-administrator-token-0123456789';

export const configOf = (rate: number): Record<string, unknown> => ({
  sources: [{ type: 'simulator', rate, to: 'machine' }],
});

async function open(): Promise<Control> {
  const pipeline = await openTestPipeline();
  return startControl(pipeline.config, pipeline.dir);
}

const put = (control: Control, path: string, config: unknown, ifMatch?: string): Promise<Answer> =>
  control.request('PUT', path, {
    body: { config },
    ...(ifMatch === undefined ? {} : { headers: { 'if-match': ifMatch } }),
  });

const detailOf = ({ json }: Answer): string => String(json['detail']);

test('two who edit at once: the second is told (412), and nobody edits what he did not see (428)', async () => {
  const control = await open();
  const path = '/v1/agents/edge-1/config';
  expect(await control.get(path)).toMatchObject({ version: 'none', from: 'none', config: null });
  expect((await put(control, path, configOf(1), '"0123"')).status).toBe(412);
  expect((await put(control, path, configOf(1))).status).toBe(204);
  const read = await control.request('GET', path);
  expect(read.json).toMatchObject({ from: 'agent', group: null, config: configOf(1), changedBy: 'local' });
  const etag = read.headers.get('etag') ?? '';
  expect(etag).toBe(`"${String(read.json['version'])}"`);
  expect((await put(control, path, configOf(2))).status).toBe(428);
  const both = await Promise.all([put(control, path, configOf(2), etag), put(control, path, configOf(3), etag)]);
  expect(both.map(({ status }) => status).sort()).toEqual([204, 412]);
  const winner = both[0].status === 204 ? 2 : 3;
  expect(await control.get(path)).toMatchObject({ config: configOf(winner) });
  expect((await control.request('DELETE', path, { headers: { 'if-match': etag } })).status).toBe(412);
  expect((await control.request('DELETE', path, { headers: { 'if-match': '*' } })).status).toBe(204);
  expect(await control.get(path)).toMatchObject({ version: 'none', config: null });
});

test("a configuration is checked by the agent's own schema; node's keys and secrets are refused, and stand in no answer and no record", async () => {
  const control = await open();
  const path = '/v1/agents/edge-1/config';
  const refused = async (config: unknown): Promise<string> => {
    const answer = await put(control, path, config);
    expect(answer.status, answer.text).toBe(400);
    return detailOf(answer);
  };
  expect(await refused({ ...configOf(-1), speed: 3 })).toMatch(
    /sources\[0\]\.rate: .*speed: unknown key|speed: unknown key.*sources\[0\]\.rate: /,
  );
  expect(await refused({})).toContain('sources: missing');
  expect(await refused({ ...configOf(1), agent: { id: 'x' } })).toContain('agent: stays in agent.yaml of the node');
  expect(await refused({ ...configOf(1), control: { url: 'http://evil' } })).toContain('control: stays in agent.yaml');
  const http = { type: 'http', listen: '127.0.0.1:0', to: 'machine', token: 's3cret-of-the-edge' };
  expect(await refused({ sources: [http] })).toContain('sources[0].token: a secret stays on the node');
  expect(await refused({ ...configOf(1), log: 'kafka://u:s3cret-of-the-edge@h:9092' })).toContain(
    'log: a secret stays',
  );
  expect((await put(control, path, { ...configOf(1), log: 'x'.repeat(140_000) })).status).toBe(400);
  const audit = await control.request('GET', '/v1/audit');
  expect(audit.text).toContain('agents.configure');
  expect(audit.text).not.toContain('s3cret-of-the-edge');
  // What the environment of the node decides is for the node to judge.
  const referring = { log: '${LOG_URL}', sources: [{ ...http, token: '${INGEST_TOKEN}' }] };
  const taken = await put(control, path, referring);
  expect(taken.status, taken.text).toBe(204);
  const large = {
    sources: Array.from({ length: 900 }, (_, n) => ({ type: 'file', path: `/${n}${'p'.repeat(150)}`, to: 'x' })),
  };
  const many = await refused({ sources: Array.from({ length: 50 }, () => http) });
  expect(many.split('; ')).toHaveLength(21);
  expect(many).toMatch(/; and \d+ more$/);
  const tooLarge = await put(control, path, large, '*');
  expect(tooLarge.status, tooLarge.text).toBe(413);
});

test('an agent that waits is answered at the change, also by another server; without one with 304', async () => {
  const pipeline = await openTestPipeline();
  const [control, other] = [
    await startControl(pipeline.config, pipeline.dir),
    await startControl(pipeline.config, pipeline.dir),
  ];
  const path = '/v1/agents/edge-1/config';
  const ask = (server: Control, version: string, wait: number): Promise<Answer> =>
    server.request('GET', `${path}?wait=${wait}`, { headers: { 'if-none-match': `"${version}"` } });
  expect((await ask(control, 'none', 0)).status).toBe(304);
  expect((await ask(control, 'none', 1)).status).toBe(304);
  expect((await ask(control, 'other', 50)).json).toMatchObject({ version: 'none' });
  const waiting = [ask(control, 'none', 50), ask(other, 'none', 50)];
  // A change of another agent wakes, and does not answer.
  expect((await put(control, '/v1/agents/edge-2/config', configOf(9))).status).toBe(204);
  expect((await put(control, path, configOf(1))).status).toBe(204);
  for (const answer of await Promise.all(waiting)) expect(answer.json).toMatchObject({ config: configOf(1) });
});

test('a group: its members run with what it has, an own configuration goes before it, and versions are those of the content', async () => {
  const control = await open();
  const status = async (method: string, path: string): Promise<number> => (await control.request(method, path)).status;
  const config = (agent: string): Promise<Answer['json']> => control.get(`/v1/agents/${agent}/config`);
  expect(await status('PUT', '/v1/agent-groups/plant-a/agents/edge-1')).toBe(404);
  for (const group of ['plant-a', 'plant-a', 'plant-b'])
    expect(await status('PUT', `/v1/agent-groups/${group}`)).toBe(204);
  for (const agent of ['edge-1', 'edge-2', 'edge-2'])
    expect(await status('PUT', `/v1/agent-groups/plant-a/agents/${agent}`)).toBe(204);
  expect(await status('PUT', '/v1/agent-groups/plant-b/agents/edge-1')).toBe(409);
  expect((await put(control, '/v1/agent-groups/plant-a/config', configOf(1))).status).toBe(204);
  expect((await put(control, '/v1/agent-groups/plant-a/config', configOf(2))).status).toBe(428);
  const { version } = await config('edge-1');
  expect(await config('edge-2')).toMatchObject({ version, from: 'group', group: 'plant-a', config: configOf(1) });
  expect((await put(control, '/v1/agents/edge-2/config', configOf(5), String(version))).status).toBe(204);
  expect(await config('edge-2')).toMatchObject({ from: 'agent', config: configOf(5) });
  expect((await control.get('/v1/agent-groups'))['items']).toMatchObject([
    { name: 'plant-a', agents: 2, current: { version, changedBy: 'local' }, rollout: null },
    { name: 'plant-b', agents: 0, current: null },
  ]);
  expect(await status('DELETE', '/v1/agent-groups/plant-a')).toBe(409);
  expect((await control.request('DELETE', '/v1/agents/edge-2/config', { headers: { 'if-match': '*' } })).status).toBe(
    204,
  );
  expect(await config('edge-2')).toMatchObject({ version });
  for (const agent of ['edge-1', 'edge-2', 'edge-2'])
    expect(await status('DELETE', `/v1/agent-groups/plant-a/agents/${agent}`)).toBe(204);
  expect(await config('edge-1')).toMatchObject({ version: 'none', group: null });
  expect(await status('DELETE', '/v1/agent-groups/plant-a')).toBe(204);
  expect(await status('GET', '/v1/agent-groups/plant-a/config')).toBe(404);
});

test('each role may do what it may: an agent asks for its own configuration only, an operator does not say what runs on a node', async () => {
  const pipeline = await openTestPipeline();
  const control = await startControl(pipeline.config, pipeline.dir, FIRST);
  const tokens = await tokensOfRoles(control, FIRST);
  const body = { config: configOf(1) };
  const rules: readonly (readonly [method: string, path: string, options: object, allowed: string, status: number])[] =
    [
      ['GET', '/v1/agents/edge-1/config', {}, 'agent viewer operator admin', 200],
      ['GET', '/v1/agents/edge-2/config', {}, 'viewer operator admin', 200],
      ['PUT', '/v1/agents/edge-1/config', { body: { config: {} } }, 'admin', 400],
      ['DELETE', '/v1/agents/edge-1/config', {}, 'admin', 204],
      ['GET', '/v1/agent-groups', {}, 'viewer operator admin', 200],
      ['PUT', '/v1/agent-groups/g', {}, 'admin', 204],
      ['GET', '/v1/agent-groups/g/agents', {}, 'viewer operator admin', 200],
      ['GET', '/v1/agent-groups/g/config', {}, 'viewer operator admin', 200],
      ['PUT', '/v1/agent-groups/none/config', { body }, 'admin', 404],
      ['PUT', '/v1/agent-groups/g/agents/edge-1', {}, 'admin', 204],
      ['DELETE', '/v1/agent-groups/g/agents/edge-1', {}, 'admin', 204],
      ['GET', '/v1/agent-groups/g/rollout', {}, 'viewer operator admin', 404],
      ['POST', '/v1/agent-groups/g/rollout', { body }, 'admin', 409],
      ['POST', '/v1/agent-groups/g/rollout/stop', { body: {} }, 'operator admin', 409],
      ['POST', '/v1/agent-groups/g/rollout/resume', { body: {} }, 'operator admin', 409],
      ['POST', '/v1/agent-groups/g/rollout/abort', { body: {} }, 'operator admin', 409],
      ['POST', '/v1/agent-groups/g/rollout/roll-back', { body: {} }, 'operator admin', 409],
      ['DELETE', '/v1/agent-groups/none', {}, 'admin', 404],
    ];
  for (const [method, path, options, allowed, status] of rules) {
    for (const role of ['viewer', 'operator', 'admin', 'agent']) {
      const answer = await control.request(method, path, { ...options, token: tokens[role] ?? '' });
      const expected = allowed.split(' ').includes(role) ? status : 403;
      expect([role, method, path, answer.status]).toEqual([role, method, path, expected]);
    }
  }
});
