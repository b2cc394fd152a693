/** Redis with replicas under three real Sentinels, which notice a dead master and make another within about two seconds. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RedisServer, startRedis, until } from './redis.ts';
import { tempDir } from './temp.ts';
import { freePort } from './ports.ts';

const MASTER_NAME = 'lake';
/**
 * Of a Sentinel, ms: shorter than in production, in the same proportions. A replica is chosen only if it was asked within five pings, which it is
 * once a second while the master is down; otherwise one that is behind may be chosen.
 */
const TIMES = {
  'ping-period': 400,
  'info-period': 200,
  'ask-period': 100,
  'publish-period': 200,
  'election-timeout': 1000,
  'min-link-reconnect-period': 200,
  // A loaded test machine is no reason to distrust the clock.
  'tilt-trigger': 20_000,
};

export interface SentinelGroup {
  readonly servers: readonly RedisServer[];
  readonly sentinels: readonly RedisServer[];
  url(query?: string): string;
  /** Who the Sentinels say is the master. */
  master(): Promise<RedisServer>;
  stop(): Promise<void>;
}

/** The caller stops it. The first server is the master. */
export async function startSentinelGroup(replicas: number): Promise<SentinelGroup> {
  const args = ['--appendonly', 'yes', '--appendfsync', 'always', '--repl-diskless-sync', 'yes'];
  const servers: RedisServer[] = [];
  const sentinels: RedisServer[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all([...sentinels, ...servers].map((server) => server.stop()));
  };
  try {
    for (let n = 0; n <= replicas; n++) servers.push(await startRedis(...args));
    const [first, ...others] = servers;
    if (first === undefined) throw new Error('unreachable');
    await Promise.all(others.map((replica) => replica.follow(first)));
    for (let n = 0; n < 3; n++) sentinels.push(await startSentinel(first));
    await until(async () => {
      const states = await Promise.all(sentinels.map((sentinel) => masterState(sentinel)));
      // Each has to know both others, or no majority elects a leader.
      return states.every(
        (state) => state.get('num-other-sentinels') === '2' && state.get('num-slaves') === String(replicas),
      );
    });
  } catch (error) {
    await stop();
    throw error;
  }
  const hosts = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',');
  return {
    servers,
    sentinels,
    url: (query = '') => `redis+sentinel://${hosts}/0?master=${MASTER_NAME}${query}`,
    async master() {
      const ports = await Promise.all(sentinels.map(async (sentinel) => (await masterState(sentinel)).get('port')));
      const [port] = ports;
      const found = servers.find((server) => String(server.port) === port);
      if (found === undefined) throw new Error(`the Sentinels name ${ports.join(', ')}`);
      return found;
    },
    stop,
  };
}

async function startSentinel(master: RedisServer): Promise<RedisServer> {
  const config = join(tempDir('sentinel'), 'sentinel.conf');
  writeFileSync(
    config,
    `sentinel monitor ${MASTER_NAME} 127.0.0.1 ${master.port} 2
sentinel down-after-milliseconds ${MASTER_NAME} 1000
sentinel failover-timeout ${MASTER_NAME} 2000
`,
  );
  const sentinel = new RedisServer(await freePort(), [config, '--sentinel']);
  try {
    await sentinel.start();
    await sentinel.admin.call('SENTINEL', 'DEBUG', ...Object.entries(TIMES).flat());
    return sentinel;
  } catch (error) {
    await sentinel.stop();
    throw error;
  }
}

async function masterState(sentinel: RedisServer): Promise<ReadonlyMap<string, string>> {
  const flat = await sentinel.admin.call('SENTINEL', 'MASTER', MASTER_NAME);
  if (!Array.isArray(flat)) throw new Error('no state of the master');
  const words = flat.map(String);
  return new Map(words.flatMap((word, i) => (i % 2 === 0 ? [[word, words[i + 1] ?? ''] as const] : [])));
}
