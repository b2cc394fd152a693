/** GETs past the SDK, against a real S3 server: they are what the SDK's own would be, and whatever goes wrong with one is the SDK's to repair or to report. */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { openS3Store } from '../../lib/store/s3/s3-store.ts';
import { Signer } from '../../lib/store/s3/sigv4.ts';
import type { CredentialSource, ObjectStore, StoreCredentials } from '../../lib/store/store.ts';
import { startFaultProxy } from '../support/s3-fault-proxy.ts';
import type { FaultProxy, ProxyFault } from '../support/s3-fault-proxy.ts';
import { missing } from '../support/services.ts';
import { startVersitygw } from '../support/versitygw.ts';
import type { S3Server } from '../support/versitygw.ts';

const BUCKET = 'lake';
const BYTES = 50_000;

test('a signature that is not the one of AWS: its own example of a GET of an object', () => {
  const headers = new Signer({ region: 'us-east-1', service: 's3' }).sign(
    { method: 'GET', path: '/test.txt', headers: { host: 'examplebucket.s3.amazonaws.com', range: 'bytes=0-9' } },
    { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY' },
    new Date('2013-05-24T00:00:00Z'),
  );
  expect(headers['authorization']).toBe(
    'AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, ' +
      'Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
  );
});

test('a signing key that outlives its day or its secret', () => {
  const request = { method: 'GET', path: '/a', headers: { host: 'store' } };
  const sign = (signer: Signer, secretAccessKey: string, time: string): string | undefined =>
    signer.sign(request, { accessKeyId: 'key', secretAccessKey }, new Date(time))['authorization'];
  const kept = new Signer({ region: 'us-east-1', service: 's3' });
  for (const [secret, time] of [
    ['one', '2026-01-01T23:59:59Z'],
    ['one', '2026-01-02T00:00:00Z'],
    ['two', '2026-01-02T00:00:00Z'],
  ] as const) {
    const fresh = new Signer({ region: 'us-east-1', service: 's3' });
    expect(sign(kept, secret, time)).toBe(sign(fresh, secret, time));
  }
});

describe.skipIf(missing('versitygw'))('s3: GETs past the SDK', () => {
  let server: S3Server;
  let proxy: FaultProxy;
  const content = randomBytes(BYTES);

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
    proxy.decide = () => 'pass';
  });

  /** A store with `key`, which has seen one GET by the SDK. */
  async function openStore(key: string, credentials?: CredentialSource): Promise<ObjectStore> {
    const url = new URL(`s3://${BUCKET}/some%20prefix?endpoint=${proxy.endpoint}`);
    const store = await openS3Store(url, credentials ?? own());
    onTestFinished(() => store.close());
    await store.put(key, content);
    await part(store, key, 0, BYTES);
    proxy.requests.length = 0;
    return store;
  }

  function own(): StoreCredentials {
    return { accessKeyId: server.accessKeyId, secretAccessKey: server.secretAccessKey };
  }

  async function part(store: ObjectStore, key: string, offset: number, length: number): Promise<void> {
    const bytes = await store.get(key, { offset, length, into: Buffer.alloc(length) });
    expect(bytes.equals(content.subarray(offset, offset + length))).toBe(true);
  }

  const bySdk = (path: string): boolean => path.includes('x-id=GetObject');

  /** What happens to GETs that are not the SDK's. */
  function failOwn(fault: ProxyFault): void {
    proxy.decide = (_method, path) => (bySdk(path) ? 'pass' : fault);
  }

  test("keys that a path has to encode are refused: they are signed as the server reads them, and none is the SDK's", async () => {
    const keys = ['a/b c', "é'()*!~", 'a+b&c=d,e@f:g;h$i', '%41', 'x?y#z', '日本/語.bin'];
    const store = await openStore(keys[0] ?? '');
    for (const key of keys) await store.put(key, content);
    proxy.requests.length = 0;
    for (const key of keys) await part(store, key, 100, 1000);
    expect(proxy.requests).toHaveLength(keys.length);
    expect(proxy.requests.filter(bySdk)).toEqual([]);
  });

  test.each<[string, ProxyFault]>([
    ['503', { status: 503 }],
    ['429', { status: 429 }],
    ['a cut before it was read', 'cutBefore'],
    ['a cut instead of the answer', 'cutAfter'],
    ['a cut in the answer', 'cutBody'],
  ])('a GET that fails is asked again by the SDK: %s', async (_, fault) => {
    const store = await openStore('failing');
    failOwn(fault);
    await part(store, 'failing', 100, 1000);
    expect(proxy.requests.map(bySdk)).toEqual([false, true]);
    proxy.decide = () => 'pass';
    await part(store, 'failing', 200, 1000);
    expect(proxy.requests.map(bySdk)).toEqual([false, true, false]);
  });

  test('each GET is two for ever where the server refuses what is not made by the SDK', async () => {
    const store = await openStore('refused');
    failOwn({ status: 403, code: 'AccessDenied' });
    for (let n = 0; n < 6; n++) await part(store, 'refused', n, 1000);
    expect(proxy.requests.filter((path) => !bySdk(path))).toHaveLength(3);
    expect(proxy.requests.filter(bySdk)).toHaveLength(6);
  });

  test('what is refused for its content is not taken for a server that wants the SDK', async () => {
    const store = await openStore('absent');
    await store.delete(['absent']);
    for (let n = 0; n < 6; n++) {
      await expect(store.get('absent', { offset: 0, length: 10, into: Buffer.alloc(10) })).rejects.toMatchObject({
        code: 'not-found',
      });
    }
    await store.put('absent', content);
    proxy.requests.length = 0;
    await part(store, 'absent', 0, 1000);
    expect(proxy.requests.filter(bySdk)).toEqual([]);
  });

  test('errors are those of the SDK: another etag, a short object, an end behind it', async () => {
    const store = await openStore('errors');
    const into = Buffer.alloc(1000);
    const get = (offset: number, ifMatch?: string): Promise<Buffer> =>
      store.get('errors', { offset, length: into.length, into, ...(ifMatch === undefined ? {} : { ifMatch }) });
    const etag = (await store.head('errors'))?.etag ?? '';
    expect((await get(0, etag)).equals(content.subarray(0, 1000))).toBe(true);
    await expect(get(0, 'another')).rejects.toMatchObject({ code: 'conflict' });
    await expect(get(BYTES - 10)).rejects.toMatchObject({ code: 'corrupt' });
    await expect(get(BYTES + 10)).rejects.toMatchObject({ code: 'corrupt' });
  });

  test('credentials that were replaced sign the next GET', async () => {
    let secret = server.secretAccessKey;
    const source: CredentialSource = async () => ({ accessKeyId: server.accessKeyId, secretAccessKey: secret });
    const store = await openStore('rotated', source);
    secret = 'revoked';
    await expect(part(store, 'rotated', 0, 1000)).rejects.toMatchObject({ code: 'denied' });
    secret = server.secretAccessKey;
    proxy.requests.length = 0;
    await part(store, 'rotated', 0, 1000);
    expect(proxy.requests.filter(bySdk)).toEqual([]);
  });

  test('a server that does not answer ends by the deadline of the caller, and is not asked again', async () => {
    const store = await openStore('silent');
    const stop = new AbortController();
    proxy.decide = () => {
      stop.abort();
      return 'silence';
    };
    const into = Buffer.alloc(1000);
    const getting = store.get('silent', { offset: 0, length: 1000, into, signal: stop.signal });
    await expect(getting).rejects.toMatchObject({ code: 'aborted' });
    expect(proxy.requests).toHaveLength(1);
  });
});
