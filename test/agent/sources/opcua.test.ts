import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { agentSchema } from '../../../agent/config.ts';
import { validateAgent } from '../../../agent/main.ts';
import { opcuaSource } from '../../../agent/sources/opcua/opcua-source.ts';
import { AgentProcess } from '../../support/agent-process.ts';
import { installOpcuaLibrary, OpcuaServer } from '../../support/opcua-server.ts';
import { missing } from '../../support/services.ts';
import { TcpProxy } from '../../support/tcp-proxy.ts';
import { tempDir } from '../../support/temp.ts';
import { valuesIn } from '../log-values.ts';
import { contentOf, readAll, spoolIn } from '../spool/support.ts';
import { runSource, type RunningSource } from './support.ts';
import type { Spool } from '../../../agent/spool/spool.ts';

const counterNode = { node: 'ns=1;s=counter', sensor: 'counter', samplingInterval: 0, queueSize: 10_000 };
const fast = { publishingInterval: '50ms', keepAlive: '500ms' };

interface Started {
  readonly spool: Spool;
  readonly running: RunningSource;
  readonly end: () => Promise<void>;
}

/** `url` and what is new in the configuration of the source. */
async function start(dir: string, more: Record<string, unknown>): Promise<Started> {
  const source = { type: 'opcua', to: 't', nodes: [counterNode], ...fast, ...more };
  const agent = agentSchema.parse({
    agent: { id: 'edge', dataDir: join(dir, 'agent') },
    log: 'file:x',
    sources: [source],
  });
  const config = agent.sources[0];
  if (config?.type !== 'opcua') throw new Error('the schema changed the type');
  const spool = await spoolIn(join(dir, 'spool'));
  const running = runSource(opcuaSource(config, agent, dir), spool, dir);
  const end = async (): Promise<void> => {
    await running.stop();
    await spool.close();
  };
  return { spool, running, end };
}

async function valuesOf(spool: Spool): Promise<Record<string, unknown>[]> {
  return contentOf(await readAll(spool)).map((value) => JSON.parse(String(value)) as Record<string, unknown>);
}

/** Waits for the counter's last value, then asserts that each one from `from` on is there once, in order. */
async function expectCounted(spool: Spool, last: number, from = 0): Promise<void> {
  const counted = async (): Promise<unknown[]> => (await valuesOf(spool)).map(({ value }) => value);
  await expect.poll(async () => (await counted()).at(-1)).toBe(last);
  expect(await counted()).toEqual(Array.from({ length: last - from + 1 }, (_, index) => from + index));
}

/** Processes that this one started, for OPC UA. */
function clientProcesses(): number[] {
  const pids = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8').trim().split(' ');
  return pids.map(Number).filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('client-process'));
}

function setUp(): string {
  const dir = tempDir();
  installOpcuaLibrary(dir);
  return dir;
}

