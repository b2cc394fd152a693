/** A catalog that wants a token, which its client asks for: Iceberg's reference hands them out, and a proxy before it lets nobody in without one. */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { loadTable } from '../../lib/table/table.ts';
import { startIcebergRest } from '../support/iceberg-rest.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { openForeignPipeline, records } from './foreign-catalog-pipeline.ts';
import { DATASET, landOnce, TestProducer } from './pipeline.ts';

const CREDENTIAL = 'plant-a:s3cr:et';

/** What the guard saw and does. */
interface Guard {
  readonly url: string;
  /** Forms of the requests for tokens. */
  readonly asked: URLSearchParams[];
  /** Requests that were let in. */
  readonly passed: string[];
  /** No token that was handed out is taken any more; answered with `status`. */
  revoke(status: number): void;
}

/** Hands out the target's tokens, each with a number, and passes on what carries the newest one. */
async function startGuard(target: string, lifeS?: number): Promise<Guard> {
  const asked: URLSearchParams[] = [];
  const passed: string[] = [];
  let [valid, refusedWith] = ['', 401];
  const server = createServer((request, response) => {
    void (async () => {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer); // what a request gives
      const { method = 'GET', url = '', headers } = request;
      const { authorization = '', 'content-type': type = 'application/json' } = headers;
      const isToken = url === '/v1/oauth/tokens';
      if (!isToken && (valid === '' || authorization !== `Bearer ${valid}`)) {
        response.writeHead(refusedWith, { 'content-type': 'application/json' });
        response.end(JSON.stringify({ error: { message: 'who is it?', type: 'NotAuthorizedException', code: 401 } }));
        return;
      }
      const body = parts.length === 0 ? {} : { body: Buffer.concat(parts) };
      const answer = await fetch(`${target}${url}`, { method, headers: { 'content-type': type }, ...body });
      let text = await answer.text();
      if (isToken) {
        asked.push(new URLSearchParams(Buffer.concat(parts).toString()));
        const token = JSON.parse(text) as { readonly access_token: string };
        valid = `${token.access_token}-${asked.length}`;
        text = JSON.stringify({ ...token, access_token: valid, ...(lifeS === undefined ? {} : { expires_in: lifeS }) });
      } else {
        passed.push(`${method} ${url}`);
      }
      response.writeHead(answer.status, { 'content-type': 'application/json' }).end(text);
    })();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.close().closeAllConnections();
  });
  const { port } = server.address() as AddressInfo; // a TCP server's
  const revoke = (status: number): void => void ([valid, refusedWith] = ['', status]);
  return { url: `http://127.0.0.1:${port}`, asked, passed, revoke };
}

describe.skipIf(missing('iceberg-rest'))('a catalog with OAuth', () => {
  test('is asked with a token that the client gets by its credential, and again when it is no longer taken', async () => {
    const guard = await startGuard(await startIcebergRest());
    const credentialFile = join(tempDir('oauth'), 'credential');
    writeFileSync(credentialFile, `${CREDENTIAL}\n`);
    const pipeline = await openForeignPipeline(guard.url, `credentialFile: '${credentialFile}', scope: 'all of it'`);
    const producer = new TestProducer(pipeline.log);
    await producer.append(0, records(0));
    expect((await landOnce(pipeline)).problems).toEqual([]);
    expect(guard.asked.map((form) => Object.fromEntries(form))).toEqual([
      { grant_type: 'client_credentials', client_id: 'plant-a', client_secret: 's3cr:et', scope: 'all of it' },
    ]);
    for (const status of [401, 419]) {
      guard.revoke(status);
      await producer.append(0, records(100 + status));
      const before = guard.asked.length;
      expect((await landOnce(pipeline)).problems).toEqual([]);
      expect(guard.asked.length).toBe(before + 1);
    }
    expect(guard.passed.filter((request) => request.startsWith('POST')).length).toBeGreaterThanOrEqual(3);
  });

  test('asks anew before a token runs out', async () => {
    const guard = await startGuard(await startIcebergRest(), 0.001);
    const credentialFile = join(tempDir('oauth'), 'credential');
    writeFileSync(credentialFile, CREDENTIAL);
    const pipeline = await openForeignPipeline(guard.url, `credentialFile: '${credentialFile}'`);
    await new TestProducer(pipeline.log).append(0, records(0));
    expect((await landOnce(pipeline)).problems).toEqual([]);
    expect(guard.asked.length).toBeGreaterThan(1);
    expect(guard.asked[0]?.get('scope')).toBe('catalog');
  });
});

test('a credential that is refused, or is none, is named without its secret', async () => {
  const server = createServer((_request, response) => {
    response.writeHead(401, { 'content-type': 'application/json' });
    response.end('{"error":"invalid_client","error_description":"no such client"}');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.close().closeAllConnections();
  });
  const { port } = server.address() as AddressInfo; // a TCP server's
  const url = `http://127.0.0.1:${port}`;
  const path = join(tempDir('oauth'), 'credential');
  const { lake } = await openForeignPipeline(url, `credentialFile: '${path}', oauthUri: '${url}/token'`);
  const load = (content: string): Promise<unknown> => {
    writeFileSync(path, content);
    return loadTable(lake, DATASET).then(String, (error: unknown) => error);
  };
  expect(await load(CREDENTIAL)).toMatchObject({
    code: 'denied',
    message: `no token from ${url}/token: 401 invalid_client: no such client (catalog.credentialFile, catalog.scope)`,
  });
  for (const content of ['', 'plant-a', 'plant-a:', ':secret']) {
    const error = await load(content);
    expect(error).toMatchObject({
      code: 'config',
      message: expect.stringContaining('CLIENT_ID:CLIENT_SECRET') as string,
    });
    expect(String(error)).not.toContain('secret,');
  }
  await expect(openForeignPipeline(url, 'tokenFile: a, credentialFile: b')).rejects.toThrow('a token and a credential');
});
