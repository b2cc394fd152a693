/**
 * The control plane as a fleet and its people use it: agents that send heartbeats, readers who ask as fast as they are answered, and pages of a long list of runs.
 *
 *   node bench/control.ts [--seconds 10] [--agents 1000] [--runs 100000] [--readers 8] [--rate 0] [--redis] [--penstock PATH]
 *
 * `--rate`: reads a second of all readers together; 0: as many as are answered. Every agent has a connection of its own. The clients run in this process, beside the
 * server on the same cores; what each of the two used of the CPU is told, and for each path what one request costs the server when nothing else is asked (the figure
 * that others on the machine change least). `--redis`: on a Redis of its own, as a fleet has it; else, and always store and log, the embedded ones. `--penstock`: that of
 * an installed package, which is compiled; else that of this checkout. Prints figures, asserts nothing.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { parseConfig } from '../lib/config/load.ts';
import { pipelineSchema } from '../lib/config/pipeline.ts';
import { costBucket, type NewCostRecord } from '../lib/lake/cost-records.ts';
import { openLake } from '../lib/lake/ports.ts';
import { COMMIT_RECORDS_MAX } from '../lib/meta/engine.ts';
import { startRedis } from '../test/support/redis.ts';
import { KeepAliveClient, type Answer } from './keep-alive-client.ts';
import { cpuSecondsOf, sampleMemory } from './memory-sampler.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    agents: { type: 'string', default: '1000' },
    runs: { type: 'string', default: '100000' },
    readers: { type: 'string', default: '8' },
    rate: { type: 'string', default: '0' },
    redis: { type: 'boolean', default: false },
    penstock: { type: 'string', default: join(import.meta.dirname, '../bin/penstock') },
  },
});
const [seconds, agents, runs, readers, rate] = [
  values.seconds,
  values.agents,
  values.runs,
  values.readers,
  values.rate,
].map(Number) as [number, number, number, number, number]; // five texts are five numbers
const TOKEN = 'first-administrator-token-0123456789';
const HEARTBEAT_MS = 10_000;
/** As long as 100,000 runs take on a busy machine. */
const READ_IN_MS = 4000;
/** As many as the compactor keeps of each at most are 20,500. */
const DATASETS = ['line.a', 'line.b', 'line.c', 'line.d', 'line.e'];
/** What the admin page asks. */
const READS = ['/v1/overview', '/v1/datasets', '/v1/runs?limit=20', '/v1/agents?limit=20'];
/** One is limited to 2,000 requests a second. */
const VIEWERS = 8;
const STATUS = {
  version: '0.1.0',
  readings: 123_456,
  spool: { bytes: 1_000_000, maxBytes: 10_000_000_000, topics: [{ topic: 'host', accepted: 1, acknowledged: 1 }] },
  sources: Array.from({ length: 5 }, (_, n) => ({ name: `source-${n}`, readings: 1000 * n, problem: null })),
};

const redis = values.redis ? await startRedis() : undefined;
const dir = mkdtempSync(join(tmpdir(), 'penstock-bench-'));
const yaml = [
  ...[`log: file:${join(dir, 'log')}`, `store: dir:${join(dir, 'objects')}`],
  `meta: ${redis?.url() ?? `sqlite:${join(dir, 'meta.db')}`}`,
  'datasets:',
  ...DATASETS.map((name) => `  - { name: ${name}, topic: ${name}, sort: [sensor] }`),
].join('\n');
const file = join(dir, 'pipeline.yaml');
async function writeRuns(count: number): Promise<void> {
  const ports = await openLake(parseConfig(yaml, file, pipelineSchema), dir, 'bench');
  const { engine, volume } = ports.lake;
  const endMs = Date.now();
  for (let at = 0; at < count; at += COMMIT_RECORDS_MAX) {
    const write = Array.from({ length: Math.min(COMMIT_RECORDS_MAX, count - at) }, (_, k) => {
      const startedMs = endMs - (at + k) * 60_000;
      const [amount, none] = [1000 + k, 0];
      const record: NewCostRecord = {
        ...{ kind: k % 5 === 0 ? 'compact' : 'land', startedMs, seconds: 2.5, cpuSeconds: 1.25 },
        ...{ rows: amount, bytesRead: amount * 20, bytesWritten: amount * 8, gets: none, puts: 4 },
      };
      const field = `${new Date(startedMs).toISOString()}-${(at + k).toString(16).padStart(8, '0')}`;
      const bucket = costBucket(volume, DATASETS[(at + k) % DATASETS.length] ?? '');
      return { key: { bucket, field }, value: Buffer.from(JSON.stringify(record)) };
    });
    await engine.commit({ write });
  }
  await ports.close();
}

function told(times: number[]): string {
  times.sort((a, b) => a - b);
  const at = (part: number): string => (times[Math.floor((times.length - 1) * part)] ?? NaN).toFixed(1);
  return `${at(0.5)} ms in the middle, ${at(0.99)} ms for 99 of 100, ${at(1)} ms at most`;
}

async function timed(times: number[], work: () => Promise<Answer>): Promise<Buffer> {
  const startMs = performance.now();
  const { status, body } = await work();
  if (status >= 300) throw new Error(`${status}: ${body.toString('utf8', 0, 300)}`);
  times.push(performance.now() - startMs);
  return body;
}

/** Every agent once in HEARTBEAT_MS, one after the other, each over its own connection. */
async function heartbeats(clients: readonly KeepAliveClient[], token: string, untilMs: number): Promise<number[]> {
  const times: number[] = [];
  const sent: Promise<unknown>[] = [];
  const startMs = performance.now();
  for (let n = 0; performance.now() < untilMs; n++) {
    await sleep(Math.max(0, startMs + (n * HEARTBEAT_MS) / agents - performance.now()));
    const which = n % agents;
    const client = clients[which];
    if (client === undefined) throw new Error(`agent ${which} has no connection`);
    sent.push(timed(times, () => client.ask(`/v1/agents/edge-${which}/heartbeat`, token, 'POST', { status: STATUS })));
  }
  await Promise.all(sent);
  return times;
}