describe.skipIf(missing('node-opcua'))('with a server', () => {
  test('values of each kind, with quality and the time of their source; a node that is not there is named, the others go on', async () => {
    const dir = setUp();
    const server = await OpcuaServer.start(dir);
    const nodes = [
      { ...counterNode, unit: 'rpm' },
      { node: 'ns=1;s=text', sensor: 'text', samplingInterval: 0 },
      { node: 'ns=1;s=big', sensor: 'big' },
      { node: 'ns=1;s=list', sensor: 'list' },
      { node: 'ns=1;s=absent', sensor: 'absent', samplingInterval: 0 },
      { node: 'nsu=urn:nobody;s=x', sensor: 'nobody' },
    ];
    const proxy = await TcpProxy.start(() => server.port);
    const { spool, running } = await start(dir, { url: `opc.tcp://127.0.0.1:${proxy.port}`, nodes });
    await expect.poll(() => spool.lastSeq('t')).toBe(4n);
    const problem = (): string => running.output.counters.problem ?? '';
    expect(problem()).toContain('absent (ns=1;s=absent): BadNodeIdUnknown');
    expect(problem()).toContain('nobody (nsu=urn:nobody;s=x): the server has no such namespace');
    const first = new Map((await valuesOf(spool)).map((value) => [value['sensor'], value]));
    expect(first.get('counter')).toMatchObject({ value: 0, quality: 'good', unit: 'rpm' });
    expect(first.get('list')).toMatchObject({ value: [1, 2.5] });
    expect(
      contentOf(await readAll(spool))
        .map(String)
        .find((text) => text.includes('"big"')),
    ).toContain('"value":18446744073709551614,');
    await server.do({ type: 'set', name: 'counter', dataType: 'Double', value: 7.5, timeMs: 1_700_000_000_123 });
    await server.do({ type: 'set', name: 'counter', dataType: 'Double', value: 8, status: 'BadSensorFailure' });
    await server.do({ type: 'set', name: 'text', dataType: 'String', value: 'ü\n' });
    await expect.poll(() => spool.lastSeq('t')).toBe(7n);
    const later = (await valuesOf(spool)).slice(4);
    expect(later.filter(({ sensor }) => sensor === 'counter')).toEqual([
      { sensor: 'counter', ts: 1_700_000_000_123, unit: 'rpm', value: 7.5, quality: 'good' },
      expect.objectContaining({ quality: 'bad', status: 'BadSensorFailure' }),
    ]);
    expect(later).toContainEqual(expect.objectContaining({ sensor: 'text', value: 'ü\n' }));
    // It comes later, and is found when the connection is made again.
    await server.do({ type: 'add', name: 'absent' });
    proxy.reset();
    await expect.poll(() => spool.lastSeq('t')).toBe(8n);
    expect((await valuesOf(spool)).at(-1)).toMatchObject({ sensor: 'absent', value: 1 });
  });

  test('a link that is cut loses nothing and doubles nothing, also without security and a user', async () => {
    const dir = setUp();
    const server = await OpcuaServer.start(dir);
    const proxy = await TcpProxy.start(() => server.port);
    const { spool, running } = await start(dir, { url: `opc.tcp://127.0.0.1:${proxy.port}` });
    await expectCounted(spool, 0);
    const connections = (): number => running.output.counters.events['connection'] ?? 0;
    let last = 0;
    for (let round = 1; round <= 2; round += 1) {
      await expect.poll(connections).toBe(round);
      await server.do({ type: 'count', times: 100 });
      if (round === 2) {
        // The link is dead, and nobody says so.
        await proxy.swallowAnswers();
        await server.do({ type: 'count', times: 100 });
        await expect.poll(() => running.output.counters.problem).not.toBeNull();
        proxy.deliverAnswers();
      }
      proxy.cut();
      await server.do({ type: 'count', times: 100 });
      proxy.restore();
      last = await server.do({ type: 'count', times: 100 });
    }
    await expectCounted(spool, last);
    expect(running.output.counters.events).not.toHaveProperty('subscription_lost');
    // A process that is killed is started again; without a user and security a server gives its subscription to nobody else.
    for (const pid of clientProcesses()) process.kill(pid, 'SIGKILL');
    await expect.poll(() => running.output.counters.events['process_end']).toBe(1);
    await expect.poll(() => running.output.counters.events['subscription_lost']).toBe(1);
  });

  test('kill -9 of the agent, again and again: each value once and in order, also those of the time when it was away', async () => {
    const dir = setUp();
    const server = await OpcuaServer.start(dir);
    writeFileSync(join(dir, 'password'), 'secret\n');
    const agent = new AgentProcess(
      dir,
      `agent: { id: a, dataDir: ./data }
log: file:./log
uplink: { order: oldestFirst }
sources:
  - type: opcua
    url: opc.tcp://127.0.0.1:${server.port}
    to: machine
    user: edge
    passwordFile: ./password
    publishingInterval: 50ms
    keepAlive: 500ms
    nodes: [{ node: ns=1;s=counter, sensor: counter, samplingInterval: 0, queueSize: 10000 }]
`,
    );
    const accepted = (): number => Number(agent.output.trim().split('\n').at(-1));
    let last = 0;
    for (let kill = 0; kill < 3; kill += 1) {
      agent.start();
      await expect.poll(accepted, { interval: 1 }).toBeGreaterThan(last);
      // Some of them are on their way at the kill.
      const counting = server.do({ type: 'count', times: 500 });
      await expect.poll(accepted, { interval: 1 }).toBeGreaterThan(last + (kill === 1 ? 400 : 1));
      last = await counting;
      await agent.end(kill === 2 ? 'SIGTERM' : 'SIGKILL');
      last = await server.do({ type: 'count', times: 100 });
    }
    agent.start();
    await expect.poll(() => accepted() || agent.output).toBe(last + 1);
    expect(await agent.end('SIGTERM')).toBe(0);
    const values = (await valuesIn(dir, 'machine')).map(({ value }) => value);
    expect(values).toEqual(Array.from({ length: last + 1 }, (_, n) => n));
  });

  test('a server that is killed and starts anew is read again, and the loss of its subscription is counted', async () => {
    const dir = setUp();
    const server = await OpcuaServer.start(dir);
    const { spool, running } = await start(dir, { url: `opc.tcp://127.0.0.1:${server.port}` });
    await expectCounted(spool, 0);
    await server.do({ type: 'count', times: 10 });
    await expectCounted(spool, 10);
    await server.kill();
    await expect.poll(() => running.output.counters.problem).not.toBeNull();
    await server.restart();
    await expect.poll(() => running.output.counters.events['subscription_lost']).toBe(1);
    await server.do({ type: 'count', times: 5 });
    await expect.poll(async () => (await valuesOf(spool)).at(-1)?.['value']).toBe(5);
    expect(running.output.counters.problem).toBeNull();
  });

  test('signed and encrypted, for the server that is expected and for a user who is known; what is wrong is said', async () => {
    const dir = setUp();
    const server = await OpcuaServer.start(dir);
    const other = await OpcuaServer.start(join(dir, 'other'));
    writeFileSync(join(dir, 'password'), 'secret\n');
    const url = `opc.tcp://127.0.0.1:${server.port}`;
    const login = { user: 'edge', passwordFile: './password' };
    const security = { policy: 'Basic256Sha256', serverCert: server.certificate };
    const first = await start(dir, { url, security, ...login });
    await expectCounted(first.spool, 0);
    await server.do({ type: 'count', times: 10 });
    await expectCounted(first.spool, 10);
    await first.end();
    const wrongCert = await start(join(dir), {
      url,
      security: { ...security, serverCert: other.certificate },
      ...login,
    });
    await expect.poll(() => wrongCert.running.output.counters.problem ?? '').toMatch(/certificate/i);
    await wrongCert.end();
    writeFileSync(join(dir, 'password'), 'wrong');
    const wrongUser = await start(dir, { url, security, ...login });
    await expect
      .poll(() => wrongUser.running.output.counters.problem ?? '')
      .toMatch(/BadUserAccessDenied|BadIdentityTokenRejected/);
    await wrongUser.end();
  });
});

test('what is wrong with the configuration is said by line and key, and so is a library that is not installed', async () => {
  const dir = tempDir();
  mkdirSync(join(dir, 'x'));
  const path = join(dir, 'agent.yaml');
  const write = (source: string): void =>
    writeFileSync(path, `agent: { id: a }\nlog: file:./log\nsources:\n  - ${source}\n`);
  write(
    "{ type: opcua, url: 'http://x', to: t, passwordFile: p, nodes: [{ node: 'ns=a;b', sensor: a }, { node: 'i=1', sensor: a, deadband: -1 }] }",
  );
  const messages = (await validateAgent(path)).map(({ key, message }) => `${key}: ${message}`);
  expect(messages).toEqual(
    expect.arrayContaining([
      expect.stringContaining('sources[0].url: expected the URL of a server'),
      expect.stringContaining('sources[0].nodes[0].node: expected a node id'),
    ]),
  );
  write("{ type: opcua, url: 'opc.tcp://x:4840', to: t, nodes: [{ node: 'i=2258', sensor: a }] }");
  const [problem] = await validateAgent(path);
  expect(problem?.key).toBe('sources[0].type');
  expect(problem?.message).toContain('npm install node-opcua-client');
});
