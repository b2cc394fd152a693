import { afterAll, beforeAll, describe } from 'vitest';
import { describeMetaContract } from '../support/meta-contract.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';

describeMetaContract('SQLite', async () => `sqlite:${tempDir('meta')}/meta.db`);

describe.skipIf(missing('redis-server'))('with a redis-server', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server.stop());

  describeMetaContract('Redis', async () => {
    await server.admin.flushall();
    // Not database 0: channels are common to all databases, keys are not.
    return server.url(3);
  });
});
