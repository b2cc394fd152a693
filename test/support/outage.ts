/**
 * The outage test: lines of a file, HTTP requests and MQTT messages go through an agent into Kafka, while the agent is killed -9 and stopped,
 * and the broker is stopped and killed -9. Used at a small size by test/e2e/outage.test.ts and at full size by bench/outage.ts.
 *
 * Every reading has a number and a sensor. A sender counts one as acknowledged when it was told so: the line is written, the request was
 * answered 200, the message was completed by Mosquitto. In the end each of those must be in Kafka exactly once, in order per sensor.
 */
import { appendFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connectAsync } from 'mqtt';
import { AgentProcess, flawsOf, numberedIn } from './agent-process.ts';
import { type KafkaBroker } from './kafka.ts';
import type { Mosquitto } from './mosquitto.ts';
import { HANG_MS } from './hang.ts';
import { freePorts } from './ports.ts';

export interface OutageOptions {
  /** Acknowledged readings of each source, at least. */
  readonly readings: number;
  readonly kills: number;
  readonly terminations: number;
  readonly brokerDownMs: number;
  readonly kafka: KafkaBroker;
  readonly mosquitto: Mosquitto;
  readonly dir: string;
  /** Between 0 and 1: the moments of the kills. */
  readonly random: () => number;
  readonly say: (text: string) => void;
  /** Takes what is to be ended at the last. */
  readonly atEnd: (end: () => void) => void;
}

export interface OutageResult {
  readonly acknowledged: number;
  readonly inKafka: number;
  readonly repeats: number;
  readonly flaws: readonly string[];
}

const SOURCES = ['file', 'http', 'mqtt'] as const;
const FILE_SENSORS = 5;
const HTTP_CLIENTS = 6;
const MQTT_CLIENTS = 6;
const MQTT_UNDER_WAY = 20;
/** After ten messages of each client. */
const MQTT_PAUSE_MS = 10;
/** Publishers wait while more are on their way to the agent: an overloaded Mosquitto 2.0 breaks the order and the protocol (docs/AGENT.md). */
const MQTT_BACKLOG_MAX = 3000;
/** Sensors of one sender have numbers of their own. */
const NUMBERS_OF_SENSOR = 1e8;

/** What a sender needs to know, and tells. */
class Senders {
  readonly acknowledged: Record<(typeof SOURCES)[number], number[]> = { file: [], http: [], mqtt: [] };
  readonly #readings: number;
  isDisturbed = true;
  /** As the agent told last. */
  mqttInSpool = 0;

  constructor(readings: number) {
    this.#readings = readings;
  }

  /** They go on as long as something is being disturbed. */
  wants(source: (typeof SOURCES)[number]): boolean {
    return this.isDisturbed || this.acknowledged[source].length < this.#readings;
  }

  /** What the agent itself answered: of lines and messages, others are the first keepers. */
  get answered(): number {
    return this.acknowledged.http.length;
  }

  get count(): number {
    return SOURCES.reduce((sum, source) => sum + this.acknowledged[source].length, 0);
  }
}

function lineOf(sensor: number, index: number): { n: number; line: string } {
  const n = sensor * NUMBERS_OF_SENSOR + index;
  return { n, line: JSON.stringify({ n, id: `s${sensor}`, ts: Date.now(), rms: (n % 997) / 7 }) };
}

async function writeLines(path: string, senders: Senders): Promise<void> {
  for (let index = 0; senders.wants('file'); index += 10) {
    const lines = Array.from({ length: FILE_SENSORS * 10 }, (_, at) =>
      lineOf(at % FILE_SENSORS, index + Math.floor(at / FILE_SENSORS)),
    );
    appendFileSync(path, lines.map(({ line }) => `${line}\n`).join(''));
    senders.acknowledged.file.push(...lines.map(({ n }) => n));
    await delay(20);
  }
}

