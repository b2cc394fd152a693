/** A real agent on a real broker: the backlog of an outage drains behind the present, while the agent and the broker are killed. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { openLog } from '../../lib/registry.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { delivered, outOfOrder } from './uplink/delivered.ts';

const childPath = fileURLToPath(new URL('./agent-child.ts', import.meta.url));
const BACKLOG = 20_000;

describe.skipIf(missing('kafka'))('live first, on Kafka', () => {
  let broker: KafkaBroker;
  beforeAll(async () => {
    broker = await KafkaBroker.start();
  });
  afterAll(() => broker.close());

  test('each line is in Kafka once, the present before the past and each in order, whatever is killed meanwhile', async () => {
    const dir = tempDir();
    const config = join(dir, 'agent.yaml');
    const configure = (uplink: string, address = broker.plain): void =>
      writeFileSync(
        config,
        `agent: { id: edge-7, dataDir: ./agent }
log: kafka://${address}
uplink: ${uplink}
sources: [{ type: file, path: ./a.ndjson, sensor: id, to: machine, poll: 10ms }]
`,
      );
    let written = 0;
    const write = (count: number): void => {
      const numbers = Array.from({ length: count }, (_, index) => written + index);
      appendFileSync(join(dir, 'a.ndjson'), numbers.map((n) => `{"n":${n},"id":"s${n % 11}"}\n`).join(''));
      written += count;
    };
    /** Until its output says so; then kill -9, or the signal given. */
    const runAgent = async (
      until: (accepted: number, lines: number) => boolean | Promise<boolean>,
      signal: NodeJS.Signals,
    ) => {
      const child: ChildProcess = spawn(process.execPath, [childPath, config], { stdio: ['ignore', 'pipe', 'pipe'] });
      onTestFinished(() => void child.kill('SIGKILL'));
      const exited = once(child, 'close');
      const lines: string[] = [];
      for (const stream of [child.stdout, child.stderr]) {
        stream?.on('data', (chunk: Buffer) => lines.push(...chunk.toString().split('\n').filter(Boolean)));
      }
      await expect.poll(() => until(Number(lines.at(-1) ?? 0), lines.length), { interval: 50 }).toBe(true);
      child.kill(signal);
      await exited;
      return { code: child.exitCode, last: lines.at(-1) ?? '' };
    };

    // A port on which nobody listens.
    configure('{ order: liveFirst }', '127.0.0.1:1');
    write(BACKLOG);
    await runAgent((accepted) => accepted === BACKLOG, 'SIGKILL');
    // Slow enough that every kill falls into the drain.
    configure('{ order: liveFirst, bytesPerSecond: 20kB }');
    const log = await openLog(`kafka://${broker.plain}`);
    onTestFinished(() => log.close());
    const arrived = async (): Promise<number> => {
      const partitions = (await log.topic('machine'))?.partitions ?? 0;
      const ends = Array.from({ length: partitions }, async (_, partition) => log.offsets('machine', partition));
      return (await Promise.all(ends)).reduce((sum, { end }) => sum + Number(end), 0);
    };
    for (const round of [1, 2, 3]) {
      const writer = setInterval(() => write(5), 20);
      const before = await arrived();
      try {
        await runAgent(async (_, lines) => {
          if (round === 2 && lines === 2) await broker.kill().then(() => broker.start());
          return (await arrived()) > before + 400;
        }, 'SIGKILL');
      } finally {
        clearInterval(writer);
      }
    }
    expect(await arrived()).toBeLessThan(BACKLOG);
    configure('{ order: liveFirst }');
    const { code } = await runAgent(async () => (await arrived()) >= written, 'SIGTERM');
    expect(code).toBe(0);
    const found = await delivered(log, 'machine');
    expect(found.map(({ seq }) => seq).sort((a, b) => a - b)).toEqual(Array.from({ length: written }, (_, i) => i + 1));
    const [present = [], past = []] = ['0', '1'].map((flag) =>
      found.filter(({ headers }) => headers['replayed'] === flag),
    );
    expect(outOfOrder(present)).toEqual([]);
    expect(outOfOrder(past)).toEqual([]);
    expect(past.length).toBeGreaterThanOrEqual(BACKLOG);
    // What was written during the drain lies before the end of the backlog.
    expect(present.length).toBeGreaterThan(50);
    expect(outOfOrder(found).length).toBeGreaterThan(1000);
  });
});
