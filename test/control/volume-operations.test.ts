/** What takes long on the volume: it goes on without its request, is followed, and is done once whatever is killed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { volumeToolsOf } from '../../bin/volume-tools.ts';
import type { VolumeOperation } from '../../control/volume-schemas.ts';
import type { VolumeTools } from '../../control/volume-tools.ts';
import { cloneInVolume } from '../../fs-gateway/tools/main.ts';
import { PenstockError } from '../../lib/errors.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { openMeta } from '../../lib/registry.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { openTestVolume } from '../support/fs-volume.ts';
import { HANG_MS } from '../support/hang.ts';
import { tempDir } from '../support/temp.ts';
import { contentAt, makeDirectory, namesIn, walk, writeFile } from '../tools/volume-files.ts';
import { type Answer, Control, startControl } from './control.ts';

const VOLUME = '/v1/volumes/lake';
const BIN = join(import.meta.dirname, '../../bin/penstock');

function placed() {
  const dir = tempDir('volume-operations');
  const metaUrl = `sqlite:${join(dir, 'meta.db')}`;
  const yaml = [
    ...[`log: file:${join(dir, 'log')}`, `store: dir:${join(dir, 'objects')}`, `meta: ${metaUrl}`],
    'datasets: [{ name: unit, topic: unit }]',
  ].join('\n');
  const config = parseConfig(yaml, 'pipeline.yaml', pipelineSchema);
  return { dir, yaml, config, metaUrl, volume: { base: dir, metaUrl, storeDir: join(dir, 'objects') } };
}

type Place = ReturnType<typeof placed>;

const tools = ({ config, dir }: Place): VolumeTools => volumeToolsOf(config, dir);

async function served(place: Place, volumeTools = tools(place)): Promise<Control> {
  return startControl(place.config, place.dir, undefined, { volumeTools });
}

const ask = (control: Control, method: string, path: string, body?: unknown, key?: string): Promise<Answer> =>
  control.request(method, `${VOLUME}${path}`, {
    ...(body !== undefined && { body }),
    ...(key !== undefined && { headers: { 'idempotency-key': key } }),
  });

async function formatted(place: Place, control: Control) {
  expect((await ask(control, 'PUT', '', {})).status).toBe(204);
  const open = await openTestVolume(place.volume);
  const models = await makeDirectory(open, 'models');
  await writeFile(open, 'first', Buffer.from('weights'), models);
  return { open, models };
}

/** What the operation is when it has ended. */
async function ended(control: Control, location: string | null): Promise<VolumeOperation> {
  let seen: Answer['json'] = {};
  await expect
    .poll(async () => (seen = await control.get(location ?? '')), { timeout: HANG_MS })
    .not.toMatchObject({ state: expect.stringMatching(/waiting|running/) as string });
  return seen as unknown as VolumeOperation;
}