/** One request at a time, repeated with its key until it is answered. */
async function postReadings(url: string, client: number, senders: Senders): Promise<void> {
  for (let index = 0, request = 0; senders.wants('http'); request += 1) {
    const lines = Array.from({ length: 1 + (request % 40) }, () => lineOf(100 + client, index++));
    const body = lines.map(({ line }) => `${line}\n`).join('');
    const headers = { 'content-type': 'application/x-ndjson', 'idempotency-key': `${client}-${request}` };
    for (;;) {
      const response = await fetch(url, { method: 'POST', body, headers, signal: AbortSignal.timeout(HANG_MS) }).catch(
        () => null,
      );
      if (response?.status === 200) break;
      if (response !== null && ![429, 503].includes(response.status)) throw new Error(`HTTP ${response.status}`);
      await delay(20);
    }
    senders.acknowledged.http.push(...lines.map(({ n }) => n));
  }
}

/** A window of messages under way; every third client publishes with QoS 1. */
async function publish(url: string, client: number, senders: Senders, atEnd: OutageOptions['atEnd']): Promise<void> {
  const mqtt = await connectAsync(url, { clientId: `sender-${client}`, clean: false, reconnectPeriod: 50 });
  mqtt.on('error', () => undefined);
  atEnd(() => void mqtt.end(true));
  const underWay = new Set<Promise<void>>();
  for (let index = 0; senders.wants('mqtt'); index += 1) {
    const { n, line } = lineOf(200 + client, index);
    const sent = mqtt.publishAsync(`plant/${client}`, line, { qos: client % 3 === 0 ? 1 : 2 }).then(() => {
      senders.acknowledged.mqtt.push(n);
      underWay.delete(sent);
    });
    underWay.add(sent);
    if (underWay.size >= MQTT_UNDER_WAY) await Promise.race(underWay);
    if (index % 10 !== 9) continue;
    do await delay(MQTT_PAUSE_MS);
    while (senders.acknowledged.mqtt.length - senders.mqttInSpool > MQTT_BACKLOG_MAX);
  }
  await Promise.all(underWay);
  await mqtt.endAsync();
}

export async function runOutage(options: OutageOptions): Promise<OutageResult> {
  const { dir, kafka, mosquitto, readings, say, atEnd } = options;
  const [port = 0, http = 0] = await freePorts(2);
  mkdirSync(join(dir, 'in'));
  const log = `kafka://${kafka.plain}`;
  const agent = new AgentProcess(
    dir,
    `agent: { id: edge-1, dataDir: ./agent, listen: 127.0.0.1:${port} }
log: ${log}
uplink: { order: oldestFirst }
sources:
  - { type: file, path: ./in/*.ndjson, sensor: id, to: file, poll: 20ms }
  - { type: http, listen: "127.0.0.1:${http}", path: /ingest, sensor: id, to: http }
  - { type: mqtt, url: ${mosquitto.url()}, topics: ['plant/#'], receiveMaximum: 8000, sensor: id, to: mqtt }
`,
    atEnd,
  );
  agent.start();
  await eventually('the subscription of the agent', async () => mosquitto.isSubscribed('penstock-edge-1'));
  const senders = new Senders(readings);
  const sending = Promise.all([
    writeLines(join(dir, 'in', 'lines.ndjson'), senders),
    ...Array.from({ length: HTTP_CLIENTS }, (_, client) =>
      postReadings(`http://127.0.0.1:${http}/ingest`, client, senders),
    ),
    ...Array.from({ length: MQTT_CLIENTS }, (_, client) => publish(mosquitto.url(), client, senders, atEnd)),
  ]);
  const polling = setInterval(() => {
    metric(port, 'topic_readings_total', 'topic="mqtt"').then(
      (accepted) => (senders.mqttInSpool = accepted),
      () => undefined,
    );
  }, 100);
  atEnd(() => clearInterval(polling));
  let repeats = 0;
  const disturbing = disturb(options, senders, agent, async () => {
    repeats += await metric(port, 'source_events_total', 'event="repeat"').catch(() => 0);
  });
  await Promise.all([sending, disturbing]);
  clearInterval(polling);
  say(`${senders.count} readings are acknowledged`);
  for (const topic of SOURCES) {
    const expected = senders.acknowledged[topic].length;
    await eventually(`${topic}: ${expected} readings in the log`, async () => {
      const accepted = await metric(port, 'topic_readings_total', `topic="${topic}"`);
      return accepted >= expected && (await metric(port, 'topic_lag_readings', `topic="${topic}"`)) === 0;
    });
  }
  const status = await agent.end('SIGTERM');
  const flaws: string[] = status === 0 ? [] : [`the agent ended with ${status}: ${agent.output.slice(-2000)}`];
  let inKafka = 0;
  for (const topic of SOURCES) {
    const records = await numberedIn(log, topic);
    inKafka += records.length;
    const acknowledged = senders.acknowledged[topic];
    flaws.push(...flawsOf(records, acknowledged).map((flaw) => `${topic}: ${flaw}`));
    if (records.length !== acknowledged.length) {
      flaws.push(`${topic}: ${records.length} records, ${acknowledged.length} acknowledged`);
    }
  }
  return { acknowledged: senders.count, inKafka, repeats, flaws };
}

