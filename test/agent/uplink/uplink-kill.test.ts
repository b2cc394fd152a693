import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '../../../lib/clock.ts';
import { openFileLogAt } from '../../../lib/log/file/file-log.ts';
import { tempDir } from '../../support/temp.ts';
import { delivered, flaws, outOfOrder } from './delivered.ts';
import { HANG_MS } from '../../support/hang.ts';

const childPath = fileURLToPath(new URL('sender-child.ts', import.meta.url));

/** Runs the sender and kills it once it has delivered `killAt` readings (null: never); true when it was done. */
async function runSender(
  directory: string,
  count: number,
  killAt: number | null,
  order = 'oldestFirst',
): Promise<boolean> {
  const kill = killAt === null ? [] : [String(killAt)];
  const child = spawn(process.execPath, [childPath, directory, String(count), order, ...kill], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const exit = once(child, 'exit', { signal: AbortSignal.timeout(HANG_MS) });
  let output = '';
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
    const delivered = Number(/(\d+)\n[^\n]*$/.exec(output)?.[1] ?? -1);
    if (killAt !== null && delivered >= killAt) child.kill('SIGKILL');
  });
  const [code, signal] = (await exit) as [number | null, string | null];
  expect(signal === 'SIGKILL' || code === 0, errors).toBe(true);
  return output.includes('done');
}

test('killed with -9 again and again while it sends, the uplink delivers every reading once and in order', async () => {
  const directory = tempDir();
  const count = 30_000;
  for (const killAt of [0, 1, 1, 300, 500, 700, 1000, 1500]) {
    expect(await runSender(directory, count, killAt)).toBe(false);
  }
  expect(await runSender(directory, count, null)).toBe(true);
  const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 1 << 20, clock: systemClock });
  onTestFinished(() => log.close());
  const found = await delivered(log, 't');
  expect(flaws(found, count)).toBe('');
  // Three lanes a run: several runs have delivered something of their own.
  expect(new Set(found.map(({ producerId }) => producerId)).size).toBeGreaterThan(6);
});

test('killed with -9 again and again while the present overtakes a backlog, everything arrives once, each in its order', async () => {
  const directory = tempDir();
  const count = 60_000;
  for (const killAt of [0, 1, 300, 500, 700, 1500, 3000]) {
    expect(await runSender(directory, count, killAt, 'liveFirst')).toBe(false);
  }
  expect(await runSender(directory, count, null, 'liveFirst')).toBe(true);
  const log = await openFileLogAt(join(directory, 'log'), { segmentBytes: 1 << 20, clock: systemClock });
  onTestFinished(() => log.close());
  const found = await delivered(log, 't');
  expect(found.map(({ seq }) => seq).sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i + 1));
  const [present = [], past = []] = ['0', '1'].map((flag) =>
    found.filter(({ headers }) => headers['replayed'] === flag),
  );
  for (const readings of [present, past]) expect(outOfOrder(readings)).toEqual([]);
  // The present really went first, in more runs than one.
  expect(outOfOrder(found).length).toBeGreaterThan(3);
  expect(new Set(present.map(({ producerId }) => producerId)).size).toBeGreaterThan(3);
  expect(past.length).toBeGreaterThan(5000);
});
