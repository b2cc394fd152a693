/** The installed agent with each kind of source, a TLS connection of each that has one, and each optional library, into a real Kafka. */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { gzipSync } from 'node:zlib';
import { connectAsync } from 'mqtt';
import { expect, onTestFinished } from 'vitest';
import type { Log } from '../../lib/log/log.ts';
import { openLog } from '../../lib/registry.ts';
import { makeCertificates } from '../support/certificates.ts';
import { KAFKA_PASSWORD, KAFKA_USER, type KafkaBroker } from '../support/kafka.ts';
import { goodDevice } from '../support/modbus-device.ts';
import { Mosquitto } from '../support/mosquitto.ts';
import { start } from '../support/mount-guard.ts';
import { installOpcuaLibrary, OpcuaServer } from '../support/opcua-server.ts';
import { HANG_MS } from '../support/hang.ts';
import { freePorts } from '../support/ports.ts';
import { tempDir } from '../support/temp.ts';

const root = join(import.meta.dirname, '..', '..');
/** Topic of each source, and how many records are in it at the least. */
const EXPECTED: Readonly<Record<string, number>> = {
  ...{ file: 20, http: 1, mqtt: 1, syslog: 1 },
  ...{ modbus: 1, opcua: 1, host: 1, simulator: 10 },
};
const WAIT = { timeout: HANG_MS, interval: 200 };

/** Resolves to the exit status of the agent, which was told to end when records of every source were in Kafka. */
export async function runEverySource(
  environment: Readonly<Record<string, string>>,
  penstock: string,
  broker: KafkaBroker,
  client: string,
): Promise<number | null> {
  const dir = tempDir('every-source');
  const { ca, server } = makeCertificates(dir);
  installOpcuaLibrary(dir);
  const opcua = await OpcuaServer.start(dir);
  const modbus = await goodDevice();
  const mqtt = await Mosquitto.start(`cafile ${ca}`, `certfile ${server.cert}`, `keyfile ${server.key}`);
  onTestFinished(() => mqtt.stop());
  await publishRetained(mqtt.url('mqtts'), ca);
  writeRotated(join(dir, 'logs'));
  copyFileSync(join(root, 'deploy', 'examples', 'wasm', 'smooth.wasm'), join(dir, 'smooth.wasm'));
  writeFileSync(join(dir, 'password'), KAFKA_PASSWORD);
  const [http = 0, syslog = 0] = await freePorts(2);
  const log = `kafka://${broker.tls}?tls=true&ca=${broker.caFile}&sasl=scram-sha-512&user=${KAFKA_USER}&passwordFile=./password&client=${client}`;
  const tls = `tls: { cert: ${server.cert}, key: ${server.key} }`;
  const to = (source: string): string => `to: ${client}.${source}`;
  const yaml = `agent: { id: edge, dataDir: ./agent }
log: '${log}'
sources:
  - { type: file, path: './logs/in*', sensor: id, ${to('file')} }
  - { type: http, listen: '127.0.0.1:${http}', sensor: id, ${tls}, ${to('http')} }
  - { type: mqtt, url: '${mqtt.url('mqtts')}', topics: ['plant/#'], tls: { ca: ${ca} }, ${to('mqtt')} }
  - { type: syslog, listen: '127.0.0.1:${syslog}', transport: tcp, ${tls}, ${to('syslog')} }
  - { type: modbus, url: '${modbus.url}', interval: 100ms, groups: [{ sensor: d, registers: [{ name: r, address: 0 }] }], ${to('modbus')} }
  - { type: opcua, url: 'opc.tcp://127.0.0.1:${opcua.port}', nodes: [{ node: ns=1;s=counter, sensor: c }], ${to('opcua')} }
  - { type: host, interval: 1s, ${to('host')} }
  - { type: simulator, rate: 100, count: 10, sensors: 1, seed: 1, ${to('simulator')} }
transforms:
  - { type: filter, on: ${client}.file, keep: 'value.n >= 0' }
  - { type: wasm, on: ${client}.file, module: ./smooth.wasm, config: { field: n, alpha: 0.2 } }
`;
  writeFileSync(join(dir, 'agent.yaml'), yaml);
  const pairs = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  const agent = start('env', ['-i', ...pairs, penstock, 'agent', 'run', '-c', join(dir, 'agent.yaml')]);
  let said = '';
  agent.child.stderr?.on('data', (text: string) => (said += text));
  const seen = await openLog(`kafka://${broker.plain}`);
  onTestFinished(() => seen.close());
  const absent = async (): Promise<string[]> => {
    if (agent.child.exitCode !== null) return [`the agent ended: ${said}`];
    await Promise.all([post(http, ca), sendSyslog(syslog, ca)]);
    const counts = Object.keys(EXPECTED).map(
      async (source) => [source, await countIn(seen, `${client}.${source}`)] as const,
    );
    return (await Promise.all(counts))
      .filter(([source, count]) => count < (EXPECTED[source] ?? 0))
      .map(([source, count]) => `${source} has ${count}: ${said}`);
  };
  await expect.poll(absent, WAIT).toEqual([]);
  agent.child.kill('SIGTERM');
  return (await agent.finished).status;
}

async function countIn(log: Log, topic: string): Promise<number> {
  const { partitions } = (await log.topic(topic)) ?? { partitions: 0 };
  let count = 0;
  for (let partition = 0; partition < partitions; partition += 1) {
    const { earliest, end } = await log.offsets(topic, partition);
    count += Number(end - earliest);
  }
  return count;
}

/** Nothing happens where nobody listens yet. */
function post(port: number, ca: string): Promise<void> {
  const headers = { 'content-type': 'application/json', 'idempotency-key': 'once' };
  return new Promise((resolve) => {
    const asked = request({ port, host: '127.0.0.1', method: 'POST', headers, ca: readFileSync(ca) }, (response) => {
      response.resume();
      resolve();
    });
    asked.on('error', () => resolve());
    asked.end('{"id":"h","n":1}');
  });
}

/** The same. */
function sendSyslog(port: number, ca: string): Promise<void> {
  const message = '<13>1 2026-01-01T00:00:00Z host app - - - hello';
  return new Promise((resolve) => {
    const socket = connectTls({ port, host: '127.0.0.1', ca: readFileSync(ca) }, () => {
      socket.end(`${message.length} ${message}`, () => resolve());
    });
    socket.on('error', () => resolve());
  });
}

async function publishRetained(url: string, ca: string): Promise<void> {
  const client = await connectAsync(url, { ca: readFileSync(ca) });
  await client.publishAsync('plant/x', '5', { qos: 1, retain: true });
  await client.endAsync();
}

/** Two files of ten lines: one that is written to, and what logrotate made of an older one. */
function writeRotated(logs: string): void {
  mkdirSync(logs);
  const lines = (from: number): string =>
    Array.from({ length: 10 }, (_, index) => `{"id":"m","n":${from + index}}\n`).join('');
  writeFileSync(join(logs, 'in.ndjson'), lines(10));
  writeFileSync(join(logs, 'in.ndjson.1.gz'), gzipSync(lines(0)));
}
