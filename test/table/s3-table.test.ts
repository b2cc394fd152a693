/** A table on a real S3 server whose every request fails once. */
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { openS3Store } from '../../lib/store/s3/s3-store.ts';
import { commitTable } from '../../lib/table/commit.ts';
import type { DataFile } from '../../lib/table/data-file.ts';
import { createTable } from '../../lib/table/table.ts';
import { startFaultProxy } from '../support/s3-fault-proxy.ts';
import type { ProxyFault } from '../support/s3-fault-proxy.ts';
import { missing } from '../support/services.ts';
import { startVersitygw } from '../support/versitygw.ts';
import type { S3Server } from '../support/versitygw.ts';
import { dataFile, liveNames, metadataObjects, openLake, SCHEMA, TABLE } from './lake.ts';

describe.skipIf(missing('versitygw'))('a table on S3', () => {
  let server: S3Server;
  beforeAll(async () => {
    server = await startVersitygw();
    vi.stubEnv('AWS_ACCESS_KEY_ID', server.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', server.secretAccessKey);
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await server.stop();
  });

  async function lakeBehindProxy() {
    const bucket = `lake-${Math.random().toString(36).slice(2)}`;
    server.createBucket(bucket);
    const proxy = await startFaultProxy(server.endpoint);
    onTestFinished(() => proxy.stop());
    const store = await openS3Store(new URL(`s3://${bucket}/data?endpoint=${proxy.endpoint}`));
    onTestFinished(() => store.close());
    return { lake: { ...(await openLake()), store }, store, proxy };
  }

  it.each<ProxyFault>([{ status: 503 }, 'cutBefore', 'cutAfter', 'cutBody'])('commits through %s', async (fault) => {
    const { lake, store, proxy } = await lakeBehindProxy();
    const seen = new Set<string>();
    proxy.decide = (method, path) => {
      const first = !seen.has(`${method} ${path}`);
      seen.add(`${method} ${path}`);
      return first ? fault : 'pass';
    };
    await createTable(lake, TABLE, { schema: SCHEMA });
    const files = ['a', 'b', 'c'].map((name) => dataFile(store, name));
    const commit = (add: readonly DataFile[], remove: readonly DataFile[]) =>
      commitTable(lake, TABLE, async () => ({
        change: { operation: 'replace', add, remove: remove.map(({ location }) => location) },
        extra: {},
      }));
    await commit(files.slice(0, 2), []);
    await commit(files.slice(2), files.slice(0, 1));
    expect(await liveNames(lake)).toEqual(['b', 'c']);
    expect(await metadataObjects(lake)).toHaveLength(7);
    expect(proxy.requests.length).toBeGreaterThan(20);
  });

  it('commits by three requests that write and one minitransaction', async () => {
    const { lake, store, proxy } = await lakeBehindProxy();
    await createTable(lake, TABLE, { schema: SCHEMA });
    const [a, b] = [dataFile(store, 'a'), dataFile(store, 'b')];
    const change = (operation: 'append' | 'replace', add: readonly DataFile[], remove: readonly string[]) => () =>
      Promise.resolve({ change: { operation, add, remove }, extra: {} });
    for (const next of [change('append', [a], []), change('replace', [b], [a.location])]) {
      const before = proxy.requests.length;
      const transactions = vi.spyOn(lake.engine, 'commit');
      await commitTable(lake, TABLE, next);
      const methods = proxy.requests.slice(before).map((request) => request.split(' ')[0]);
      expect(methods.filter((method) => method !== 'GET')).toEqual(['PUT', 'PUT', 'PUT']);
      expect(transactions).toHaveBeenCalledTimes(1);
      transactions.mockRestore();
    }
  });
});