/** Times by path. Every reader asks for one path after the other. */
async function reads(
  clients: readonly KeepAliveClient[],
  paths: readonly string[],
  tokens: readonly string[],
  untilMs: number,
): Promise<number[][]> {
  const times = paths.map((): number[] => []);
  const startMs = performance.now();
  const paceMs = rate === 0 ? 0 : (clients.length * 1000) / rate;
  const read = async (client: KeepAliveClient, reader: number): Promise<void> => {
    for (let n = 0; performance.now() < untilMs; n++) {
      const waitMs = startMs + (n + reader / clients.length) * paceMs - performance.now();
      if (paceMs > 0 && waitMs > 0) await sleep(waitMs);
      const which = n % paths.length;
      await timed(times[which] ?? [], () => client.ask(paths[which] ?? '/', tokens[reader % tokens.length] ?? ''));
    }
  };
  await Promise.all(clients.map(read));
  return times;
}

async function pages(client: KeepAliveClient): Promise<void> {
  const first: number[] = [];
  const next: number[] = [];
  let cursor: string | null = null;
  for (let page = 0; page < 200; page++) {
    const query = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`;
    const body = await timed(page === 0 ? first : next, () => client.ask(`/v1/runs?limit=100${query}`, TOKEN));
    ({ nextCursor: cursor } = JSON.parse(body.toString('utf8')) as { nextCursor: string | null });
    if (cursor === null) break;
  }
  console.log(`runs, the first page, when nothing is in memory: ${(first[0] ?? NaN).toFixed(0)} ms`);
  console.log(`runs, ${next.length} pages of 100 behind it: ${told(next)}`);
}

async function makeToken(client: KeepAliveClient, name: string, role: string): Promise<string> {
  const { body } = await client.ask('/v1/tokens', TOKEN, 'POST', { name, role });
  return (JSON.parse(body.toString('utf8')) as { token: string }).token;
}

const open = (base: URL, count: number): Promise<KeepAliveClient[]> =>
  Promise.all(Array.from({ length: count }, () => KeepAliveClient.open(base)));

console.log(
  `${cpus().length} x ${cpus()[0]?.model ?? 'unknown CPU'}, load ${(loadavg()[0] ?? 0).toFixed(1)}, node ${process.version}, ${JSON.stringify(values)}`,
);
writeFileSync(file, yaml);
await writeRuns(runs);
const server = spawn(values.penstock, ['serve', '-c', file, '--port', '0'], {
  env: { ...process.env, PENSTOCK_TOKEN: TOKEN },
  stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
});
const clients: KeepAliveClient[] = [];
try {
  const [message] = (await once(server, 'message')) as [{ readonly url: string }];
  const base = new URL(message.url);
  const pid = server.pid ?? 0; // it has sent a message
  const memory = sampleMemory(pid);
  const ofReaders = await open(base, readers);
  const ofAgents = await open(base, agents);
  clients.push(...ofReaders, ...ofAgents);
  const [first] = ofReaders;
  if (first === undefined) throw new Error('--readers: expected at least 1');
  const agentToken = await makeToken(first, '*', 'agent');
  const [meanwhile] = await Promise.all([
    heartbeats(ofAgents, agentToken, performance.now() + READ_IN_MS),
    pages(first),
  ]);
  console.log(`${meanwhile.length} heartbeats of new agents, while the runs are read: ${told(meanwhile)}`);
  const viewers: string[] = [];
  for (let n = 0; n < VIEWERS; n++) viewers.push(await makeToken(first, `viewer ${n}`, 'viewer'));

  const [serverCpu, ownCpu, startMs] = [cpuSecondsOf(pid), process.cpuUsage(), performance.now()];
  const untilMs = startMs + seconds * 1000;
  const [beats, answered] = await Promise.all([
    heartbeats(ofAgents, agentToken, untilMs),
    reads(ofReaders, READS, viewers, untilMs),
  ]);
  const tookSeconds = (performance.now() - startMs) / 1000;
  const own = process.cpuUsage(ownCpu);
  const ofServer = cpuSecondsOf(pid) - serverCpu;
  console.log(`${beats.length} heartbeats of ${agents} agents: ${told(beats)}`);
  const count = answered.flat().length;
  console.log(`${Math.round(count / tookSeconds)} reads/s with ${readers} readers`);
  for (const [which, times] of answered.entries()) console.log(`  ${READS[which] ?? ''}: ${told(times)}`);
  console.log(
    `CPU: server ${ofServer.toFixed(1)} s (${((ofServer * 1e6) / (count + beats.length)).toFixed(0)} us a request), clients ${((own.user + own.system) / 1e6).toFixed(1)} s, of ${tookSeconds.toFixed(1)} s`,
  );
  for (const path of READS) {
    const before = cpuSecondsOf(pid);
    const asked = await reads(ofReaders, [path], viewers, performance.now() + (seconds * 1000) / 4);
    console.log(
      `alone ${path}: ${(((cpuSecondsOf(pid) - before) * 1e6) / asked.flat().length).toFixed(0)} us of CPU a request`,
    );
  }
  console.log(`memory of the server: ${Math.round(memory.stop().together / 1e6)} MB at most`);
} finally {
  for (const client of clients) client.close();
  server.kill();
  await once(server, 'exit');
  await redis?.stop();
  rmSync(dir, { recursive: true, force: true });
}
