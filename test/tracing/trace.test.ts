/** One reading, from its source to the compacted file, through the programs as they are started. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { start, until } from '../support/mount-guard.ts';
import type { Running } from '../support/mount-guard.ts';
import { startOtlpReceiver } from '../support/otlp-receiver.ts';
import type { OtlpReceiver, ReceivedSpan } from '../support/otlp-receiver.ts';
import { tempDir } from '../support/temp.ts';

const penstock = join(import.meta.dirname, '..', '..', 'bin', 'penstock');

interface Pipeline {
  readonly dir: string;
  readonly receiver: OtlpReceiver;
  readonly run: (...args: string[]) => Running;
  readonly write: (...lines: string[]) => void;
}

async function newPipeline(): Promise<Pipeline> {
  const dir = tempDir('traces');
  const receiver = await startOtlpReceiver();
  writeFileSync(
    join(dir, 'agent.yaml'),
    `agent: { id: edge-7, dataDir: ./agent }\nlog: file:./log\n` +
      `sources:\n  - { type: file, path: ${dir}/*.ndjson, sensor: id, eventTime: ts, to: machine }\n`,
  );
  writeFileSync(
    join(dir, 'pipeline.yaml'),
    `log: file:./log\nstore: dir:./objects\nmeta: sqlite:./meta.db\ndatasets: [{ name: plant.machine, topic: machine, eventTime: ts }]\n`,
  );
  process.env['OTEL_EXPORTER_OTLP_ENDPOINT'] = receiver.url;
  onTestFinished(() => {
    delete process.env['OTEL_EXPORTER_OTLP_ENDPOINT'];
  });
  return {
    dir,
    receiver,
    run: (...args) => start(penstock, args),
    write: (...lines) => appendFileSync(join(dir, 'a.ndjson'), lines.map((line) => `${line}\n`).join('')),
  };
}

const reading = (n: number): string => JSON.stringify({ id: `s${n % 3}`, ts: 1_767_225_600_000 + n, n });

async function runAgentUntil({ run, dir, receiver }: Pipeline, sends: number): Promise<string> {
  const agent = run('agent', 'run', '-c', join(dir, 'agent.yaml'));
  await until('it is sent', () => named(receiver, 'send').length >= sends);
  agent.child.kill('SIGTERM');
  const { status, stderr } = await agent.finished;
  expect(status).toBe(0);
  return stderr;
}

async function done(running: Running): Promise<string> {
  const { status, stdout, stderr } = await running.finished;
  expect(status, stdout + stderr).toBe(0);
  return stderr;
}

const named = ({ spans }: OtlpReceiver, name: string): ReceivedSpan[] => spans.filter((span) => span.name === name);

test('is one trace over agent, lander and compactor, with its id in their logs', async () => {
  const pipeline = await newPipeline();
  const { receiver, dir, run, write } = pipeline;
  write(...Array.from({ length: 100 }, (_, n) => reading(n)));
  const said = await runAgentUntil(pipeline, 1);
  const landed = await done(run('land', '-c', join(dir, 'pipeline.yaml'), '--once'));
  await done(run('compact', '-c', join(dir, 'pipeline.yaml'), '--ignore-lag'));
  expect(receiver.problems).toEqual([]);
  // One a minute: 100 readings of one topic are one trace.
  const { spans } = receiver;
  expect(spans.map(({ name, service }) => `${service} ${name}`)).toEqual([
    'penstock-agent reading',
    'penstock-agent spool',
    'penstock-agent send',
    'penstock-lander land',
    'penstock-lander write',
    'penstock-lander commit',
    'penstock-compactor compact',
  ]);
  const [root, spool, send, land, write_, commit, compact] = spans;
  expect(new Set(spans.map(({ traceId }) => traceId)).size).toBe(1);
  expect(root?.parentSpanId).toBeUndefined();
  expect([spool, send].map((span) => span?.parentSpanId)).toEqual([root?.spanId, root?.spanId]);
  expect(land?.parentSpanId).toBe(send?.spanId);
  expect([write_, commit, compact].map((span) => span?.parentSpanId)).toEqual(Array(3).fill(land?.spanId));
  expect(root?.values).toMatchObject({ 'penstock.agent': 'edge-7', 'messaging.destination.name': 'machine' });
  expect(land?.values).toMatchObject({ 'penstock.dataset': 'plant.machine', 'penstock.quarantined': false });
  expect(send?.values['messaging.destination.partition.id']).toBe(land?.values['messaging.destination.partition.id']);
  expect(compact?.values).toMatchObject({ 'penstock.hour': '2026-01-01T00' });
  const traceId = root?.traceId ?? '';
  const seq = String(root?.values['penstock.seq']);
  expect(said).toContain(`reading machine/${seq} is in the spool, trace_id=${traceId}`);
  expect(said).toContain(`reading machine/${seq} is in the log, partition`);
  expect(landed).toMatch(
    new RegExp(`plant.machine: reading machine/\\d offset \\d+ is in the table, trace_id=${traceId}`),
  );
});

test('of a record that does not fit ends in the quarantine, and says so', async () => {
  const pipeline = await newPipeline();
  const { receiver, dir, run, write } = pipeline;
  write(reading(1));
  writeFileSync(
    join(dir, 'pipeline.yaml'),
    `log: file:./log\nstore: dir:./objects\nmeta: sqlite:./meta.db\ndatasets: [{ name: plant.machine, topic: machine, schema: [{ name: other, type: long, required: true }] }]\n`,
  );
  await runAgentUntil(pipeline, 1);
  const landed = await done(run('land', '-c', join(dir, 'pipeline.yaml'), '--once'));
  expect(named(receiver, 'land')[0]?.values['penstock.quarantined']).toBe(true);
  expect(landed).toMatch(/is in the quarantine, trace_id=/);
  expect(receiver.problems).toEqual([]);
});

test('is lost by a kill, and the reading is not; the next one is traced again', async () => {
  const pipeline = await newPipeline();
  const { receiver, dir, run, write } = pipeline;
  const path = join(dir, 'agent.yaml');
  const yaml = readFileSync(path, 'utf8');
  // A log that is away: what is traced waits in the spool.
  writeFileSync(path, yaml.replace('log: file:./log', 'log: kafka://127.0.0.1:1'));
  write(reading(1));
  const agent = run('agent', 'run', '-c', path);
  await until('it is in the spool', () => named(receiver, 'spool').length > 0);
  agent.child.kill('SIGKILL');
  await agent.finished;
  writeFileSync(path, yaml);
  write(reading(2));
  await runAgentUntil(pipeline, 1);
  const { stdout } = await run('land', '-c', join(dir, 'pipeline.yaml'), '--once', '--json').finished;
  expect(JSON.parse(stdout)).toMatchObject({ rows: 2, quarantined: 0 });
  const [lost, traced] = named(receiver, 'reading').map(({ traceId }) => traceId);
  expect(
    [named(receiver, 'send'), named(receiver, 'land')].map((spans) => spans.map(({ traceId }) => traceId)),
  ).toEqual([[traced], [traced]]);
  expect(lost).not.toBe(traced);
  expect(receiver.problems).toEqual([]);
});
