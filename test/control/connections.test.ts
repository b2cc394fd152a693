/** Connections: drivers, sealed credentials, tests and vendors' calls, against a real Redis and a real S3. */
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { HostRules } from '../../control/connect/hosts.ts';
import { Tenants } from '../../control/auth/tenants.ts';
import { ConnectionRecords, type ConnectionForm } from '../../control/connect/records.ts';
import { Sealer } from '../../control/connect/seal.ts';
import { VendorCalls } from '../../control/connect/vendor-calls.ts';
import { Connections } from '../../control/connections.ts';
import { systemClock } from '../../lib/clock.ts';
import { s3Vendor } from '../../lib/store/s3/s3-vendor.ts';
import { openTestPipeline } from '../compactor/pipeline.ts';
import { startRedis } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { startVersitygw } from '../support/versitygw.ts';
import { operationsOf, requestOf, send } from './api-walk.ts';
import { type Answer, type Control, startControl, tokensOfRoles } from './control.ts';

const FIRST = 'first-administrator-token-0123456789';
const newKey = (): string => randomBytes(32).toString('base64');

interface Served {
  readonly control: Control;
  readonly dir: string;
  readonly logged: string[];
  readonly ask: (method: string, path: string, body?: unknown, headers?: Record<string, string>) => Promise<Answer>;
}

async function served(sealKeys = newKey(), rest = ''): Promise<Served> {
  const pipeline = await openTestPipeline('', rest);
  const logged: string[] = [];
  const control = await startControl(pipeline.config, pipeline.dir, FIRST, {
    sealKeys,
    onLog: (line) => logged.push(line),
  });
  const ask: Served['ask'] = (method, path, body, headers) =>
    control.request(method, path, { token: FIRST, body, ...(headers === undefined ? {} : { headers }) });
  return { control, dir: pipeline.dir, logged, ask };
}

test('credentials open with the key that sealed them, for what they were sealed for, and not when they were touched', () => {
  const [old, young] = [newKey(), newKey()];
  const sealed = Sealer.parse(old, 'test').seal('hunter2', 'a');
  expect(JSON.stringify(sealed)).not.toContain('hunter2');
  const both = Sealer.parse(`${young}\n${old}\n`, 'test');
  expect(both.open(sealed, 'a')).toBe('hunter2');
  expect(both.seal('x', 'a').keyId).not.toBe(sealed.keyId);
  expect(() => both.open(sealed, 'b')).toThrow('of another connection');
  for (const part of ['nonce', 'tag', 'data'] as const) {
    const touched = Buffer.from(sealed[part], 'base64');
    touched.writeUInt8(touched.readUInt8(0) ^ 1, 0);
    expect(() => both.open({ ...sealed, [part]: touched.toString('base64') }, 'a')).toThrow('changed');
  }
  expect(() => both.open({ ...sealed, tag: sealed.tag.slice(0, 8) }, 'a')).toThrow();
  expect(() => Sealer.parse(young, 'test').open(sealed, 'a')).toThrow(`sealed with key ${sealed.keyId}`);
  expect(() => Sealer.parse('c2hvcnQ=', 'PENSTOCK_SEAL_KEYS')).toThrow('key 1: expected 32 bytes');
});

test('drivers are described from the registry: forms, options, credentials and calls', async () => {
  const { control } = await served();
  const drivers = (await control.get('/v1/drivers', FIRST))['items'] as readonly Record<string, never>[];
  const byScheme = new Map(drivers.map((driver) => [driver['scheme'] as unknown as string, driver]));
  expect([...byScheme.keys()].sort()).toEqual(
    ['dir', 'file', 'kafka', 'redis', 'redis+sentinel', 'rediss', 's3', 'sqlite'].sort(),
  );
  expect(byScheme.get('dir')).toMatchObject({ port: 'store', form: 'dir:PATH', credentials: null, calls: [] });
  expect(byScheme.get('s3')).toMatchObject({
    credentials: ['accessKeyId*', 'secretAccessKey*'],
    options: { endpoint: expect.stringContaining('URL') as string },
  });
  expect(byScheme.get('kafka')?.['calls']).toContainEqual(
    expect.objectContaining({ name: 'AlterTopicConfig', changes: true }),
  );
});

