/** What is done to the volume through the API: the tools of the file system, by their own tests; here that they are reached, by whom, and what is answered. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { formatVolume } from '../../fs-gateway/main.ts';
import { caller, openTestVolume, startServices, type Services } from '../support/fs-volume.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { contentAt, makeDirectory, removeFile, writeFile } from '../tools/volume-files.ts';
import { type Answer, startControl, tokensOfRoles } from './control.ts';

const FIRST = 'first-administrator-token-0123456789';
const VOLUME = '/v1/volumes/lake';
/** More than is kept in the metadata: an object of the store. */
const LARGE = Buffer.alloc(100_000, 'penstock');
const WHOLE_FILE = { start: 0n, end: 2n ** 63n - 1n };

/** Where metadata and objects are. */
interface Place {
  readonly metaUrl: string;
  readonly storeUrl: string;
}

const here = (dir: string): Place => ({
  metaUrl: `sqlite:${join(dir, 'meta.db')}`,
  storeUrl: `dir:${join(dir, 'objects')}`,
});

async function opened(placeIn: (dir: string) => Place = here) {
  const dir = tempDir('volume-tools');
  const { metaUrl, storeUrl } = placeIn(dir);
  const yaml = [
    ...[`log: file:${join(dir, 'log')}`, `store: ${storeUrl}`, `meta: ${metaUrl}`],
    'datasets: [{ name: team-a.unit, topic: unit }]',
    'serve: { tenants: [team-a] }',
  ].join('\n');
  const control = await startControl(parseConfig(yaml, 'pipeline.yaml', pipelineSchema), dir, FIRST);
  const ask = (method: string, path: string, body?: unknown, token = FIRST): Promise<Answer> =>
    control.request(method, `${VOLUME}${path}`, { token, ...(body !== undefined && { body }) });
  return { control, ask, volume: { base: dir, metaUrl, storeDir: join(dir, 'objects') } };
}

describe('on SQLite and a directory', () => cases(here));

describe.skipIf(missing('redis-server', 'versitygw'))('on Redis and S3', () => {
  let services: Services | undefined;
  let places = 0;
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(() => services?.stop());
  cases(() => {
    if (services === undefined) throw new Error('the services have not started');
    const { redis, s3 } = services;
    places++;
    return {
      metaUrl: redis.url(places),
      storeUrl: `s3://volumes/p${places}?endpoint=${s3.endpoint}&region=us-east-1`,
    };
  });
});

