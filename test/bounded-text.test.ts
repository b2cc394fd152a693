/** Servers whose answers have no end: whoever asks them gives up at a bound, with the reason. */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { ControlPlane } from '../agent/control/control-plane.ts';
import { agentSchema } from '../agent/config.ts';
import { SchemaRegistry } from '../compactor/values/registry.ts';
import { Oidc } from '../control/auth/oidc.ts';
import { boundedText } from '../lib/bounded-text.ts';
import { systemClock } from '../lib/clock.ts';
import { parseConfig } from '../lib/config/load.ts';
import { openS3Store } from '../lib/store/s3/s3-store.ts';
import { CatalogToken } from '../lib/table/foreign/catalog-token.ts';
import { openTestPipeline } from './compactor/pipeline.ts';
import { until } from './support/mount-guard.ts';
import { tempDir } from './support/temp.ts';

const CHUNK = Buffer.alloc(1 << 16, ' ');
/** Above every bound that is tried here, and what the buffers of the sockets hold. */
const BYTES_MAX = 64 << 20;

interface EndlessServer {
  readonly url: string;
  /** Resolves when so many answers were given up, all of them before they had BYTES_MAX. */
  readonly gaveUp: (answers: number) => Promise<void>;
}

async function startEndless(status = 200): Promise<EndlessServer> {
  const ended: number[] = [];
  const server = createServer((request, response) => {
    let bytes = 0;
    const more = (): void => {
      while (!response.destroyed && bytes < BYTES_MAX) {
        bytes += CHUNK.length;
        if (!response.write(CHUNK)) {
          response.once('drain', more);
          return;
        }
      }
      response.end();
    };
    response.once('close', () => ended.push(bytes));
    request.resume().once('end', () => {
      response.writeHead(status, { 'content-type': 'application/json' });
      more();
    });
  });
  const gaveUp = async (answers: number): Promise<void> => {
    await until(`${answers} answers that were given up`, () => ended.length === answers);
    expect(ended.every((bytes) => bytes < BYTES_MAX)).toBe(true);
  };
  return { url: await serve(server), gaveUp };
}

async function serve(server: Server): Promise<string> {
  await once(server.listen(0, '127.0.0.1'), 'listening');
  onTestFinished(() => {
    server.close().closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`; // a TCP server's address
}

const told = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'an answer',
    (error: unknown) => error,
  );

test('a text is whole up to the bound, and refused beyond it', async () => {
  const text = 'ä'.repeat(50);
  expect(await boundedText(new Response(text), 100)).toBe(text);
  expect(await boundedText(new Response(null), 0)).toBe('');
  expect(await told(boundedText(new Response(text), 99))).toMatchObject({ code: 'too-large' });
});

test('the token of a catalog, a schema, an answer of the control plane', async () => {
  const { url, gaveUp } = await startEndless();
  const credentialFile = join(tempDir('endless'), 'credential');
  writeFileSync(credentialFile, 'id:secret');
  const token = new CatalogToken(url, { credentialFile });
  expect(await told(token.get())).toMatchObject({ code: 'too-large' });

  const schema = await told(new SchemaRegistry(url).schema(1));
  expect(schema).toMatchObject({ code: 'unavailable', retryable: true });
  expect(String(schema)).toContain('answers more than');

  const yaml = `agent: { id: a, dataDir: ./data }\ncontrol: { url: '${url}' }\nlog: 'file:./log'\nsources: [{ type: simulator, sensors: 1, rate: 1, to: t }]\n`;
  const control = ControlPlane.of({
    config: parseConfig(yaml, 'agent.yaml', agentSchema),
    baseDir: tempDir('endless'),
  });
  const request = { signal: new AbortController().signal, timeoutMs: 20_000 };
  expect(await told(control?.request('config', request) ?? Promise.resolve())).toMatchObject({ code: 'too-large' });
  await gaveUp(3);
});

test('what an issuer of tokens says of itself, and its keys', async () => {
  const issuer = await startEndless();
  const keys = await startEndless();
  const discovery = await serve(
    createServer((_request, response) => {
      response.end(JSON.stringify({ issuer: discovery, jwks_uri: keys.url }));
    }),
  );
  const { config } = await openTestPipeline('', `serve: { oidc: { issuer: '${discovery}', audience: a } }`);
  const { oidc } = config.serve;
  if (oidc === undefined) throw new Error('no oidc');
  // Signed by nobody: the keys are asked for before that is seen.
  const token = [{ alg: 'RS256', kid: 'k' }, { sub: 'ann' }, {}]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.');
  for (const url of [issuer.url, discovery]) {
    expect(await told(new Oidc({ ...oidc, issuer: url }, systemClock).find(token))).toMatchObject({
      code: 'unavailable',
      cause: expect.objectContaining({ code: 'too-large' }) as unknown,
    });
  }
  await issuer.gaveUp(1);
  await keys.gaveUp(1);
});

test('an S3 server: errors, listings, and more than the range that was asked for', async () => {
  const credentials = { accessKeyId: 'id', secretAccessKey: 'secret' };
  for (const status of [200, 206, 403]) {
    const { url, gaveUp } = await startEndless(status);
    const store = await openS3Store(new URL(`s3://bucket/x?endpoint=${encodeURIComponent(url)}`), credentials);
    onTestFinished(() => store.close());
    expect(await told(store.get('a', { offset: 0, length: 10 }))).toMatchObject({ code: 'too-large' });
    expect(await told(Array.fromAsync(store.list('')))).toMatchObject({ code: 'too-large' });
    expect(await told(store.put('a', Buffer.from('a')))).toMatchObject({ code: 'too-large' });
    await gaveUp(3);
  }
});