test('a connection is made, changed by who saw it last, and forgotten; a repeat makes it once', async () => {
  const { ask } = await served();
  const body = {
    name: 'archive',
    address: 's3://archive?endpoint=http://127.0.0.1:1',
    region: 'eu',
    tags: { team: 'vision' },
    price: { currency: 'EUR', storageGBMonth: 0.02 },
    credentials: { accessKeyId: 'AKIA-some-key', secretAccessKey: 'hunter2-secret' },
  };
  const made = await ask('POST', '/v1/connections', body, { 'idempotency-key': 'k' });
  expect(made.status, made.text).toBe(201);
  expect(made.json).toMatchObject({ driver: 's3', credentials: ['accessKeyId', 'secretAccessKey'], tags: body.tags });
  expect((await ask('POST', '/v1/connections', body, { 'idempotency-key': 'k' })).json).toEqual(made.json);
  expect((await ask('POST', '/v1/connections', body)).status).toBe(409);
  const { name, credentials, ...rest } = body;
  const path = `/v1/connections/${name}`;
  expect((await ask('PUT', path, rest)).status).toBe(428);
  const etag = (await ask('GET', path)).headers.get('etag') ?? '';
  expect((await ask('PUT', path, { ...rest, tags: {} }, { 'if-match': etag })).status).toBe(204);
  expect((await ask('PUT', path, rest, { 'if-match': etag })).status).toBe(412);
  expect((await ask('GET', '/v1/connections?tag=team')).json['items']).toEqual([]);
  // What is kept is for the old URL only: nobody sends it elsewhere.
  const elsewhere = { ...rest, address: 's3://archive?endpoint=http://127.0.0.1:2' };
  const moved = await ask('PUT', path, elsewhere, { 'if-match': '*' });
  expect([moved.status, moved.json['detail']]).toEqual([400, expect.stringContaining('send them again') as string]);
  expect((await ask('PUT', path, { ...elsewhere, credentials }, { 'if-match': '*' })).status).toBe(204);
  expect((await ask('DELETE', path, undefined, { 'if-match': '*' })).status).toBe(204);
  expect((await ask('GET', path)).status).toBe(404);
});

test('what cannot be is refused with what is expected', async () => {
  const { ask, control } = await served();
  const cases: readonly (readonly [url: string, credentials: object | undefined, status: number, message: string])[] = [
    ['dir:/etc', undefined, 400, 'kafka://HOST:PORT'],
    ['file:///etc/passwd', undefined, 400, 'kafka://HOST:PORT'],
    ['nonsense', undefined, 400, 'kafka://HOST:PORT'],
    ['redis://user:hunter2@h:1/0', undefined, 400, 'sealed'],
    ['redis://h:1/0?secret=x', undefined, 400, 'unknown option'],
    ['rediss://h:1/0?ca=/etc/passwd', undefined, 400, 'may not name files'],
    ['kafka://h:1?sasl=plain&user=u&passwordFile=/etc/passwd', undefined, 400, 'passwordFile'],
    ['s3://b?region=eu', { accessKeyId: 'AKIA' }, 400, 'secretAccessKey'],
    ['s3://b?region=eu', { accessKeyId: 'AKIA', secretAccessKey: 's', extra: 'e' }, 400, 'another one'],
    ['s3://b?endpoint=http://user:hunter2@h', { accessKeyId: 'AKIA', secretAccessKey: 's' }, 400, '%40'],
    [
      's3://b?endpoint=http%3A%2F%2Fuser:hunter2%40h',
      { accessKeyId: 'AKIA', secretAccessKey: 's' },
      400,
      'no credentials',
    ],
    ['redis://user:12/hunter2@h/0', undefined, 400, '%2F'],
    ['s3://b?endpoint=http://', { accessKeyId: 'AKIA', secretAccessKey: 's' }, 400, 'expected http://...'],
    ['s3://b/%zz?region=eu', { accessKeyId: 'AKIA', secretAccessKey: 's' }, 400, 'kafka://HOST:PORT'],
    ['kafka://%zz:1', undefined, 400, 'kafka://HOST:PORT'],
    ['redis://100.100.100.200/0', undefined, 403, 'metadata'],
    ['redis://[64:ff9b::a9fe:a9fe]/0', undefined, 403, 'metadata'],
    ['redis://169.254.169.254/0', undefined, 403, 'link-local'],
    ['s3://b?endpoint=http://[fe80::1]:80', { accessKeyId: 'AKIA', secretAccessKey: 's' }, 403, 'link-local'],
  ];
  for (const [url, credentials, status, message] of cases) {
    const answer = await ask('POST', '/v1/connections', { name: 'x', address: url, credentials });
    expect([url, answer.status, answer.json['detail']]).toEqual([
      url,
      status,
      expect.stringContaining(message) as string,
    ]);
    expect(answer.text).not.toContain('hunter2');
  }
  const keyless = await served('');
  const unsealed = await keyless.ask('POST', '/v1/connections', {
    name: 'x',
    address: 'redis://127.0.0.1:1/0',
    credentials: { password: 'hunter2' },
  });
  expect([unsealed.status, unsealed.json['detail']]).toEqual([409, expect.stringContaining('PENSTOCK_SEAL_KEYS')]);
  expect((await control.get('/v1/connections', FIRST))['items']).toEqual([]);
});