/** Each disturbance comes after some more readings were acknowledged, so that it meets senders and agent at work. */
async function disturb(
  options: OutageOptions,
  senders: Senders,
  agent: AgentProcess,
  beforeEnd: () => Promise<void>,
): Promise<void> {
  const { kafka, kills, terminations, brokerDownMs, random, say } = options;
  const share = options.readings / (kills + terminations + 4);
  const progress = async (): Promise<void> => {
    const target = senders.answered + share * (0.5 + random());
    await eventually('more acknowledged readings', async () => senders.answered >= target);
  };
  const endAgent = async (signal: 'SIGKILL' | 'SIGTERM'): Promise<void> => {
    await progress();
    await beforeEnd();
    // A random moment, not a wait for something.
    await delay(random() * 50);
    const status = await agent.end(signal);
    if (signal === 'SIGTERM' && status !== 0)
      throw new Error(`SIGTERM: status ${status}: ${agent.output.slice(-2000)}`);
    say(`${signal} at ${senders.count} readings`);
    agent.start();
  };
  const agentSteps = [
    ...Array.from({ length: kills }, () => () => endAgent('SIGKILL')),
    ...Array.from({ length: terminations }, () => () => endAgent('SIGTERM')),
  ];
  const steps = shuffled(agentSteps, random);
  const middle = Math.floor(steps.length / 3);
  for (const step of steps.slice(0, middle)) await step();
  await progress();
  await kafka.stop();
  say(`Kafka stopped at ${senders.count} readings, for ${brokerDownMs} ms`);
  // The agent is ended while the broker is away, too.
  const [inOutage = () => Promise.resolve(), ...others] = steps.slice(middle);
  await Promise.all([delay(brokerDownMs), inOutage()]);
  await kafka.start();
  for (const step of others.slice(0, Math.floor(others.length / 2))) await step();
  await progress();
  await kafka.kill();
  say(`Kafka killed at ${senders.count} readings`);
  await kafka.start();
  for (const step of others.slice(Math.floor(others.length / 2))) await step();
  await beforeEnd();
  senders.isDisturbed = false;
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, order: random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ item }) => item);
}

/** The sum of a metric of the agent over the samples with this label. */
async function metric(port: number, name: string, label: string): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${port}/metrics`, { signal: AbortSignal.timeout(5000) });
  const samples = (await response.text()).split('\n').filter((line) => line.startsWith(`penstock_agent_${name}{`));
  return samples.filter((line) => line.includes(label)).reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

async function eventually(what: string, isSo: () => Promise<boolean>): Promise<void> {
  for (const end = performance.now() + HANG_MS; !(await isSo().catch(() => false));) {
    if (performance.now() > end) throw new Error(`${what} did not happen within ${HANG_MS / 1000} s`);
    await delay(10);
  }
}