test('what takes long is answered 202, followed at its Location, and known by its key', async () => {
  const place = placed();
  const held = Promise.withResolvers<undefined>();
  const real = tools(place);
  const control = await served(place, {
    ...real,
    clone: async (from, to, hooks) => {
      hooks.onProgress('copied', 7);
      await held.promise;
      return real.clone(from, to, hooks);
    },
  });
  await formatted(place, control);
  const body = { from: '/models', to: '/copy' };
  const begun = await ask(control, 'POST', '/clones?wait=0', body, 'k');
  const location = begun.headers.get('location');
  expect([begun.status, location]).toEqual([202, `${VOLUME}/operations/${String(begun.json['id'])}`]);
  await expect
    .poll(() => control.get(location ?? ''))
    .toMatchObject({
      ...{ operation: 'volumes.clone', target: '/models -> /copy', by: 'local', state: 'running' },
      ...{ progress: { phase: 'copied', done: 7 }, result: null, error: null },
    });
  // What is asked for meanwhile waits, its repeats do not begin it again, and lists do not wait.
  const waits = await ask(control, 'POST', '/snapshots?wait=0', { name: 'a' });
  expect([waits.status, waits.json['state']]).toEqual([202, 'waiting']);
  expect((await ask(control, 'POST', '/clones?wait=0', body, 'k')).json['id']).toBe(begun.json['id']);
  expect((await ask(control, 'GET', '/snapshots')).json['items']).toEqual([]);
  expect((await ask(control, 'GET', '/operations')).json['items']).toMatchObject([
    { operation: 'snapshots.create' },
    { operation: 'volumes.clone', state: 'running' },
  ]);
  held.resolve(undefined);
  const copied = { path: '/copy', files: 1, directories: 1, bytes: 7, consistent: true };
  expect(await ended(control, location)).toMatchObject({ state: 'done', result: copied });
  expect(await ended(control, waits.headers.get('location'))).toMatchObject({ state: 'done' });
  const repeated = await ask(control, 'POST', '/clones', body, 'k');
  expect([repeated.status, repeated.json]).toEqual([201, copied]);
  const other = await ask(control, 'POST', '/clones', { ...body, to: '/other' }, 'k');
  expect([other.status, other.text]).toEqual([409, expect.stringContaining('Idempotency-Key')]);

  // What fails says so the same way as if it had been waited for, also again.
  const failed = await ask(control, 'POST', '/clones?wait=0', body, 'l');
  expect(await ended(control, failed.headers.get('location'))).toMatchObject({
    ...{ state: 'failed', result: null },
    error: { status: 409, code: 'exists', detail: "'/copy' exists" },
  });
  for (const key of ['l', 'm']) {
    const refused = await ask(control, 'POST', '/clones', body, key);
    expect([refused.status, refused.json]).toMatchObject([
      409,
      { type: 'urn:penstock:problem:exists', detail: "'/copy' exists" },
    ]);
  }
  // The audit log says what came of each, too, the newest first.
  const statuses = [409, 409, 409, 409, 201, 201, 201];
  await expect
    .poll(async () => (await control.get('/v1/audit?operation=volumes.clone'))['items'])
    .toMatchObject(statuses.map((status) => ({ status })));
  expect((await control.request('GET', `${VOLUME}/operations/${crypto.randomUUID()}`)).status).toBe(404);
});

test('a copy is done when its record says so: a server that dies in between leaves no doubt', async () => {
  const place = placed();
  const held = Promise.withResolvers<undefined>();
  const real = tools(place);
  const first = await served(place, {
    ...real,
    clone: async (...copy) => {
      const report = await real.clone(...copy);
      await held.promise;
      return report;
    },
  });
  const { open } = await formatted(place, first);
  const body = { from: '/models', to: '/copy' };
  const { headers } = await ask(first, 'POST', '/clones?wait=0', body, 'k');
  await expect.poll(() => namesIn(open, 1n)).toContain('copy');
  const second = await served(place);
  expect(await second.get(headers.get('location') ?? '')).toMatchObject({ state: 'done', result: { files: 1 } });
  expect((await ask(second, 'POST', '/clones', body, 'k')).status).toBe(201);
  held.resolve(undefined);
});

test('a copy whose link was made, but whose tool fails behind it, is done: also for a repeat', async () => {
  const place = placed();
  const real = tools(place);
  const control = await served(place, {
    ...real,
    clone: async (...copy) => {
      await real.clone(...copy);
      throw new PenstockError('unavailable', 'the answer of the commit was lost');
    },
  });
  await formatted(place, control);
  const body = { from: '/models', to: '/copy' };
  for (const time of ['first', 'repeat']) {
    const answer = await ask(control, 'POST', '/clones', body, 'k');
    expect([answer.status, answer.json], time).toMatchObject([201, { path: '/copy', files: 1 }]);
  }
  expect((await ask(control, 'GET', '/operations')).json['items']).toMatchObject([{ state: 'done', error: null }]);
});

