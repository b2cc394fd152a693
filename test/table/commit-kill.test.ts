import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { createTable } from '../../lib/table/table.ts';
import { HANG_MS } from '../support/hang.ts';
import { liveNames, openLake, SCHEMA, TABLE } from './lake.ts';

interface Committer {
  readonly process: ChildProcessByStdio<null, Readable, null>;
  readonly acknowledged: () => readonly string[];
}

function startCommitter(folder: string, id: string): Committer {
  const child = spawn(
    process.execPath,
    [fileURLToPath(new URL('./committer.ts', import.meta.url)), folder, TABLE, id],
    {
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  );
  onTestFinished(() => void child.kill('SIGKILL'));
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  // A line counts when it is whole.
  return { process: child, acknowledged: () => text.split('\n').slice(0, -1) };
}

it('committers killed -9 again and again lose nothing that was acknowledged and leave a whole table', async () => {
  const lake = await openLake();
  await createTable(lake, TABLE, { schema: SCHEMA });
  const acknowledged: string[] = [];
  for (let round = 0; round < 3; round++) {
    const committers = ['x', 'y'].map((id) => startCommitter(lake.folder, `${id}${round}`));
    const deadline = performance.now() + HANG_MS;
    const count = (): number => committers.reduce((sum, committer) => sum + committer.acknowledged().length, 0);
    while (count() < 10 && performance.now() < deadline) await sleep(2);
    for (const { process } of committers) process.kill('SIGKILL');
    for (const { process } of committers)
      if (process.exitCode === null && process.signalCode === null)
        await new Promise((resolve) => process.once('close', resolve));
    expect(count()).toBeGreaterThanOrEqual(10);
    acknowledged.push(...committers.flatMap((committer) => committer.acknowledged()));
  }
  const names = await liveNames(lake);
  expect(new Set(names).size).toBe(names.length);
  expect(names).toEqual(expect.arrayContaining(acknowledged));
  // Each killed committer may have had one commit whose acknowledgement was lost with it.
  expect(names.length).toBeLessThanOrEqual(acknowledged.length + 6);
});
