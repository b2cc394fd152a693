/** What a mount makes of its store's answers before it comes up (docs/decisions/0085-a-mount-asks-its-store.md). */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { askStore, tryReading } from '../../fs-gateway/try-store.ts';
import { HANG_MS } from '../support/hang.ts';
import { freePort } from '../support/ports.ts';
import { startFaultProxy } from '../support/s3-fault-proxy.ts';
import type { FaultProxy } from '../support/s3-fault-proxy.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { startVersitygw } from '../support/versitygw.ts';
import type { S3Server } from '../support/versitygw.ts';

const ID = '11111111-2222-3333-4444-555555555555';

describe.skipIf(missing('versitygw'))('a mount asks its store', () => {
  let server: S3Server;
  let proxy: FaultProxy;
  let store: string;

  beforeAll(async () => {
    server = await startVersitygw();
    server.createBucket('lake');
    proxy = await startFaultProxy(server.endpoint);
    store = `s3://lake/p?endpoint=${proxy.endpoint}`;
  });
  afterAll(async () => {
    await proxy.stop();
    await server.stop();
  });
  beforeEach(() => {
    vi.stubEnv('AWS_ACCESS_KEY_ID', server.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', server.secretAccessKey);
    proxy.decide = () => 'pass';
    proxy.requests.length = 0;
  });
  afterEach(() => {
    vi.unstubAllEnvs();
  });

  /** An environment without credentials, on a machine that nobody gives any. */
  function withoutCredentials(): void {
    for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE']) vi.stubEnv(name, undefined);
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
    vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', '/nonexistent');
    vi.stubEnv('AWS_CONFIG_FILE', '/nonexistent');
  }

  it('by one request, and accepts a policy that allows listings under the prefix only', async () => {
    // S3 answers so to a HEAD of what is not there: the condition s3:prefix is of listings.
    proxy.decide = (method) => (method === 'HEAD' ? { status: 403 } : 'pass');
    expect(await tryReading({ id: ID, store }, undefined)).toBeUndefined();
    expect(proxy.requests).toHaveLength(1);
    expect(proxy.requests[0]).toContain(`prefix=p%2F${ID}%2F`);
  });

  it('refuses where no credentials are configured', async () => {
    withoutCredentials();
    await expect(tryReading({ id: ID, store }, undefined)).rejects.toMatchObject({
      code: 'denied',
      message: expect.stringContaining('set AWS_ACCESS_KEY_ID') as string,
    });
  });

  it('takes an agent that does not answer for one that is away', async () => {
    withoutCredentials();
    vi.stubEnv('AWS_CONTAINER_CREDENTIALS_FULL_URI', `http://127.0.0.1:${await freePort()}/`);
    await expect(askStore(store, undefined, 'k', HANG_MS)).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('the agent of AWS_CONTAINER_CREDENTIALS_FULL_URI gives none') as string,
    });
  });

  it('comes up while the credential_process of its profile fails', async () => {
    withoutCredentials();
    const config = join(tempDir('aws'), 'config');
    writeFileSync(config, '[default]\nregion = us-east-1\n\n[profile lake]\ncredential_process = /bin/false\n');
    vi.stubEnv('AWS_CONFIG_FILE', config);
    await expect(tryReading({ id: ID, store }, undefined)).rejects.toMatchObject({ code: 'denied' });
    vi.stubEnv('AWS_PROFILE', 'lake');
    expect(await tryReading({ id: ID, store }, undefined)).toContain("credential_process of profile 'lake' gives none");
  });

  it('waits no longer than its deadline for credentials that do not come', async () => {
    withoutCredentials();
    const silent = createServer(() => undefined).listen(0, '127.0.0.1');
    onTestFinished(() => {
      silent.closeAllConnections();
      silent.close();
    });
    await once(silent, 'listening');
    const { port } = silent.address() as AddressInfo; // It listens on TCP.
    vi.stubEnv('AWS_CONTAINER_CREDENTIALS_FULL_URI', `http://127.0.0.1:${port}/`);
    await expect(askStore(store, undefined, 'k', 100)).rejects.toMatchObject({
      code: 'timeout',
      message: expect.stringContaining('within 100 ms') as string,
    });
    expect(proxy.requests).toEqual([]);
  });

  it('refuses a bucket of another region, which is the remedy', async () => {
    proxy.decide = () => ({ status: 301, code: 'PermanentRedirect', headers: { 'x-amz-bucket-region': 'eu-west-1' } });
    await expect(tryReading({ id: ID, store }, undefined)).rejects.toMatchObject({
      code: 'config',
      message: expect.stringContaining('set ?region=eu-west-1') as string,
    });
  });
});