test('what was begun again elsewhere, because its server had lost its session, is for the other server to say', async () => {
  const place = placed();
  const held = Promise.withResolvers<undefined>();
  const real = tools(place);
  const first = await served(place, {
    ...real,
    clone: async (...copy) => {
      await held.promise;
      return real.clone(...copy);
    },
  });
  await formatted(place, first);
  const body = { from: '/models', to: '/copy' };
  const waited = ask(first, 'POST', '/clones?wait=30', body, 'k');
  const sessionsOf = async (control: Control): Promise<number[]> =>
    ((await control.get('/v1/sessions'))['items'] as { id: number; kind: string }[])
      .filter(({ kind }) => kind === 'control')
      .map(({ id }) => id);
  const [own] = await sessionsOf(first);
  await expect.poll(() => first.get(`${VOLUME}/operations`)).toMatchObject({ items: [{ state: 'running' }] });
  const second = await served(place);
  expect((await second.request('DELETE', `/v1/sessions/${String(own)}`)).status).toBe(204);
  const again = await ask(second, 'POST', '/clones', body, 'k');
  expect([again.status, again.json]).toMatchObject([201, { files: 1 }]);
  // The first has a session again before it goes on, and finds that there is such a copy.
  await expect.poll(() => sessionsOf(second), { timeout: HANG_MS }).toHaveLength(2);
  held.resolve(undefined);
  const answer = await waited;
  expect([answer.status, answer.json]).toEqual([201, again.json]);
  for (const server of [first, second]) {
    expect(await server.get(`${VOLUME}/operations`)).toMatchObject({ items: [{ state: 'done', error: null }] });
    expect((await ask(server, 'POST', '/clones', body, 'k')).status).toBe(201);
  }
});

test('each change that may go on without its request takes a key, and says so in the document', async () => {
  const place = placed();
  const control = await served(place);
  const { paths } = (await control.get('/openapi.json')) as unknown as {
    paths: Record<
      string,
      Record<string, { operationId: string; parameters: { name: string }[]; responses: Record<string, object> }>
    >;
  };
  const changes = Object.values(paths)
    .flatMap((methods) => Object.values(methods))
    .filter(({ responses, parameters }) => '202' in responses && parameters.some(({ name }) => name === 'wait'));
  expect(changes).toHaveLength(6);
  for (const { operationId, parameters, responses } of changes) {
    expect(responses['202'], operationId).toMatchObject({ headers: { Location: { schema: { type: 'string' } } } });
    expect(
      parameters.map(({ name }) => name),
      operationId,
    ).toContain('idempotency-key');
  }
});

