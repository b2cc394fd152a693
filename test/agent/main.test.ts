import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { loadAgentConfig, runAgent } from '../../agent/main.ts';
import type { AgentStatus, AgentSummary } from '../../agent/status.ts';
import { decodeRecords } from '../../lib/log/batch-reader.ts';
import { openLog } from '../../lib/registry.ts';
import { tempDir } from '../support/temp.ts';
import { HANG_MS } from '../support/hang.ts';
import { freePort } from '../support/ports.ts';

const childPath = fileURLToPath(new URL('./agent-child.ts', import.meta.url));

function agentYaml(dir: string, sources: string, more = ''): string {
  const path = join(dir, 'agent.yaml');
  writeFileSync(path, `agent: { id: edge-7, dataDir: ./agent${more} }\nlog: file:./log\nsources:\n${sources}`);
  return path;
}

function startAgent(path: string): { child: ChildProcess; lines: string[]; exited: Promise<unknown> } {
  const child = spawn(process.execPath, [childPath, path], { stdio: ['ignore', 'pipe', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const deadline = setTimeout(() => child.kill('SIGKILL'), HANG_MS);
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => lines.push(...chunk.toString().split('\n').filter(Boolean)));
  }
  const exited = once(child, 'close').finally(() => clearTimeout(deadline));
  return { child, lines, exited };
}

interface Delivered {
  readonly value: Record<string, unknown>;
  readonly headers: Readonly<Record<string, string>>;
}

async function deliveredIn(dir: string, topic: string): Promise<Delivered[]> {
  const log = await openLog(`file:${join(dir, 'log')}`);
  const delivered: Delivered[] = [];
  try {
    const info = await log.topic(topic);
    for (let partition = 0; partition < (info?.partitions ?? 0); partition += 1) {
      let { earliest: offset } = await log.offsets(topic, partition);
      for (;;) {
        const result = await log.fetch({ topic, partition, offset, maxBytes: 1e6, maxWaitMs: 0 });
        if (result.batches.length === 0) break;
        for (const record of result.batches.flatMap((batch) => decodeRecords(batch, topic))) {
          const headers = Object.fromEntries(record.headers.map(([name, bytes]) => [name, String(bytes)]));
          delivered.push({ value: JSON.parse(String(record.value)) as Record<string, unknown>, headers });
        }
        offset = result.nextOffset;
      }
    }
  } finally {
    await log.close();
  }
  return delivered;
}

test('an agent killed -9 again and again under writing and rotation delivers every line and simulated reading once', async () => {
  const dir = tempDir();
  const logs = join(dir, 'logs');
  mkdirSync(logs);
  const path = agentYaml(
    dir,
    `  - { type: file, path: ./logs/*.ndjson, sensor: id, to: machine, poll: 10ms }
  - { type: simulator, rate: 3000, sensors: 10, to: simulated }\n`,
  );
  const file = join(logs, 'app.ndjson');
  let written = 0;
  const write = (count: number): void => {
    const numbers = Array.from({ length: count }, (_, index) => written + index);
    appendFileSync(file, numbers.map((n) => `{"n":${n},"id":"s${n % 5}"}\n`).join(''));
    written += count;
  };
  for (let round = 0; round < 5; round += 1) {
    const { child, lines, exited } = startAgent(path);
    const start = written;
    // A slow start must not make the work longer: each status, of which there are some a second, opens a portion more.
    const writer = setInterval(() => {
      if (written - start < 10_000 * (lines.length + 1)) write(100);
    }, 5);
    try {
      await expect.poll(() => lines.length, { interval: 20 }).toBeGreaterThan(1 + (round % 2));
      if (round % 2 === 1) renameSync(file, join(logs, `app-${round}.ndjson`));
      child.kill('SIGKILL');
      await exited;
    } finally {
      clearInterval(writer);
    }
  }
  write(300);
  const { child, lines, exited } = startAgent(path);
  await expect.poll(() => Number(lines.at(-1) ?? 0), { interval: 50 }).toBe(written);
  child.kill('SIGTERM');
  await exited;
  expect(child.exitCode).toBe(0);
  const summary = JSON.parse(lines.at(-1) ?? '') as AgentSummary;
  const machine = await deliveredIn(dir, 'machine');
  const simulated = await deliveredIn(dir, 'simulated');
  expect(machine.map(({ value }) => Number(value['n'])).toSorted((a, b) => a - b)).toEqual(
    Array.from({ length: written }, (_, index) => index),
  );
  expect(simulated.map(({ value }) => Number(value['n'])).toSorted((a, b) => a - b)).toEqual(
    Array.from({ length: simulated.length }, (_, index) => index),
  );
  expect(summary).toMatchObject({
    readings: machine.length + simulated.length,
    delivered: machine.length + simulated.length,
    quarantined: 0,
    perTopic: { machine: { readings: written }, simulated: { readings: simulated.length } },
  });
  for (const topic of [machine, simulated]) {
    const sequences = topic.map(({ headers }) => Number(headers['seq'])).toSorted((a, b) => a - b);
    expect(sequences).toEqual(Array.from({ length: topic.length }, (_, index) => index + 1));
  }
  // The present overtakes what an earlier run left.
  const perSensor = Map.groupBy(machine, ({ value, headers }) => `${String(value['id'])} ${headers['replayed']}`);
  expect(new Set(machine.map(({ value }) => value['id'])).size).toBe(5);
  for (const readings of perSensor.values()) {
    const numbers = readings.map(({ value }) => Number(value['n']));
    expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
  }
});

test('a second agent on the data directory is told who holds it', async () => {
  const dir = tempDir();
  const path = agentYaml(dir, '  - { type: host, interval: 100ms }\n');
  const { child, lines, exited } = startAgent(path);
  await expect.poll(() => lines.length).toBeGreaterThan(0);
  const { config, baseDir } = await loadAgentConfig(path);
  const second = runAgent({ config, baseDir, signal: AbortSignal.timeout(HANG_MS) });
  await expect(second).rejects.toMatchObject({
    code: 'held',
    message: expect.stringContaining(`held by process ${child.pid} (agent edge-7)`) as string,
  });
  child.kill('SIGTERM');
  await exited;
  expect(child.exitCode).toBe(0);
});

test('health, readiness and metrics are served while it runs, and the status tells of quarantined input', async () => {
  const dir = tempDir();
  mkdirSync(join(dir, 'logs'));
  writeFileSync(join(dir, 'logs', 'a.ndjson'), '{"n":1}\nnot json\n{"n":2}\n');
  const port = await freePort();
  const path = agentYaml(
    dir,
    '  - { type: file, path: ./logs/*.ndjson, to: machine, poll: 10ms }\n',
    `, listen: "127.0.0.1:${port}"`,
  );
  const { config, baseDir } = await loadAgentConfig(path);
  const controller = new AbortController();
  const statuses: AgentStatus[] = [];
  const running = runAgent({ config, baseDir, signal: controller.signal, onStatus: (status) => statuses.push(status) });
  onTestFinished(async () => {
    controller.abort();
    await running;
  });
  const get = async (route: string): Promise<{ status: number; text: string }> => {
    const response = await fetch(`http://127.0.0.1:${port}${route}`, { signal: AbortSignal.timeout(HANG_MS) });
    return { status: response.status, text: await response.text() };
  };
  await expect.poll(() => statuses.at(-1)?.delivered).toBe(2);
  expect(await get('/healthz')).toEqual({ status: 200, text: 'ok\n' });
  expect(await get('/readyz')).toEqual({ status: 200, text: 'ready\n' });
  expect((await get('/else')).status).toBe(404);
  const { text } = await get('/metrics');
  expect(text).toContain('penstock_agent_topic_readings_total{topic="machine"} 2\n');
  expect(text).toContain('penstock_agent_topic_delivered_total{topic="machine"} 2\n');
  expect(text).toContain(`penstock_agent_source_quarantined_total{source="file:${join(dir, 'logs')}/*.ndjson"} 1\n`);
  expect(text).toContain('penstock_agent_oldest_undelivered_seconds 0\n');
  controller.abort();
  const summary = await running;
  expect(summary).toMatchObject({ readings: 2, spooled: 2, delivered: 2, quarantined: 1 });
  expect(readdirSync(join(dir, 'agent', 'quarantine'))).toHaveLength(1);
});

test('while the log cannot be opened the agent takes readings, and delivers them when it can, under their own identity', async () => {
  const dir = tempDir();
  // A file where the log's folder should be.
  writeFileSync(join(dir, 'log'), '');
  const path = agentYaml(dir, '  - { type: simulator, rate: 2000, count: 500, to: t }\n');
  const { config, baseDir } = await loadAgentConfig(path);
  const first = new AbortController();
  const summary = await runAgent({
    config,
    baseDir,
    signal: first.signal,
    drainMs: 100,
    onStatus: (status) => {
      if (status.readings === 500 && status.uplinkProblem !== null) first.abort();
    },
  });
  expect(summary).toMatchObject({ readings: 500, delivered: 0 });
  renameSync(join(dir, 'log'), join(dir, 'other'));
  const second = new AbortController();
  const delivered = await runAgent({
    config,
    baseDir,
    signal: second.signal,
    onStatus: (status) => {
      if (status.delivered === 500) second.abort();
    },
  });
  expect(delivered).toMatchObject({ readings: 500, delivered: 500 });
  // The backlog keeps the identity that it was stored under.
  expect(delivered.incarnation).not.toBe(summary.incarnation);
  const records = await deliveredIn(dir, 't');
  expect(records).toHaveLength(500);
  expect(new Set(records.map(({ headers }) => headers['incarnation']))).toEqual(new Set([summary.incarnation]));
  expect(new Set(records.map(({ headers }) => headers['replayed']))).toEqual(new Set(['1']));
});
