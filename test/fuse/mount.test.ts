import { readFileSync, writeFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { mountToy, run, shell, start, until } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';

describe.skipIf(cannotMount())('a mounted file system', () => {
  it('creates, writes, reads, renames, links and removes', async () => {
    const { mountpoint, root } = await mountToy();
    const output = await shell(
      `cd "$1"
       mkdir d && echo hello > d/a && cat d/a && mv d/a d/b && ln d/b hard && ln -s d/b soft && readlink soft && cat soft
       printf more >> d/b && cat hard && chmod 600 d/b && stat -c %a d/b && truncate -s 3 d/b && cat d/b
       stat -f -c %s . && rm hard soft d/b && rmdir d && ls -A`,
      mountpoint,
    );
    expect(output).toBe('hello\nd/b\nhello\nhello\nmore600\nhel4096\n');
    writeFileSync(join(root, 'below'), 'x');
    expect(await shell('ls "$1"', mountpoint)).toBe('below\n');
  });

  it('keeps the bytes of names in requests and listings', async () => {
    const { mountpoint } = await mountToy();
    expect(await shell(`cd "$1"; : > $'\\xc3\\xa4b'; ls -A | od -An -tx1 | tr -d ' \\n'`, mountpoint)).toBe('c3a4620a');
  });

  it('moves data in requests of 1 MiB and keeps every byte', async () => {
    const { mountpoint, root, stats } = await mountToy();
    const sums = await shell(
      `head -c 33554432 /dev/urandom > "$1/../source"
       dd if="$1/../source" of="$1/copy" bs=1M status=none
       md5sum < "$1/../source"; md5sum < "$1/copy"`,
      mountpoint,
    );
    const [source, copy] = sums.trim().split('\n');
    expect(copy).toBe(source);
    expect(readFileSync(join(root, 'copy')).length).toBe(33_554_432);
    const { operations } = (await stats()).worker;
    expect(operations?.['write']?.count).toBe(32);
    expect(operations?.['read']?.count).toBeGreaterThan(0);
  });

  it('lists 10,000 entries once each, and goes on from a cookie with seekdir', async () => {
    const { mountpoint, root } = await mountToy();
    mkdirSync(join(root, 'many'));
    for (let i = 0; i < 10_000; i++) writeFileSync(join(root, 'many', `entry-${i}`), '');
    const script = `
import os, ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_ulong), ("off", ctypes.c_long), ("reclen", ctypes.c_ushort), ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.telldir.restype = ctypes.c_long
d = ctypes.c_void_p(libc.opendir(sys.argv[1].encode()))
names, cookies = [], []
while True:
    cookies.append(libc.telldir(d))
    e = libc.readdir(d)
    if not e: break
    names.append(e.contents.name)
assert len(names) == 10002 and len(set(names)) == 10002, len(names)
for i in (5000, 3, 9999):
    libc.seekdir(d, ctypes.c_long(cookies[i]))
    assert libc.readdir(d).contents.name == names[i], i
print("ok")`;
    const { stdout, stderr } = await run('python3', ['-c', script, join(mountpoint, 'many')]);
    expect(stdout, stderr).toBe('ok\n');
  });

  it('ends a stuck operation when its caller is killed', async () => {
    const { mountpoint, stats } = await mountToy();
    const caller = start('stat', [join(mountpoint, '@wait')]);
    await until('the lookup is in flight', async () => (await stats()).worker.inFlight > 0);
    caller.child.kill('SIGKILL');
    expect((await caller.finished).signal).toBe('SIGKILL');
    await until('the lookup is answered', async () => (await stats()).worker.inFlight === 0);
    expect((await stats()).worker.operations?.['lookup']?.errors).toBe(1);
  });

  it('answers EIO for a bug in an operation and goes on', async () => {
    const { mountpoint, root, logPath, stats } = await mountToy();
    writeFileSync(join(root, '@throw'), 'x');
    const { workerPid } = await stats();
    const { status, stderr } = await run('cat', [join(mountpoint, '@throw')]);
    expect(status).toBe(1);
    expect(stderr).toContain('Input/output error');
    expect(readFileSync(logPath, 'utf8')).toMatch(/READ of inode \d+ failed: TypeError: a bug in an operation/);
    expect((await stats()).workerPid).toBe(workerPid);
  });

  it('serves others while an operation waits', async () => {
    const { mountpoint, root } = await mountToy();
    writeFileSync(join(root, '@slow'), Buffer.alloc(1 << 20, 'x'));
    const script = 'for i in 1 2 3 4; do dd if="$1/@slow" bs=64k iflag=direct status=none | wc -c & done; wait';
    expect((await shell(script, mountpoint)).trim().split('\n')).toEqual(Array(4).fill('1048576'));
  });

  it('refuses every change of a read-only mount', async () => {
    const { mountpoint, root } = await mountToy({ readOnly: true });
    writeFileSync(join(root, 'f'), 'x');
    const { status, stderr } = await run('bash', ['-c', 'cat "$1/f"; echo y > "$1/f"', 'bash', mountpoint]);
    expect(status).toBe(1);
    expect(stderr).toContain('Read-only file system');
    expect(readFileSync(join(root, 'f'), 'utf8')).toBe('x');
  });

  it('forgets what it looked up', async () => {
    const { mountpoint, stats } = await mountToy();
    await shell('cd "$1"; for i in $(seq 200); do : > f$i; done; rm f*; ls -A', mountpoint);
    await until('the kernel forgot the removed files', async () => {
      const { operations } = (await stats()).worker;
      return (operations?.['forget']?.count ?? 0) + (operations?.['batch_forget']?.count ?? 0) > 0;
    });
  });

  it('logs each operation with inode, result and time when asked to', async () => {
    const base = await mountToy();
    const accessLogPath = join(base.root, '..', 'access');
    const { mountpoint } = await mountToy({ accessLogPath });
    await shell('echo x > "$1/f"; cat "$1/missing" || true', mountpoint);
    await until('the log is written', () => readFileSync(accessLogPath, 'utf8').includes(' release '));
    const lines = readFileSync(accessLogPath, 'utf8').trim().split('\n');
    for (const line of lines) expect(line).toMatch(/^\S+Z [a-z_0-9]+ \d+ (0|-\d+) \d+$/);
    expect(lines.some((line) => / create 1 0 \d+$/.test(line))).toBe(true);
    expect(lines.some((line) => / lookup 1 -2 \d+$/.test(line))).toBe(true);
  });
});
