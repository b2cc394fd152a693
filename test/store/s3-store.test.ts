import { crc32c } from '@node-rs/crc32';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { openS3Store } from '../../lib/store/s3/s3-store.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { collect } from '../support/collect.ts';
import { startFaultProxy } from '../support/s3-fault-proxy.ts';
import type { FaultProxy, ProxyFault } from '../support/s3-fault-proxy.ts';
import { missing } from '../support/services.ts';
import { storeContract } from '../support/store-contract.ts';
import { tempDir } from '../support/temp.ts';
import { startVersitygw } from '../support/versitygw.ts';
import type { S3Server } from '../support/versitygw.ts';
import { freePort } from '../support/ports.ts';

const BUCKET = 'lake';

describe.skipIf(missing('versitygw'))('s3: store', () => {
  let server: S3Server;
  let proxy: FaultProxy;

  beforeAll(async () => {
    server = await startVersitygw();
    server.createBucket(BUCKET);
    proxy = await startFaultProxy(server.endpoint);
  });
  afterAll(async () => {
    await proxy.stop();
    await server.stop();
  });
  beforeEach(() => {
    vi.stubEnv('AWS_ACCESS_KEY_ID', server.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', server.secretAccessKey);
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
    proxy.decide = () => 'pass';
    proxy.requests.length = 0;
  });
  afterEach(() => {
    vi.unstubAllEnvs();
  });

  async function openStore(
    options: { prefix?: string; endpoint?: string; bucket?: string; query?: string } = {},
  ): Promise<ObjectStore> {
    const { prefix = randomUUID(), endpoint = server.endpoint, bucket = BUCKET, query = '' } = options;
    const store = await openS3Store(new URL(`s3://${bucket}/${prefix}?endpoint=${endpoint}${query}`));
    onTestFinished(() => store.close());
    return store;
  }

  storeContract(async () => {
    const prefix = randomUUID();
    return { store: await openStore({ prefix }), reopen: () => openStore({ prefix }) };
  });

  it('shows no credentials in its URL, and takes none', async () => {
    const store = await openStore({ prefix: 'p' });
    expect(store.url).toBe(`s3://lake/p?region=us-east-1&endpoint=${encodeURIComponent(server.endpoint)}`);
    expect(store.location('a/b')).toBe('s3://lake/p/a/b');
    expect(store.keyOf('s3a://lake/p/a/b')).toBe('a/b');
    expect(store.keyOf('s3://lake/prefix/a')).toBeNull();
    await expect(openS3Store(new URL('s3://key:secret@lake/p?region=x'))).rejects.toMatchObject({ code: 'config' });
  });

  it.each([
    'endpoint=ftp://x',
    'region=r&sse=none',
    'region=r&kmsKeyId=k',
    'region=r&attempts=0',
    'region=r&hedge=5',
    'region=r&requests=many',
    'region=r&bandwidth=0MB',
    'region=r&color=red',
  ])('refuses the options %s by name', async (query) => {
    const name = query.slice(query.lastIndexOf('&') + 1, query.lastIndexOf('='));
    await expect(openS3Store(new URL(`s3://lake/p?${query}`))).rejects.toMatchObject({
      code: 'config',
      message: expect.stringContaining(name === 'hedge' ? '5' : name) as string,
    });
  });

  describe('says in words', () => {
    it('that the bucket does not exist, for every call', async () => {
      const store = await openStore({ bucket: 'nowhere', query: '&attempts=2' });
      const refused = {
        code: 'not-found',
        message: expect.stringContaining("bucket 'nowhere' does not exist") as string,
      };
      await expect(store.get('k')).rejects.toMatchObject(refused);
      await expect(store.put('k', Buffer.from('x'))).rejects.toMatchObject(refused);
      await expect(store.head('k')).rejects.toMatchObject(refused);
      await expect(collect(store.list(''))).rejects.toMatchObject(refused);
      await expect(store.delete(['k'])).rejects.toMatchObject(refused);
    });

    it('that the key id is not known, or the secret is wrong, without the secret', async () => {
      vi.stubEnv('AWS_ACCESS_KEY_ID', 'someone');
      const unknown = await openStore();
      await expect(unknown.get('k')).rejects.toMatchObject({
        code: 'denied',
        message: expect.stringContaining('someone') as string,
      });
      vi.stubEnv('AWS_ACCESS_KEY_ID', server.accessKeyId);
      vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'wrong-secret');
      const wrong = await openStore();
      const error: unknown = await wrong.put('k', Buffer.from('x')).catch((caught: unknown) => caught);
      expect(error).toMatchObject({
        code: 'denied',
        message: expect.stringContaining(`secret for access key ${server.accessKeyId}`) as string,
      });
      expect(String(error)).not.toContain('wrong-secret');
      await expect(wrong.head('k')).rejects.toMatchObject({
        code: 'denied',
        message: expect.stringContaining(server.accessKeyId) as string,
      });
    });

    it('that there are no credentials', async () => {
      for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']) vi.stubEnv(name, undefined);
      vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', '/nonexistent');
      vi.stubEnv('AWS_CONFIG_FILE', '/nonexistent');
      const store = await openStore();
      await expect(store.get('k')).rejects.toMatchObject({
        code: 'denied',
        message: expect.stringContaining('AWS_ACCESS_KEY_ID') as string,
      });
    });

    it('that nobody answers, with the endpoint', async () => {
      const endpoint = `http://127.0.0.1:${await freePort()}`;
      const store = await openStore({ endpoint, query: '&attempts=2' });
      await expect(store.get('k')).rejects.toMatchObject({
        code: 'unavailable',
        message: expect.stringContaining(endpoint) as string,
      });
    });

    it('that the clock is wrong', async () => {
      proxy.decide = () => ({ status: 403, code: 'RequestTimeTooSkewed' });
      const store = await openStore({ endpoint: proxy.endpoint, query: '&attempts=2' });
      const refused = { code: 'denied', message: expect.stringMatching(/clock of this machine .*NTP/) as string };
      await expect(store.get('k')).rejects.toMatchObject(refused);
    });

    it.each([301, 307])('that the region is another one, where the answer %i has no body', async (status) => {
      proxy.decide = (method) => (method === 'HEAD' ? { status } : 'pass');
      const store = await openStore({ endpoint: proxy.endpoint });
      const refused = { code: 'config', message: expect.stringContaining('set ?region=') as string };
      await expect(store.head('k')).rejects.toMatchObject(refused);
    });

    it('why a HEAD is refused, by one listing and not by one for each', async () => {
      proxy.decide = (method) => (method === 'HEAD' ? { status: 403 } : 'pass');
      const store = await openStore({ endpoint: proxy.endpoint });
      for (const key of ['a', 'b']) await expect(store.head(key)).rejects.toMatchObject({ code: 'denied' });
      expect(proxy.requests.map((request) => request.slice(0, 4))).toEqual(['HEAD', 'GET ', 'HEAD']);
    });

    it('that a HEAD is refused, also when the listing that should say why fails or has no answer in time', async () => {
      const store = await openStore({ endpoint: proxy.endpoint, query: '&attempts=1' });
      proxy.decide = (method) => ({ status: method === 'HEAD' ? 403 : 503 });
      await expect(store.head('k')).rejects.toMatchObject({ code: 'denied' });
      const deadline = new AbortController();
      proxy.decide = (method) => {
        if (method === 'HEAD') return { status: 403 };
        deadline.abort();
        return 'silence';
      };
      await expect(store.head('k', { signal: deadline.signal })).rejects.toMatchObject({ code: 'denied' });
      expect(deadline.signal.aborted).toBe(true);
    });

    it('that the deadline has passed', async () => {
      proxy.decide = () => 'silence';
      const store = await openStore({ endpoint: proxy.endpoint, query: '&deadline=200ms' });
      await expect(store.get('k')).rejects.toMatchObject({
        code: 'timeout',
        message: expect.stringContaining('200 ms') as string,
      });
    });
  });

  describe('under faults', () => {
    const faults: [name: string, fault: ProxyFault][] = [
      ['500', { status: 500 }],
      ['503', { status: 503 }],
      ['429', { status: 429 }],
      ['a cut connection', 'cutBefore'],
      ['a lost answer', 'cutAfter'],
      ['a cut body', 'cutBody'],
    ];

    it.each(faults)('every call survives %s', async (_, fault) => {
      const store = await openStore({ endpoint: proxy.endpoint });
      // The first try of every request fails.
      let failed = 0;
      const seen = new Set<string>();
      proxy.decide = (method, path) => {
        const first = !seen.has(`${method} ${path}`);
        seen.add(`${method} ${path}`);
        if (first) failed++;
        return first ? fault : 'pass';
      };
      const bytes = randomBytes(100_000);
      await store.put('a', bytes);
      expect((await store.get('a')).equals(bytes)).toBe(true);
      expect((await store.get('a', { offset: 10, length: 20 })).equals(bytes.subarray(10, 30))).toBe(true);
      await store.put('b', bytes);
      const range = { offset: 1000, length: 50_000, into: Buffer.alloc(50_000) };
      expect((await store.get('b', range)).equals(bytes.subarray(1000, 51_000))).toBe(true);
      expect(await store.head('a')).toMatchObject({ bytes: 100_000 });
      expect(await collect(store.list(''))).toHaveLength(2);
      await store.delete(['a', 'b']);
      expect(await store.head('a')).toBeNull();
      expect(failed).toBeGreaterThanOrEqual(4);
    });

    it('a conditional put whose answer was lost is not taken for a loss against itself', async () => {
      const store = await openStore({ endpoint: proxy.endpoint });
      let first = true;
      proxy.decide = (method) => {
        const fault = method === 'PUT' && first ? 'cutAfter' : 'pass';
        if (method === 'PUT') first = false;
        return fault;
      };
      const info = await store.put('once', Buffer.from('mine'), { ifAbsent: true });
      expect(await store.head('once')).toEqual({ ...info, modifiedMs: expect.any(Number) as number });
      await expect(store.put('once', Buffer.from('other'), { ifAbsent: true })).rejects.toMatchObject({
        code: 'exists',
      });
      first = true;
      await store.put('once', Buffer.from('new'), { ifMatch: info.etag });
      expect((await store.get('once')).toString()).toBe('new');
    });

    it('an upload in parts goes through 503s, and one that fails aborts itself', async () => {
      const store = await openStore({ prefix: 'parts', endpoint: proxy.endpoint, query: '&attempts=3' });
      const path = join(tempDir(), 'big');
      await writeFile(path, randomBytes(18_000_000));
      proxy.decide = (_, __, nth) => (nth % 3 === 0 ? { status: 503 } : 'pass');
      expect(await store.putFile('big', path)).toMatchObject({ bytes: 18_000_000 });
      proxy.decide = (method, request) =>
        method === 'PUT' && request.includes('partNumber=2') ? { status: 500 } : 'pass';
      await expect(store.putFile('failed', path)).rejects.toMatchObject({ code: 'unavailable' });
      expect(proxy.requests.at(-1)).toMatch(/^DELETE .*failed\?.*uploadId=/);
      expect((await collect(store.list(''))).map(({ key }) => key)).toEqual(['big']);
    });

    it('an upload that is aborted by its caller has cleaned up when it fails', async () => {
      const store = await openStore({ endpoint: proxy.endpoint });
      const path = join(tempDir(), 'big');
      await writeFile(path, randomBytes(18_000_000));
      const controller = new AbortController();
      proxy.decide = (method, request) => {
        if (method === 'PUT' && request.includes('partNumber=2')) {
          controller.abort();
          return 'silence';
        }
        return 'pass';
      };
      await expect(store.putFile('gone', path, { signal: controller.signal })).rejects.toMatchObject({
        code: 'aborted',
      });
      expect(proxy.requests.at(-1)).toMatch(/^DELETE .*gone\?.*uploadId=/);
      expect(await store.head('gone')).toBeNull();
    });

    it('a hedge answers while the first request is silent', async () => {
      const store = await openStore({ endpoint: proxy.endpoint, query: '&hedge=20ms&attempts=1' });
      await store.put('k', Buffer.from('value'));
      let gets = 0;
      proxy.decide = (method) => (method === 'GET' && gets++ === 0 ? 'silence' : 'pass');
      expect((await store.get('k')).toString()).toBe('value');
      expect(gets).toBe(2);
      await expect(store.get('absent')).rejects.toMatchObject({ code: 'not-found' });
    });
  });

  it('a body that is not that of its CRC32C is refused, large or small', async () => {
    const store = await openStore();
    for (const bytes of [randomBytes(2 ** 20), randomBytes(1000)]) {
      await store.put('right', bytes, { crc32c: crc32c(bytes) });
      expect(await store.get('right')).toEqual(bytes);
      const other = crc32c(bytes.subarray(1));
      await expect(store.put('wrong', bytes, { crc32c: other })).rejects.toThrow(/wrong: BadDigest/);
      expect(await store.head('wrong')).toBeNull();
    }
  });

  it('a large body with a CRC32C is sent without a SHA-256, one without has it', async () => {
    const sent: (string | undefined)[] = [];
    const server = createServer((incoming, answer) => {
      sent.push(incoming.headersDistinct['x-amz-content-sha256']?.[0]);
      incoming.resume().on('end', () => answer.writeHead(200, { etag: '"e"' }).end());
    });
    server.listen(0, '127.0.0.1');
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo; // it listens on TCP
    const store = await openStore({ endpoint: `http://127.0.0.1:${port}` });
    const body = Buffer.alloc(2 ** 20);
    await store.put('a', body, { crc32c: crc32c(body) });
    await store.put('b', body);
    expect(sent).toEqual(['UNSIGNED-PAYLOAD', createHash('sha256').update(body).digest('hex')]);
  });

  it('a truncated object is corrupt', async () => {
    const store = await openStore({ prefix: 'truncated' });
    await store.put('t', Buffer.alloc(1000));
    await writeFile(join(server.folder, BUCKET, 'truncated', 't'), Buffer.alloc(400));
    await expect(store.get('t', { offset: 0, length: 1000 })).rejects.toMatchObject({ code: 'corrupt' });
    await expect(store.get('t', { offset: 500, length: 10 })).rejects.toMatchObject({ code: 'corrupt' });
  });

  it('a key that is the folder of another is refused by a server over a file system', async () => {
    const store = await openStore();
    await store.put('a', Buffer.from('x'));
    await expect(store.put('a/b', Buffer.from('x'))).rejects.toMatchObject({ code: 'unsupported' });
  });

  it('the bucket holds an object at its prefix and key', async () => {
    const store = await openStore({ prefix: 'some/prefix' });
    await store.put('a/b', Buffer.from('x'));
    expect(existsSync(join(server.folder, BUCKET, 'some', 'prefix', 'a', 'b'))).toBe(true);
    expect(readdirSync(join(server.folder, BUCKET, 'some', 'prefix'))).toEqual(['a']);
  });
});

it.each([undefined, Buffer.alloc(10)])(
  'an answer with another range than the one asked for is an error',
  async (into) => {
    const server = createServer((_request, answer) => {
      answer.writeHead(206, { 'content-length': 10, 'content-range': 'bytes 0-9/100' }).end('0123456789');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    const { port } = server.address() as AddressInfo; // it listens on TCP
    const credentials = { accessKeyId: 'key', secretAccessKey: 'secret' };
    const store = await openS3Store(new URL(`s3://lake/p?endpoint=http://127.0.0.1:${port}`), credentials);
    onTestFinished(() => store.close());
    const memory = into === undefined ? {} : { into };
    expect(String(await store.get('a', { offset: 0, length: 10, ...memory }))).toBe('0123456789');
    await expect(store.get('a', { offset: 50, length: 10, ...memory })).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringContaining('begins at byte 0, not at 50') as string,
    });
  },
);