test('a tenant connects to the hosts that the platform names, and to what the platform made for it', async () => {
  const { ask, control } = await served(
    newKey(),
    'serve: { tenants: [team-a], connections: { hosts: ["*.example.com", 127.0.0.1] } }',
  );
  const made = await ask('POST', '/v1/tokens?tenant=team-a', { name: 'ann', role: 'admin' });
  const token = String(made.json['token']);
  const create = async (name: string, host: string): Promise<number> =>
    (await control.request('POST', '/v1/connections', { token, body: { name, address: `redis://${host}:1/0` } }))
      .status;
  expect(await create('team-a.one', 'redis.example.com')).toBe(201);
  expect(await create('team-a.two', 'redis.internal')).toBe(403);
  expect(await create('team-a.two', 'example.com')).toBe(403);
  expect(await create('three', '127.0.0.1')).toBe(400);
  expect(
    (await ask('POST', '/v1/connections?tenant=team-a', { name: 'team-a.four', address: 'redis://localhost:1/0' }))
      .status,
  ).toBe(201);
  const tested = await control.request('POST', '/v1/connections/team-a.four/test', { token });
  expect([tested.status, tested.json['ok'], tested.json['problem']]).toEqual([
    200,
    false,
    expect.not.stringContaining('serve.connections.hosts') as string,
  ]);
});

test('an address that a tenant said stays bound to its hosts, whoever changes something else', async () => {
  const pipeline = await openTestPipeline();
  const ports = await Connections.open(pipeline.config, pipeline.dir, systemClock);
  onTestFinished(() => ports.close());
  const records = new ConnectionRecords(ports, Sealer.parse('', 'test'), new Tenants([]));
  const form: ConnectionForm = { url: 'kafka://a.example.com:1', region: '', tags: {} };
  const changed = async (next: ConnectionForm, byTenant: boolean): Promise<boolean> => {
    await records.change('team-a.x', next, { name: 'n', byTenant, nowMs: 1 }, () => undefined);
    return (await records.get('team-a.x')).byTenant;
  };
  await records.create('team-a.x', form, { name: 'n', byTenant: true, nowMs: 1, id: '1' });
  expect(await changed({ ...form, tags: { seen: 'yes' } }, false)).toBe(true);
  expect(await changed({ ...form, url: 'kafka://internal:1' }, false)).toBe(false);
  expect(await changed(form, true)).toBe(true);
});

test('the host of a bucket is judged as the host of its endpoint is', () => {
  const hosts = (url: string): readonly string[] => s3Vendor.hosts(new URL(url));
  expect(hosts('s3://b?endpoint=http://h:9000')).toEqual(['h']);
  expect(hosts('s3://b?endpoint=http://h:9000&pathStyle=false')).toEqual(['h', 'b.h']);
});

test('a server that announces gigabytes is not waited for', async () => {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    // A reply of 500 MB, or for Kafka a frame of 606 MB.
    socket.write('$500000000\r\n');
    const more = (): void => {
      while (!socket.destroyed && socket.write(Buffer.alloc(65_536)));
    };
    socket.on('drain', more);
    socket.once('data', more);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  const { port } = server.address() as AddressInfo; // it listens on one
  const calls = new VendorCalls(new HostRules([]));
  for (const scheme of ['redis', 'kafka']) {
    const target = { url: `${scheme}://127.0.0.1:${port}`, credentials: {}, isTenants: false, party: null };
    expect([scheme, await calls.test(() => target)]).toEqual([
      scheme,
      expect.objectContaining({ ok: false, problem: expect.stringContaining('bytes') as string }),
    ]);
  }
});