function cases(placeIn: (dir: string) => Place): void {
  test('a volume lists its own mounts, and none of another volume of the engine', async () => {
    const { control, ask, volume } = await opened(placeIn);
    expect((await ask('PUT', '', { options: {} })).status).toBe(204);
    await formatVolume({ metaUrl: volume.metaUrl, name: 'other', storeUrl: `dir:${join(volume.base, 'other')}` });
    const own = await openTestVolume(volume, 'own');
    const other = await openTestVolume(volume, 'other', [], 'other');
    expect(await control.get('/v1/volumes', FIRST)).toMatchObject({
      items: [{ mounts: [{ detail: { mountpoint: '/nowhere/own' } }] }],
    });
    await own.close();
    await other.close();
  });

  test('a volume is made, limited, copied and brought back from its trash', async () => {
    const { control, ask, volume } = await opened(placeIn);
    expect((await ask('GET', '/quotas')).status).toBe(404);
    const wrong = await ask('PUT', '', { options: { trsh: '1d' } });
    expect([wrong.status, wrong.text]).toEqual([400, expect.stringContaining("no option 'trsh'")]);
    expect((await ask('PUT', '', { options: { trash: '1d' } })).status).toBe(204);
    expect((await ask('PUT', '', { options: {} })).status).toBe(409);
    expect(await control.get('/v1/volumes', FIRST)).toMatchObject({
      items: [{ formatted: true, trashMs: 86_400_000 }],
    });

    const open = await openTestVolume(volume);
    const models = await makeDirectory(open, 'models');
    await writeFile(open, 'first', Buffer.from('weights'), models);
    await writeFile(open, 'gone', LARGE);
    await removeFile(open, 'gone');

    expect((await ask('PUT', '/quotas', { path: '/models', bytesMax: 1000 })).json).toMatchObject({
      ...{ path: '/models', bytes: 7, bytesMax: 1000, inodesMax: null, counting: false },
    });
    expect((await ask('GET', '/quotas')).json['items']).toMatchObject([
      { path: '/.trash', bytes: LARGE.length, bytesMax: null },
      { path: '/models', bytesMax: 1000 },
    ]);
    expect((await ask('PUT', '/quotas', { path: '/no', bytesMax: 1 })).status).toBe(404);

    expect((await ask('POST', '/snapshots', { name: 'before' })).json).toMatchObject({ path: '/.snapshots/before' });
    expect((await ask('POST', '/snapshots', { name: 'before' })).status).toBe(409);
    expect((await ask('GET', '/snapshots')).json['items']).toMatchObject([{ name: 'before' }]);
    expect((await ask('POST', '/clones', { from: '/models', to: '/copy' })).json).toMatchObject({ files: 1, bytes: 7 });
    const inSnapshot = await ask('POST', '/clones', { from: '/models', to: '/.snapshots/before/copy' });
    expect([inSnapshot.status, inSnapshot.text]).toEqual([403, expect.stringContaining('is of a snapshot')]);
    const inFile = await ask('POST', '/clones', { from: '/models', to: '/models/first/copy' });
    const longName = await ask('POST', '/clones', { from: '/models', to: `/${'x'.repeat(256)}` });
    expect([inFile.status, longName.status]).toEqual([400, 400]);
    // Half of a character would become another name.
    for (const [method, path, body] of [
      ['POST', '/clones', { from: '/models', to: '/\ud800' }],
      ['POST', '/clones', { from: '/\ud800', to: '/x' }],
      ['PUT', '/quotas', { path: '/\udc00', bytesMax: 1 }],
      ['POST', '/trash/restore', { items: ['/\ud800'] }],
      ['POST', '/trash/restore', { items: ['/gone'], to: '/\ud800' }],
    ] as const) {
      const half = await ask(method, path, body);
      expect([path, half.status, half.text]).toEqual([path, 400, expect.stringContaining('half of a character')]);
    }
    const zero = await ask('POST', '/clones', { from: '/models', to: '/a\0b' });
    expect([zero.status, zero.text]).toEqual([400, expect.stringContaining('no zero byte')]);
    const later = await openTestVolume(volume, 'later');
    expect(String(await contentAt(later, '/copy/first'))).toBe('weights');
    expect((await ask('DELETE', '/snapshots/before')).status).toBe(204);
    expect((await ask('GET', '/snapshots')).json['items']).toEqual([]);

    expect((await ask('GET', '/trash')).json['items']).toMatchObject([
      { path: '/gone', kind: 'file', bytes: LARGE.length },
    ]);
    expect((await ask('POST', '/trash/restore', { items: ['/gone'] })).json).toMatchObject({ restored: 1, failed: 0 });
    expect((await contentAt(await openTestVolume(volume, 'last'), '/gone')).equals(LARGE)).toBe(true);
    expect((await ask('DELETE', '/trash?olderThanSeconds=0')).json).toEqual({ removed: 0 });
  });

  test('locks are shown with who holds them', async () => {
    const { ask, volume } = await opened(placeIn);
    await ask('PUT', '', {});
    const open = await openTestVolume(volume);
    const ino = await writeFile(open, 'locked', Buffer.from('x'));
    const lock = { ...WHOLE_FILE, type: 'write', pid: 42 } as const;
    await open.operations.setlk(caller(), ino, 0n, 7n, lock, { flock: false, wait: false });
    expect((await ask('GET', '/locks')).json['items']).toMatchObject([
      { inode: Number(ino), kind: 'posix', type: 'write', waits: false, start: '0', pid: 42 },
    ]);
  });
}

test('a viewer changes nothing, and for a tenant there is no volume', async () => {
  const { control, ask } = await opened();
  await ask('PUT', '', {});
  const { viewer, operator } = await tokensOfRoles(control, FIRST);
  expect((await ask('GET', '/trash', undefined, viewer)).status).toBe(200);
  expect((await ask('POST', '/snapshots', { name: 'a' }, viewer)).status).toBe(403);
  expect((await ask('POST', '/snapshots', { name: 'a' }, operator)).status).toBe(201);
  expect((await ask('DELETE', '/snapshots/a', undefined, operator)).status).toBe(403);
  expect((await ask('PUT', '/quotas', { path: '/', bytesMax: 1 }, operator)).status).toBe(403);
  const made = await control.request('POST', '/v1/tokens?tenant=team-a', {
    token: FIRST,
    body: { name: 'ann', role: 'admin' },
  });
  for (const path of ['/quotas', '/snapshots', '/trash', '/locks']) {
    expect([path, (await ask('GET', path, undefined, String(made.json['token']))).status]).toEqual([path, 404]);
  }
  expect((await control.request('GET', '/v1/volumes/other/trash', { token: FIRST })).status).toBe(404);
});