test('what is cancelled when it is done already, and its tool has not closed yet, is done, and the server answers others meanwhile', async () => {
  const place = placed();
  const held = Promise.withResolvers<undefined>();
  const real = tools(place);
  const control = await served(place, {
    ...real,
    clone: async (...copy) => {
      const report = await real.clone(...copy);
      await held.promise;
      return report;
    },
  });
  const { open } = await formatted(place, control);
  const { headers } = await ask(control, 'POST', '/clones?wait=0', { from: '/models', to: '/copy' }, 'k');
  await expect.poll(() => namesIn(open, 1n), { timeout: HANG_MS }).toContain('copy');
  const location = headers.get('location') ?? '';
  const late = control.request('POST', `${location}/cancel`);
  expect((await ask(control, 'GET', '/snapshots')).status).toBe(200);
  held.resolve(undefined);
  const answer = await late;
  expect([answer.status, answer.text]).toEqual([409, expect.stringContaining('is over: done')]);

  // A record of a version that knew no cancellation.
  const engine = await openMeta(place.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  const key = { bucket: '{lake}operations', field: location.slice(location.lastIndexOf('/') + 1) };
  const [stored] = await engine.read([key]);
  const { cancelBy, ...older } = JSON.parse(Buffer.from(stored?.value ?? '').toString()) as Record<string, unknown>;
  expect(cancelBy).toBe(null);
  await engine.commit({ write: [{ key, value: Buffer.from(JSON.stringify(older)) }] });
  expect(await control.get(location)).toMatchObject({ state: 'done' });
});

/** A copy that goes on until its progress is refused. */
const untilStopped: VolumeTools['clone'] = (from, to, { onProgress }) =>
  new Promise((_, reject) => {
    const step = (): void => {
      try {
        onProgress('copied', 1);
        setTimeout(step, 10);
      } catch (error) {
        reject(error instanceof Error ? error : new Error(String(error)));
      }
    };
    step();
  });

test('what is cancelled ends: what waits at once, what runs at its next step, by whichever server it is asked', async () => {
  const place = placed();
  const first = await served(place, { ...tools(place), clone: untilStopped });
  const { open } = await formatted(place, first);
  const second = await served(place);
  const body = { from: '/models', to: '/copy' };
  const runs = await ask(first, 'POST', '/clones?wait=0', body, 'k');
  const waited = ask(first, 'POST', '/snapshots?wait=30', { name: 'a' }, 'l');
  await expect
    .poll(() => first.get(`${VOLUME}/operations`), { timeout: HANG_MS })
    .toMatchObject({ items: [{ state: 'waiting' }, { state: 'running' }] });
  const [waits] = (await first.get(`${VOLUME}/operations`))['items'] as { id: string }[];
  const cancel = (control: Control, location: string): Promise<Answer> => control.request('POST', `${location}/cancel`);

  const error = { status: 409, detail: expect.stringContaining('cancelled by local') as string };
  expect((await cancel(first, `${VOLUME}/operations/${String(waits?.id)}`)).json).toMatchObject({
    ...{ state: 'cancelled', error },
  });
  expect((await waited).json).toMatchObject(error);
  const location = runs.headers.get('location') ?? '';
  expect((await cancel(second, location)).status).toBe(200);
  expect(await ended(second, location)).toMatchObject({ state: 'cancelled', error });
  // Once more is the same, a repeat of the request is told so, and what is asked for anew is done.
  expect((await cancel(first, location)).json).toMatchObject({ state: 'cancelled' });
  const repeated = await ask(second, 'POST', '/clones', body, 'k');
  expect([repeated.status, repeated.json]).toMatchObject([409, error]);
  expect(await namesIn(open, 1n)).not.toContain('copy');
  const anew = await ask(second, 'POST', '/clones', body, 'm');
  expect([anew.status, anew.json]).toMatchObject([201, { files: 1 }]);
  const [done] = (await second.get(`${VOLUME}/operations`))['items'] as { id: string }[];
  const late = await cancel(first, `${VOLUME}/operations/${String(done?.id)}`);
  expect([late.status, late.text]).toEqual([409, expect.stringContaining('is over: done')]);
});

test('a server that ends leaves what it did as interrupted, and its repeat does it', async () => {
  const place = placed();
  const real = tools(place);
  const first = await served(place, { ...real, clone: untilStopped });
  await formatted(place, first);
  const body = { from: '/models', to: '/copy' };
  const begun = await ask(first, 'POST', '/clones?wait=0', body, 'k');
  const waits = await ask(first, 'POST', '/snapshots?wait=0', { name: 'a' });
  await first.stop();
  const second = await served(place);
  for (const { headers } of [begun, waits]) {
    expect(await second.get(headers.get('location') ?? '')).toMatchObject({
      ...{ state: 'interrupted', result: null },
      error: { status: 503, detail: expect.stringContaining('ask for it again') as string },
    });
  }
  expect((await ask(second, 'POST', '/clones', body, 'k')).json).toMatchObject({ files: 1 });
});

test('the server is killed in the middle of a copy that ctl follows: nothing of it is seen, ctl says so, and its repeat copies all', async () => {
  const place = placed();
  const file = join(place.dir, 'pipeline.yaml');
  writeFileSync(file, place.yaml);
  const serve = async (port = '0'): Promise<{ readonly control: Control; readonly kill: () => Promise<void> }> => {
    const child = spawn(BIN, ['serve', '-c', file, '--port', port], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    const [{ url }] = (await once(child, 'message', { signal: AbortSignal.timeout(HANG_MS) })) as [{ url: string }];
    const kill = async (): Promise<void> => {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
    };
    return { control: new Control({ url, loopbackOnly: true }, kill), kill };
  };
  const first = await serve();
  const { open, models } = await formatted(place, first.control);
  for (let index = 1; index < 100; index++) await writeFile(open, `f${index}`, Buffer.from('weights'), models);
  await makeDirectory(open, 'large');
  await makeDirectory(open, 'larger');
  const clone = (source: string, target: string): Promise<unknown> =>
    cloneInVolume({ metaUrl: place.metaUrl, name: 'lake', source, target });
  for (let index = 0; index < 10; index++) await clone('/models', `/large/${index}`);
  for (let index = 0; index < 4; index++) await clone('/large', `/larger/${index}`);

  const ctl = (url: string, ...args: string[]) => {
    const child = spawn(BIN, ['ctl', '--url', url, 'volumes', 'clone', 'lake', ...args, '--json'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    const said = { stdout: '', stderr: '' };
    child.stdout.on('data', (chunk) => (said.stdout += String(chunk)));
    child.stderr.on('data', (chunk) => (said.stderr += String(chunk)));
    return once(child, 'close').then(([status]) => ({ status: status as number, ...said }));
  };
  const args = ['--from', '/larger', '--to', '/copy', '--wait', '0', '--idempotency-key', 'k'];
  const followed = ctl(first.control.url, ...args);
  await expect
    .poll(() => first.control.get(`${VOLUME}/operations`), { interval: 20, timeout: HANG_MS })
    .toMatchObject({ items: [{ state: 'running', progress: { phase: 'copied' } }] });
  await first.kill();
  expect(await namesIn(open, 1n)).not.toContain('copy');

  const second = await serve(new URL(first.control.url).port);
  // Its lease of half a minute need not be waited for.
  const { items } = await second.control.get('/v1/sessions');
  for (const { id } of (items as { id: number; kind: string; pid: number }[]).filter(
    ({ kind }) => kind === 'control',
  )) {
    await second.control.request('DELETE', `/v1/sessions/${id}`);
  }
  expect(await followed).toMatchObject({
    status: 1,
    stdout: '',
    stderr: expect.stringMatching(/interrupted.*ask for it again/) as string,
  });
  const again = await ctl(second.control.url, ...args);
  expect([again.status, again.stderr.replace(/^(copied: \d+\n)*/, '')]).toEqual([0, '']);
  expect(JSON.parse(again.stdout)).toEqual({
    path: '/copy',
    files: 4000,
    directories: 45,
    bytes: 28_000,
    consistent: true,
  });
  const later = await openTestVolume(place.volume, 'later');
  expect(String(await contentAt(later, '/copy/3/9/f99'))).toBe('weights');
  expect(await namesIn(later, await walk(later, '/copy/3/9'))).toHaveLength(100);
});

test('ctl says what it follows where something else answers than the server, as the login page of a proxy', async () => {
  const location = '/v1/volumes/lake/operations/1';
  const json = { 'content-type': 'application/json' };
  const paths = { '/v1/x': { post: { operationId: 'x.make', summary: 'x', parameters: [] } } };
  const proxy = createServer(({ url, method }, response) => {
    if (url === '/openapi.json') response.writeHead(200, json).end(JSON.stringify({ paths }));
    else if (method === 'POST') response.writeHead(202, { ...json, location }).end('{}');
    else response.writeHead(200, { 'content-type': 'text/html' }).end('<html>');
  }).listen(0, '127.0.0.1');
  onTestFinished(() => void proxy.close());
  await once(proxy, 'listening');
  const { port } = proxy.address() as AddressInfo; // it listens on TCP
  const child = spawn(BIN, ['ctl', '--url', `http://127.0.0.1:${port}`, 'x', 'make'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let said = '';
  child.stderr.on('data', (chunk) => (said += String(chunk)));
  expect((await once(child, 'close', { signal: AbortSignal.timeout(HANG_MS) }))[0]).toBe(1);
  expect(said).toMatch(
    /^penstock: \S+\/operations\/1 answers what is no operation of Penstock; .*`penstock ctl operations get lake 1`.*\n$/,
  );
});
