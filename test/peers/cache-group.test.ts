/** Cache groups over a real Redis and a real S3 server, whose requests are counted on their way. */
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { formatVolume, mountStats } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { openMeta, openStore } from '../../lib/registry.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, mountTestVolume, openTestVolume, startServices } from '../support/fs-volume.ts';
import type { MountedVolume, Services, TestVolume } from '../support/fs-volume.ts';
import { run, until } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { startFaultProxy } from '../support/s3-fault-proxy.ts';
import type { FaultProxy } from '../support/s3-fault-proxy.ts';
import { cannotMount, missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { sha, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { freePort } from '../support/ports.ts';

const PENSTOCK = join(import.meta.dirname, '../../bin/penstock');
const MIB = 2 ** 20;
const BLOCK = 128 * 1024;

interface Group extends TestVolume {
  /** Requests to the object store so far: GETs of blocks. */
  gets(): number;
  readonly proxy: FaultProxy;
}

describe.skipIf(missing('redis-server', 'versitygw'))('a cache group', () => {
  let services: Services;
  let volumes = 40;
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(() => services.stop());

  /** A volume whose object store is behind a proxy that sees every request, with a file of random bytes. */
  async function volumeWith(content: Buffer): Promise<Group> {
    const proxy = await startFaultProxy(services.s3.endpoint);
    onTestFinished(() => proxy.stop());
    const database = volumes++ % 16;
    await services.redis.admin.call('FLUSHALL');
    const metaUrl = `redis://127.0.0.1:${services.redis.port}/${database}`;
    const storeUrl = `s3://volumes/peers-${volumes}?endpoint=${proxy.endpoint}&region=us-east-1`;
    await formatVolume({ metaUrl, storeUrl, options: { blockSize: String(BLOCK), gc: '0s', backup: '0s' } });
    const volume: TestVolume = { base: tempDir('group'), metaUrl, storeDir: '' };
    const writer = await openTestVolume(volume, 'writer');
    await writeElsewhere(writer, 'file', content);
    await writer.close();
    const gets = (): number => proxy.requests.filter((line) => /^GET \/\S+\/blocks\//.test(line)).length;
    return { ...volume, proxy, gets };
  }

  async function member(volume: TestVolume, name: string, reports: string[] = []): Promise<OpenVolume> {
    return openTestVolume(volume, name, reports, 'lake', { cacheGroup: { name: 'train', listen: '127.0.0.1:0' } });
  }

  /** `count` members that all know each other. */
  async function members(volume: TestVolume, count: number): Promise<OpenVolume[]> {
    const all = await Promise.all(Array.from({ length: count }, (_, n) => member(volume, `m${n}`)));
    await until('all know each other', () => all.every((open) => open.stats()['peers'] === count - 1));
    return all;
  }

  async function readFile({ operations }: OpenVolume, name = 'file'): Promise<Buffer> {
    const found = await operations.lookup(caller(), 1n, name);
    if (!('attributes' in found)) throw new Error(`${name} is absent`);
    const { ino, size } = found.attributes;
    const { handle } = await operations.open(caller(), ino, 0);
    const parts: Buffer[] = [];
    for (let at = 0n; at < size; at += 131_072n) {
      parts.push(Buffer.from(await operations.read(caller(), ino, handle, at, 131_072, 0)));
    }
    await operations.release(caller(), ino, handle, undefined);
    return Buffer.concat(parts);
  }

  const sum = (all: readonly OpenVolume[], key: string): number =>
    all.reduce((total, open) => total + Number(open.stats()[key]), 0);

  test('N nodes that read one cold file at once get each of its bytes from the store once', async () => {
    const content = randomBytes(6 * MIB + 1000);
    const volume = await volumeWith(content);
    const all = await members(volume, 3);
    const read = await Promise.all(all.map((open) => readFile(open)));
    for (const data of read) expect(data.equals(content)).toBe(true);
    expect(volume.gets()).toBe(Math.ceil(content.length / BLOCK));
    expect(sum(all, 'fetchedBytes')).toBe(content.length);
    // Each keeps its share, and serves it to the two others.
    expect(sum(all, 'peerServedBytes')).toBe(2 * content.length);
    expect(sum(all, 'peerFetchedBytes')).toBe(2 * content.length);
    for (const open of all) expect(Number(open.stats()['peerServedBytes'])).toBeGreaterThan(0);
    // Warm, nobody asks anybody.
    await Promise.all(all.map((open) => readFile(open)));
    expect(volume.gets()).toBe(Math.ceil(content.length / BLOCK));
    expect(sum(all, 'peerServedBytes')).toBe(2 * content.length);
  });

  test('one who comes later gets all from its peers', async () => {
    const content = randomBytes(4 * MIB);
    const volume = await volumeWith(content);
    const all = await members(volume, 2);
    for (const open of all) expect((await readFile(open)).equals(content)).toBe(true);
    const before = volume.gets();
    expect(before).toBe(content.length / BLOCK);
    const third = await member(volume, 'late');
    expect((await readFile(third)).equals(content)).toBe(true);
    // What it keeps itself from now on comes from the store once more; the rest comes from the two.
    expect(volume.gets() - before).toBeLessThan((content.length / BLOCK) * 0.75);
    expect(Number(third.stats()['peerFetchedBytes'])).toBe(content.length - (volume.gets() - before) * BLOCK);
  });

  test('a member whose cache is full serves what it fetches, and keeps nothing', async () => {
    const content = randomBytes(2 * MIB);
    const volume = await volumeWith(content);
    const full = await openTestVolume(volume, 'full', [], 'lake', {
      cacheGroup: { name: 'train', listen: '127.0.0.1:0' },
      cacheBytes: 0,
    });
    const open = await member(volume, 'm');
    expect((await readFile(open)).equals(content)).toBe(true);
    expect(volume.gets()).toBe(content.length / BLOCK);
    expect(Number(full.stats()['peerServedBytes'])).toBeGreaterThan(0);
    expect(full.stats()['cachedBytes']).toBe(0);
  });

  test('mounts of another group, or of none, share nothing', async () => {
    const content = randomBytes(MIB);
    const volume = await volumeWith(content);
    const first = await member(volume, 'a');
    const other = await openTestVolume(volume, 'b', [], 'lake', {
      cacheGroup: { name: 'other', listen: '127.0.0.1:0' },
    });
    const none = await openTestVolume(volume, 'c');
    for (const open of [first, other, none]) expect((await readFile(open)).equals(content)).toBe(true);
    expect(volume.gets()).toBe((3 * content.length) / BLOCK);
    expect(first.stats()).toMatchObject({ peers: 0, peerServedBytes: 0 });
    expect(none.stats()).not.toHaveProperty('cacheGroup');
  });

  test('a member that lies is found out by the checksum: its blocks come from the store, and it is put aside', async () => {
    const content = randomBytes(4 * MIB);
    const volume = await volumeWith(content);
    const liar = createServer((request, response) => {
      const bytes = Number(new URL(request.url ?? '', 'http://x').searchParams.get('bytes'));
      response.writeHead(200, { 'content-length': bytes + 4 }).end(randomBytes(bytes + 4));
    }).listen(0, '127.0.0.1');
    await once(liar, 'listening');
    onTestFinished(() => void liar.close());
    const peer = `127.0.0.1:${(liar.address() as AddressInfo).port}`; // a TCP server's address is never a string
    const engine = await openMeta(volume.metaUrl, {
      kind: 'mount',
      detail: { volume: 'lake', cacheGroup: 'train', mountId: 'liar', peer },
    });
    onTestFinished(() => engine.close());
    const reports: string[] = [];
    const open = await member(volume, 'honest', reports);
    expect(open.stats()['peers']).toBe(1);
    expect((await readFile(open)).equals(content)).toBe(true);
    expect(open.stats()).toMatchObject({ peersAside: 1, peerFetchedBytes: 0, fetchedBytes: content.length });
    expect(Number(open.stats()['peerLied'])).toBeGreaterThan(0);
    expect(reports.filter((line) => line.includes(`peer ${peer}: what it sent of object`))).toHaveLength(1);
  });

  test('a member without the token gets nothing, and nobody is told more than health and metrics', async () => {
    const content = randomBytes(MIB);
    const volume = await volumeWith(content);
    const open = await member(volume, 'a');
    await readFile(open);
    const engine = await openMeta(volume.metaUrl, { kind: 'test' });
    onTestFinished(() => engine.close());
    const format = await readFormat(engine, 'lake');
    const [secret] = await engine.read([new VolumeKeys('lake').peerToken]);
    const token = secret?.value.toString('hex') ?? '';
    expect(token).toMatch(/^[0-9a-f]{64}$/);
    const base = `http://${String(open.stats()['peerAddress'])}`;
    const pieces = `/v1/${format?.id}/piece`;
    const ask = async (path: string, authorization?: string, method = 'GET'): Promise<number> => {
      const headers = authorization === undefined ? {} : { authorization };
      const response = await fetch(base + path, { method, headers });
      await response.arrayBuffer();
      return response.status;
    };
    const good = `Bearer ${token}`;
    const piece = `${pieces}?object=1&offset=0&stored=${BLOCK}&bytes=${BLOCK}&crc=1`;
    for (const wrong of [undefined, '', 'Bearer ', `Bearer ${'0'.repeat(64)}`, token, `Bearer ${token}0`]) {
      expect(await ask(piece, wrong)).toBe(401);
    }
    expect(await ask('/healthz')).toBe(200);
    expect(await ask('/readyz')).toBe(200);
    expect(await (await fetch(`${base}/metrics`)).text()).toContain(
      'penstock_peer_problems_total{volume="lake",group="train",problem="lied"} 0\n',
    );
    for (const method of ['PUT', 'POST', 'DELETE', 'HEAD']) expect(await ask(piece, good, method)).toBe(405);
    const before = volume.gets();
    expect(await ask('/v1/another/piece?object=1', good)).toBe(404);
    expect(await ask(`${pieces}?object=1&offset=0&stored=0&bytes=0&crc=1`, good)).toBe(400);
    expect(await ask(`${pieces}?object=1&offset=0&stored=9&bytes=8&crc=1`, good)).toBe(400);
    expect(await ask(`${pieces}?object=1&offset=0&stored=9&bytes=${2 ** 27}&crc=1`, good)).toBe(400);
    expect(await ask(`${pieces}?object=-1&offset=0&stored=9&bytes=9&crc=1`, good)).toBe(400);
    expect(await ask(`${pieces}?key=../x&objectBytes=9&chunk=0`, good)).toBe(400);
    expect(await ask(`${pieces}?key=tables/x&objectBytes=9&chunk=1`, good)).toBe(400);
    // Of other volumes in the same store, and backups of the metadata: never, token or not.
    expect(await ask(`${pieces}?key=${format?.id}/blocks/01/1&objectBytes=9&chunk=0`, good)).toBe(403);
    expect(await ask(`${pieces}?key=backups/lake/1.dump&objectBytes=9&chunk=0`, good)).toBe(403);
    expect(volume.gets()).toBe(before);
    // A piece that there is not, and one with another checksum than the store's.
    expect(await ask(`${pieces}?object=987654&offset=0&stored=9&bytes=9&crc=1`, good)).toBe(502);
  });

  test('objects of the lake are shared too', async () => {
    const volume = await volumeWith(randomBytes(MIB));
    const engine = await openMeta(volume.metaUrl, { kind: 'test' });
    onTestFinished(() => engine.close());
    const format = await readFormat(engine, 'lake');
    const [secret] = await engine.read([new VolumeKeys('lake').peerToken]);
    expect(secret).toBeNull();
    const store = await openStore(format?.store ?? '');
    onTestFinished(() => store.close());
    const object = randomBytes(5 * MIB);
    await store.put('tables/a/b/data/x.parquet', object);
    const open = await member(volume, 'a');
    const [made] = await engine.read([new VolumeKeys('lake').peerToken]);
    const authorization = `Bearer ${made?.value.toString('hex')}`;
    const url = `http://${String(open.stats()['peerAddress'])}/v1/${format?.id}/piece?key=tables/a/b/data/x.parquet&objectBytes=${object.length}&chunk=1`;
    for (let i = 0; i < 3; i++) {
      const body = Buffer.from(await (await fetch(url, { headers: { authorization } })).arrayBuffer());
      expect(body.subarray(0, -4).equals(object.subarray(4 * MIB))).toBe(true);
    }
    expect(volume.proxy.requests.filter((line) => line.startsWith('GET') && line.includes('x.parquet'))).toHaveLength(
      1,
    );
  });

  test.skipIf(cannotMount())(
    'three mounts: one request for each block, also when a worker is killed on the way',
    async () => {
      const content = randomBytes(12 * MIB);
      const volume = await volumeWith(content);
      const mounts: MountedVolume[] = [];
      const peerListen = `127.0.0.1:${await freePort()}`;
      for (const more of [{}, {}, { peerListen }]) {
        mounts.push(await mountTestVolume(volume, { cacheGroup: 'train', ...more }));
      }
      await until('all know each other', async () => {
        const all = await Promise.all(mounts.map((mount) => groupStats(mount)));
        return all.every((stats) => stats?.['peers'] === 2);
      });
      const hashes = await Promise.all(mounts.map((mount) => hashOf(mount)));
      expect(hashes).toEqual([sha(content), sha(content), sha(content)]);
      const stats = await Promise.all(mounts.map((mount) => groupStats(mount)));
      if (!stats.some(hasMissedPeer)) {
        expect(volume.gets()).toBe(content.length / BLOCK);
        expect(stats.reduce((bytes, each) => bytes + Number(each?.['peerServedBytes']), 0)).toBe(2 * content.length);
      }

      // Another file; one worker is killed -9 while the two others read what it keeps.
      const other = randomBytes(12 * MIB);
      const writer = await openTestVolume(volume, 'writer2');
      await writeElsewhere(writer, 'file', other);
      await writer.close();
      const { workerPid } = await mountStats(mounts[2]?.mountpoint ?? '');
      const reading = Promise.all(mounts.slice(0, 2).map((mount) => hashOf(mount)));
      process.kill(Number(workerPid), 'SIGKILL');
      expect(await reading).toEqual([sha(other), sha(other)]);
      expect(await hashOf(mounts[2])).toBe(sha(other));
      // Its successor listens where it did.
      expect((await groupStats(mounts[2]))?.['peerAddress']).toBe(peerListen);
    },
  );

  test.skipIf(cannotMount())('warm on one node, and the others ask the store for nothing', async () => {
    const content = randomBytes(4 * MIB);
    const volume = await volumeWith(content);
    const mounts = [
      await mountTestVolume(volume, { cacheGroup: 'train', peerListen: '127.0.0.1:0' }),
      await mountTestVolume(volume, { cacheGroup: 'train' }),
    ];
    await until('both know each other', async () => (await groupStats(mounts[0]))?.['peers'] === 1);
    const warm = await run(PENSTOCK, ['fs', 'warm', mounts[0]?.mountpoint ?? '', '--json']);
    expect(warm).toMatchObject({ status: 0 });
    expect(JSON.parse(warm.stdout)).toMatchObject({ files: 1, bytes: content.length });
    expect(volume.gets()).toBe(content.length / BLOCK);
    expect(await hashOf(mounts[1])).toBe(sha(content));
    if (!hasMissedPeer(await groupStats(mounts[1]))) expect(volume.gets()).toBe(content.length / BLOCK);
  });

  test.skipIf(cannotMount() || cannotPassThrough())(
    'files that are whole on a node are still served to its peers',
    async () => {
      const content = randomBytes(4 * MIB);
      const volume = await volumeWith(content);
      const mount = await mountTestVolume(volume, { cacheGroup: 'train', passthrough: 'read' });
      expect(mount.passthroughProblem).toBeUndefined();
      const peer = await member(volume, 'peer');
      await until('the mount knows its peer', async () => (await groupStats(mount))?.['peers'] === 1);
      expect(await hashOf(mount)).toBe(sha(content));
      await until('the file is whole', async () => {
        const stats = await groupStats(mount);
        return stats?.['wholeBytes'] === content.length && stats['filling'] === 0;
      });
      const before = volume.gets();
      if (!hasMissedPeer(await groupStats(mount))) expect(before).toBe(content.length / BLOCK);
      expect((await readFile(peer)).equals(content)).toBe(true);
      if (!hasMissedPeer(peer.stats())) expect(volume.gets()).toBe(before);
    },
  );

  /**
   * Members in processes of their own are not all given a core at once: one that is silent for seconds is slow, and the store is asked instead. How
   * many requests there are is a promise of members that answer.
   */
  function hasMissedPeer(stats: Readonly<Record<string, unknown>> | undefined): boolean {
    return Number(stats?.['peerSlow']) > 0 || Number(stats?.['peerGone']) > 0;
  }

  async function groupStats(mount: MountedVolume | undefined): Promise<Readonly<Record<string, unknown>> | undefined> {
    const stats = await mountStats(mount?.mountpoint ?? '');
    return (stats['worker'] as { readonly volume?: Readonly<Record<string, unknown>> } | undefined)?.volume;
  }

  async function hashOf(mount: MountedVolume | undefined): Promise<string> {
    const { stdout, status } = await run('sha256sum', [`${mount?.mountpoint ?? ''}/file`]);
    expect(status).toBe(0);
    return stdout.slice(0, 64);
  }
});
