/**
 * What a metadata engine does: commits like a file's creation, and reads. Usage: node bench/meta.ts [URL...]; without a URL, SQLite in
 * both durabilities, and Redis on a server of its own. On Redis, `usec_per_call` is the server's time in the commit script.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MetaEngine, Minitransaction } from '../lib/meta/engine.ts';
import { openMeta } from '../lib/registry.ts';

const SECONDS = 2;
const TAG = '{bench}';
const SERVER = 'redis-server';
const CLIENT = 'redis-cli';

/** As the file system creates a file: the name absent, the directory unchanged, three records, two patches, one message. */
function creation(n: number): Minitransaction {
  return {
    compare: [{ key: { bucket: `${TAG}d:${n % 64}`, field: `file-${n}` }, version: null }],
    write: [
      { key: { bucket: `${TAG}d:${n % 64}`, field: `file-${n}` }, value: Buffer.alloc(12, n) },
      { key: { bucket: `${TAG}i:${n >> 8}`, field: String(n & 255) }, value: Buffer.alloc(40, n) },
      { key: { bucket: `${TAG}b:${n >> 8}`, field: String(n & 255) }, value: Buffer.alloc(64, n) },
    ],
    patch: [
      { number: { bucket: `${TAG}t:${n % 64}`, field: 'm' }, max: 1_795_739_545_206_000_000n + BigInt(n) },
      { number: { bucket: `${TAG}n`, field: 'inodes' }, add: 1n },
    ],
    publish: [{ shard: `${TAG}s:${n % 16}`, message: Buffer.alloc(20, n) }],
    operation: `create-${n}`,
  };
}

async function perSecond(concurrent: number, action: (n: number) => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  let count = 0;
  const worker = async (): Promise<void> => {
    while (performance.now() - startMs < SECONDS * 1000) await action(count++);
  };
  await Promise.all(Array.from({ length: concurrent }, worker));
  return Math.round(count / ((performance.now() - startMs) / 1000));
}

async function measure(engine: MetaEngine): Promise<Record<string, number>> {
  let next = 0;
  const create = async (): Promise<void> => {
    const result = await engine.commit(creation(next++));
    if (!result.ok) throw new Error('the engine was not empty');
  };
  const read = (n: number): Promise<unknown> => {
    const file = n % next;
    return engine.read([{ bucket: `${TAG}i:${file >> 8}`, field: String(file & 255) }]);
  };
  return {
    'commits/s, 1': await perSecond(1, create),
    'commits/s, 32': await perSecond(32, create),
    'reads/s, 1': await perSecond(1, read),
    'reads/s, 32': await perSecond(32, read),
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
  server.close();
  return port;
}

/** Runs `action` on a redis-server of its own; returns what the server says of the commit script. */
async function withRedis(dir: string, action: (url: string) => Promise<void>): Promise<void> {
  const port = await freePort();
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', dir];
  const server = spawn(SERVER, args, { stdio: 'ignore' });
  try {
    await action(`redis://127.0.0.1:${port}/0`);
    const stats = execFileSync(CLIENT, ['-p', String(port), 'info', 'commandstats'], { encoding: 'utf8' });
    console.log(`  ${/cmdstat_evalsha:.*usec_per_call=[\d.]+/.exec(stats)?.[0] ?? 'no EVALSHA'}`);
  } finally {
    server.kill();
    await once(server, 'exit');
  }
}

async function report(url: string): Promise<void> {
  const engine = await openMeta(url, { kind: 'bench' });
  try {
    const figures = Object.entries(await measure(engine)).map(([name, value]) => `${name}: ${value}`);
    console.log(`${engine.url.replace(/^(sqlite:).*\//, '$1')}\n  ${figures.join('   ')}`);
  } finally {
    await engine.close();
  }
}

console.log(
  `${cpus()[0]?.model ?? 'unknown processor'}, ${cpus().length} cores, Node ${process.version}, ${SECONDS} s each`,
);
const urls = process.argv.slice(2);
const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-'));
try {
  for (const url of urls) await report(url);
  if (urls.length === 0) {
    await report(`sqlite:${dir}/commit.db`);
    await report(`sqlite:${dir}/flush.db?durability=flush`);
    await withRedis(dir, report);
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
