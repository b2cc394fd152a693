import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { isGone, thisProcess } from '../lib/process-identity.ts';
import { until } from './support/mount-guard.ts';
import { makerOf, tempDir } from './support/temp.ts';

/** Above what a kernel gives out. */
const NO_PID = 2 ** 22 + 1;

test('a process is gone when its id is nobody or somebody else, and only in its own boot and pid namespace', () => {
  expect(isGone(thisProcess)).toBe(false);
  expect(isGone({ ...thisProcess, pid: NO_PID })).toBe(true);
  expect(isGone({ ...thisProcess, pid: NO_PID, space: 'elsewhere' })).toBe(false);
  expect(isGone({ space: thisProcess.space, pid: process.pid })).toBe(false);
});

test.skipIf(process.platform !== 'linux')('an id that was given out again, and a zombie, are gone', async () => {
  expect(isGone({ ...thisProcess, born: '1' })).toBe(true);
  // The shell becomes a program that never asks for its child.
  const parent = spawn('sh', ['-c', 'true & exec sleep 60'], { stdio: 'ignore' });
  onTestFinished(() => void parent.kill('SIGKILL'));
  const children = (): string => readFileSync(`/proc/${parent.pid}/task/${parent.pid}/children`, 'utf8').trim();
  await until('the child is a zombie', () => {
    const pid = children();
    return pid !== '' && /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  });
  expect(isGone({ space: thisProcess.space, pid: Number(children()) })).toBe(true);
});

test('a directory of a test is of the process that runs it: a second run beside it takes no mount of it away', () => {
  expect(makerOf(`${tempDir('demo-head')}/mnt`)).toEqual(thisProcess);
  expect(makerOf('/tmp/penstock-test-of-somebody-else/mnt')).toBeUndefined();
});
