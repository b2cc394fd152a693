/** Locks of programs over two mounts of one volume, and what becomes of them under kill -9. */
import { describe, expect, test } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import { mountTestVolume } from '../support/fs-volume.ts';
import type { MountedVolume } from '../support/fs-volume.ts';
import { killIfAlive, run, start, until } from '../support/mount-guard.ts';
import type { Running } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';

const ROUNDS = 25;

const LOCK = `
import fcntl, os, struct, sys
def ofd(file, operation):
    command = fcntl.F_OFD_SETLK if operation & fcntl.LOCK_NB else fcntl.F_OFD_SETLKW
    kind = fcntl.F_UNLCK if operation == fcntl.LOCK_UN else fcntl.F_WRLCK
    fcntl.fcntl(file, command, struct.pack('hhqqi', kind, os.SEEK_SET, 0, 0, 0))
change = {'fcntl': fcntl.lockf, 'flock': fcntl.flock, 'ofd': ofd}[sys.argv[2]]
def lock(file):
    change(file, fcntl.LOCK_EX)
def unlock(file):
    change(file, fcntl.LOCK_UN)
`;
/** Reads through the kernel's pages, writes in place, unlocks without closing. */
const COUNT = `${LOCK}
file = os.open(sys.argv[1] + '/counter', os.O_RDWR)
for i in range(${ROUNDS}):
    lock(file)
    value = int(os.pread(file, 20, 0))
    os.pwrite(file, b'%08d' % (value + 1), 0)
    unlock(file)
`;
/** Takes the lock, says so, and keeps it until it is killed. */
const HOLD = `${LOCK}
file = os.open(sys.argv[1] + '/counter', os.O_RDWR)
lock(file)
os.pwrite(file, b'held', 0)
print('locked', flush=True)
sys.stdin.read() or __import__('time').sleep(600)
`;
const TRY = `${LOCK}
file = os.open(sys.argv[1] + '/counter', os.O_RDWR)
try:
    change(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print('free')
except BlockingIOError:
    print('blocked')
`;

async function python(script: string, mount: MountedVolume, kind: string): Promise<string> {
  const { status, stdout, stderr } = await run('python3', ['-c', script, mount.mountpoint, kind]);
  expect(`${stderr}${status}`).toBe('0');
  return stdout.trim();
}

async function hold(mount: MountedVolume, kind: string): Promise<Running> {
  const holder = start('python3', ['-c', HOLD, mount.mountpoint, kind]);
  let locked = false;
  holder.child.stdout?.on('data', () => (locked = true));
  await until('the lock is taken', () => locked);
  return holder;
}

async function twoMounts(): Promise<readonly [MountedVolume, MountedVolume]> {
  const a = await mountTestVolume();
  const b = await mountTestVolume(a);
  await run('bash', ['-c', `printf 00000000 > ${a.mountpoint}/counter`]);
  await until('the other mount has the file', async () => {
    return (await run('cat', [`${b.mountpoint}/counter`])).stdout === '00000000';
  });
  return [a, b];
}

describe.skipIf(cannotMount())('locks over two mounts', () => {
  test.each(['fcntl', 'flock'])('%s excludes: a counter that four processes raise loses nothing', async (kind) => {
    const [a, b] = await twoMounts();
    await Promise.all([a, a, b, b].map((mount) => python(COUNT, mount, kind)));
    for (const mount of [a, b]) {
      expect(Number((await run('cat', [`${mount.mountpoint}/counter`])).stdout)).toBe(4 * ROUNDS);
    }
  });

  test('outlive a worker, are given back by the end of their process, and fall with a whole mount', async () => {
    const [a, b] = await twoMounts();
    const holder = await hold(a, 'flock');
    const { workerPid } = await mountStats(a.mountpoint);
    process.kill(Number(workerPid), 'SIGKILL');
    await until('the next worker serves', async () => (await mountStats(a.mountpoint))['worker'] !== undefined);
    expect(await python(TRY, b, 'flock')).toBe('blocked');
    expect(await python(TRY, a, 'flock')).toBe('blocked');
    holder.child.kill('SIGKILL');
    await holder.finished;
    await until('the lock is free', async () => (await python(TRY, b, 'flock')) === 'free');

    const ofdHolder = await hold(a, 'ofd');
    expect(await python(TRY, b, 'ofd')).toBe('blocked');
    ofdHolder.child.kill('SIGKILL');
    await ofdHolder.finished;
    await until('the OFD lock is free', async () => (await python(TRY, b, 'ofd')) === 'free');

    await hold(a, 'fcntl');
    expect(await python(TRY, b, 'fcntl')).toBe('blocked');
    const waiting = python(COUNT.replace('int(os.pread(file, 20, 0))', '0'), b, 'fcntl');
    killIfAlive(-a.supervisorPid);
    await waiting;
  });
});
