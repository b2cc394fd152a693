import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { makeScratch } from '../../lib/sql/scratch.ts';
import { tempDir } from '../support/temp.ts';

test('programs that start at the same moment never take the directory of one another', async () => {
  const root = tempDir('scratch');
  const runs = Array.from({ length: 4 }, () => {
    const child = spawn(process.execPath, [join(import.meta.dirname, 'scratch-child.ts'), root, '150'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    let stderr = '';
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
    return new Promise<string>((resolve) => child.once('close', (code) => resolve(code === 0 ? '' : stderr)));
  });
  expect(await Promise.all(runs)).toEqual(['', '', '', '']);
  expect(readdirSync(root)).toEqual([]);
});

test('what a killed program left is removed by the next, also when it was killed before it had its lock', async () => {
  const root = tempDir('scratch');
  for (const name of ['run-dead', 'new-dead', 'new-fresh', 'not-ours']) mkdirSync(join(root, name));
  const old = new Date(Date.now() - 2 * 3_600_000);
  utimesSync(join(root, 'new-dead'), old, old);
  const mine = await makeScratch(root, 'test');
  const other = await makeScratch(root, 'test');
  expect(existsSync(mine.path)).toBe(true);
  mine.remove();
  other.remove();
  expect(readdirSync(root).sort()).toEqual(['new-fresh', 'not-ours']);
});