describe.skipIf(missing('redis-server', 'versitygw'))('with a real Redis and a real S3', () => {
  const PASSWORD = 'redis-hunter2-password';

  async function withServices() {
    const keys = newKey();
    const all = await served(keys);
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    await redis.admin.config('SET', 'requirepass', PASSWORD);
    await redis.admin.auth(PASSWORD);
    const s3 = await startVersitygw();
    onTestFinished(() => s3.stop());
    s3.createBucket('archive');
    const make = async (name: string, url: string, credentials: object): Promise<void> => {
      const made = await all.ask('POST', '/v1/connections', { name, address: url, credentials });
      expect(made.status, made.text).toBe(201);
    };
    const { accessKeyId, secretAccessKey } = s3;
    await make('cache', redis.url(), { password: PASSWORD });
    await make('archive', `s3://archive/cold?endpoint=${s3.endpoint}`, { accessKeyId, secretAccessKey });
    const call = (name: string, what: string, parameters: object = {}, token = FIRST): Promise<Answer> =>
      all.control.request('POST', `/v1/connections/${name}/call`, { token, body: { call: what, parameters } });
    const probe = async (name: string): Promise<Answer['json']> =>
      (await all.ask('POST', `/v1/connections/${name}/test`)).json;
    return { ...all, keys, redis, s3, make, call, probe };
  }

  test('a test says what failed and what to do; calls are the vendor’s own, within the connection', async () => {
    const { redis, s3, make, call, probe, control } = await withServices();
    expect(await probe('cache')).toMatchObject({ ok: true, problem: null });
    expect(await probe('archive')).toMatchObject({ ok: true, problem: null });
    const wrong = { accessKeyId: s3.accessKeyId, secretAccessKey: 'wrong-hunter2' };
    await make('wrong', `s3://archive?endpoint=${s3.endpoint}`, wrong);
    await make('nowhere', `s3://none?endpoint=${s3.endpoint}`, { ...wrong, secretAccessKey: s3.secretAccessKey });
    await make('stranger', redis.url(), { password: 'wrong-hunter2' });
    expect(await probe('wrong')).toMatchObject({ ok: false, remedy: expect.stringContaining('credentials') as string });
    expect(await probe('nowhere')).toMatchObject({ ok: false, problem: expect.stringContaining("'none'") as string });
    expect(await probe('stranger')).toMatchObject({
      ok: false,
      remedy: expect.stringContaining('credentials') as string,
    });

    expect((await call('cache', 'DBSIZE')).json['answer']).toEqual({ reply: 0 });
    expect((await call('cache', 'INFO', { section: 'memory' })).text).toContain('used_memory');
    for (const command of ['CONFIG GET', 'EVAL', 'FLUSHALL', 'GET', 'constructor']) {
      expect([command, (await call('cache', command)).status]).toEqual([command, 400]);
    }
    expect((await call('cache', 'SCAN', { count: 5000 })).status).toBe(400);
    // A password of digits stands in numbers, too: the answer stays JSON.
    await redis.admin.config('SET', 'requirepass', '1000');
    await make('digits', redis.url(), { password: '1000' });
    await redis.admin.set('k', 'x'.repeat(10_001));
    expect((await call('digits', 'STRLEN', { key: 'k' })).json['answer']).toEqual({ reply: 10_001 });
    await redis.admin.del('k');
    const listed = await call('archive', 'ListObjectsV2', { MaxKeys: 10 });
    expect([listed.status, listed.json['answer']]).toEqual([
      200,
      expect.objectContaining({ KeyCount: 0, Prefix: 'cold/' }),
    ]);
    expect((await call('archive', 'HeadObject', { Key: 'hot/x' })).status).toBe(400);
    expect((await call('archive', 'HeadObject', { Key: 'cold/../hot/x' })).status).toBe(400);
    // Rules of the whole bucket would expire what others keep beside this prefix.
    const rules = { Rules: [{ Status: 'Enabled', Filter: { Prefix: '' }, Expiration: { Days: 1 } }] };
    const ruled = await call('archive', 'PutBucketLifecycleConfiguration', { LifecycleConfiguration: rules });
    expect([ruled.status, ruled.json['detail']]).toEqual([400, expect.stringContaining('whole bucket') as string]);
    expect((await call('archive', 'HeadObject', { Key: 'cold/x', Bucket: 'other' })).status).toBe(400);
    expect((await call('archive', 'HeadObject', { Key: 'cold/x' })).status).toBe(502);
    const tokens = await tokensOfRoles(control, FIRST);
    const tagging = { Key: 'cold/x', Tagging: { TagSet: [] } };
    expect((await call('archive', 'PutObjectTagging', tagging, tokens['operator'])).status).toBe(403);
    expect((await call('archive', 'HeadBucket', {}, tokens['operator'])).status).toBe(200);
    expect((await call('archive', 'HeadBucket', {}, tokens['viewer'])).status).toBe(403);
  });

  test('no answer, no audit record, no log line and no byte of the metadata holds a secret; a new key takes over', async () => {
    const { control, dir, keys, logged, redis, s3, call, probe, ask } = await withServices();
    await probe('cache');
    await call('cache', 'INFO');
    await call('archive', 'ListObjectsV2');
    await redis.stop();
    expect(await probe('cache')).toMatchObject({ ok: false });
    const secrets = [PASSWORD, s3.secretAccessKey, s3.accessKeyId, keys];
    const operations = (await operationsOf(control)).filter(({ method }) => method === 'GET');
    for (const connection of ['cache', 'archive']) {
      for (const operation of operations) {
        const names = { connection, model: 'm', dataset: 'plant.vibration' };
        const { text } = await send(control, requestOf(operation, names, true), FIRST);
        for (const secret of secrets)
          expect([operation.operationId, text.includes(secret)]).toEqual([operation.operationId, false]);
      }
    }
    const audit = (await control.get('/v1/audit', FIRST))['items'] as readonly {
      readonly operation: string;
      detail: string;
    }[];
    expect(audit.map(({ operation }) => operation)).toContain('connections.call');
    const stored = readdirSync(dir).filter((name) => name.startsWith('meta.db'));
    const texts = [...stored.map((name) => readFileSync(join(dir, name), 'latin1')), ...logged];
    for (const secret of secrets) expect(texts.some((text) => text.includes(secret))).toBe(false);
    expect(texts.some((text) => text.includes('"keyId"'))).toBe(true);

    const before = (await ask('GET', '/v1/connections/archive')).json['keyId'];
    const { config } = await openTestPipeline();
    const here = {
      ...config,
      ...Object.fromEntries(['log', 'store', 'meta'].map((port) => [port, portOf(dir, port)])),
    };
    const young = newKey();
    const rotated = await startControl(here, dir, undefined, { sealKeys: `${young}\n${keys}` });
    const asked = (path: string): Promise<Answer> => rotated.request('POST', path, { token: FIRST });
    expect((await asked('/v1/connections/archive/test')).json).toMatchObject({ ok: true });
    const strange = await startControl(here, dir, undefined, { sealKeys: newKey() });
    const locked = await strange.request('POST', '/v1/connections/archive/test', { token: FIRST });
    expect(locked.json).toMatchObject({ ok: false, remedy: expect.stringContaining('add the key') as string });
    expect((await strange.request('POST', '/v1/reseal', { token: FIRST })).status).toBe(409);
    expect((await asked('/v1/reseal')).json).toEqual({ resealed: 2 });
    expect((await asked('/v1/reseal')).json).toEqual({ resealed: 0 });
    const last = await startControl(here, dir, undefined, { sealKeys: young });
    const tested = await last.request('POST', '/v1/connections/archive/test', { token: FIRST });
    expect(tested.json).toMatchObject({ ok: true });
    expect((await last.get('/v1/connections/archive', FIRST))['keyId']).not.toBe(before);
  });
});

const portOf = (dir: string, port: string): string =>
  ({ log: `file:${join(dir, 'log')}`, store: `dir:${join(dir, 'objects')}` })[port] ?? `sqlite:${join(dir, 'meta.db')}`;
