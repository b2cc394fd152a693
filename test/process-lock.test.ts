import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { acquireProcessLock } from '../lib/process-lock.ts';
import { tempDir } from './support/temp.ts';
import { HANG_MS } from './support/hang.ts';

const modulePath = fileURLToPath(new URL('../lib/process-lock.ts', import.meta.url));

/** A child that takes the lock, says so, and keeps it until it is killed. */
async function holderProcess(path: string): Promise<ChildProcess> {
  const script = `const { acquireProcessLock } = await import(process.argv[1]);
await acquireProcessLock(process.argv[2], { label: 'child' });
process.stdout.write('locked\\n');
setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, modulePath, path], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [chunk] = (await once(child.stdout, 'data', { signal: AbortSignal.timeout(HANG_MS) })) as [Buffer];
  expect(chunk.toString()).toBe('locked\n');
  return child;
}

test('a second process is told who holds the lock, and gets it once the holder is killed', async () => {
  const path = join(tempDir(), 'sub', 'lock');
  const child = await holderProcess(path);
  await expect(acquireProcessLock(path, { label: 'me' })).rejects.toMatchObject({
    code: 'held',
    message: expect.stringMatching(
      new RegExp(`held by process ${child.pid} \\(child\\), running since \\d{4}-`),
    ) as string,
  });
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
  const lock = await acquireProcessLock(path, { label: 'me' });
  expect(readFileSync(`${path}.holder`, 'utf8')).toContain(`"pid":${process.pid}`);
  lock.release();
});

test('one process cannot take the lock twice, and can after a release', async () => {
  const path = join(tempDir(), 'lock');
  const first = await acquireProcessLock(path, { label: 'first' });
  await expect(acquireProcessLock(path, { label: 'second' })).rejects.toMatchObject({ code: 'held' });
  await expect(acquireProcessLock(path, { label: 'third' })).rejects.toThrow('(first)');
  first.release();
  first.release();
  const again = await acquireProcessLock(path, { label: 'again' });
  again.release();
});

test('a damaged holder text does not hide that the lock is held', async () => {
  const path = join(tempDir(), 'lock');
  const lock = await acquireProcessLock(path, { label: 'first' });
  writeFileSync(`${path}.holder`, '{"pid":');
  await expect(acquireProcessLock(path, { label: 'second' })).rejects.toThrow('held by another process');
  lock.release();
});

test('a file that is not ours is refused, not overwritten', async () => {
  const path = join(tempDir(), 'lock');
  writeFileSync(path, 'precious text of somebody else, longer than a database header would need to be'.repeat(20));
  await expect(acquireProcessLock(path, { label: 'x' })).rejects.toMatchObject({ code: 'io' });
  expect(readFileSync(path, 'utf8')).toContain('precious');
});
