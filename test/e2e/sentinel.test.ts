/** A volume whose Redis fails over: real Sentinels, a master that is killed -9 under programs, and what it had acknowledged alone. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, expect, onTestFinished, test } from 'vitest';
import { formatVolume } from '../../fs-gateway/main.ts';
import { openMeta } from '../../lib/registry.ts';
import { takeIds } from '../../lib/volume/ids.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { mountTestVolume } from '../support/fs-volume.ts';
import type { MountedVolume, TestVolume } from '../support/fs-volume.ts';
import { run, start } from '../support/mount-guard.ts';
import { until } from '../support/redis.ts';
import type { RedisServer } from '../support/redis.ts';
import { startSentinelGroup } from '../support/sentinel.ts';
import type { SentinelGroup } from '../support/sentinel.ts';
import { cannotMount, missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { BESIDE_MS, HANG_MS } from '../support/hang.ts';

/**
 * Makes, syncs, renames and appends without a pause until its input ends; says what was synced. Any error ends it, but EIO of an fsync: what went
 * before it had not reached a replica when the master died, and is told to be lost.
 */
const WRITER = `
import errno, os, sys, threading, time
mount, name = sys.argv[1:3]; stop = threading.Event(); i = 0
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
folder = os.open(mount, os.O_RDONLY)
def synced(fd):
    try: os.fsync(fd); return True
    except OSError as error:
        if error.errno != errno.EIO: raise
        return False
def once(path):
    fd = os.open(path + '.new', os.O_CREAT | os.O_EXCL | os.O_WRONLY); os.write(fd, b'content %d' % i); kept = synced(fd); os.close(fd)
    if not kept: return False
    os.rename(path + '.new', path)
    if not synced(folder): return False
    fd = os.open(mount + '/log', os.O_CREAT | os.O_WRONLY | os.O_APPEND); os.write(fd, b'%s-%d\\n' % (name.encode(), i)); kept = synced(fd); os.close(fd)
    return kept
while not stop.is_set():
    began = time.monotonic(); kept = once('%s/%s-%d' % (mount, name, i))
    print(i if kept else -1, int((time.monotonic() - began) * 1000), flush=True); i += 1
`;

/** What was synced is there with its content, and in the log once. */
const CHECK = `
import collections, json, os, sys
mount = sys.argv[1]; log = collections.Counter(open(mount + '/log').read().split()); names = os.listdir(mount)
for line in json.load(open(sys.argv[2])):
    assert line in names and open(mount + '/' + line).read() == 'content ' + line.split('-')[1], line
    assert log[line] == 1, '%s is %d times in the log' % (line, log[line])
assert max(log.values()) == 1
print('all there')
`;

async function group(replicas: number): Promise<SentinelGroup> {
  const started = await startSentinelGroup(replicas);
  onTestFinished(() => started.stop());
  return started;
}

async function formatted(metaUrl: string): Promise<TestVolume> {
  const base = tempDir('volume');
  const volume = { base, metaUrl, storeDir: join(base, 'objects') };
  await formatVolume({ metaUrl, storeUrl: `dir:${volume.storeDir}` });
  return volume;
}

async function failedOver(sentinels: SentinelGroup, from: RedisServer): Promise<RedisServer> {
  await until(async () => (await sentinels.master()) !== from);
  return sentinels.master();
}

async function isReplicaOf(old: RedisServer, master: RedisServer): Promise<void> {
  await until(async () => {
    const info = await old.admin.info('replication');
    return info.includes(`master_port:${master.port}\r`) && info.includes('master_link_status:up');
  });
}

async function python(mount: MountedVolume, script: string, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await run('python3', ['-c', script, mount.mountpoint, ...args]);
  expect(`${stderr}${status}`).toBe('0');
  return stdout.trim();
}

describe.skipIf(cannotMount() || missing('redis-server'))('Redis under Sentinels', () => {
  test('the master is killed under programs: they pause, and what fsync answered is there, once', async () => {
    const sentinels = await group(2);
    const volume = await formatted(sentinels.url('&durability=wait&replicas=1'));
    const mounts = [await mountTestVolume(volume), await mountTestVolume(volume)];
    const writers = mounts.map(({ mountpoint }, n) => {
      const running = start('python3', ['-c', WRITER, mountpoint, `w${n}`], BESIDE_MS, 'pipe');
      const synced: string[] = [];
      const pausesMs: number[] = [];
      createInterface({ input: running.child.stdout ?? process.stdin }).on('line', (line) => {
        const [i = 0, pauseMs = 0] = line.split(' ').map(Number);
        pausesMs.push(pauseMs);
        if (i >= 0) synced.push(`w${n}-${i}`);
      });
      return { running, synced, pausesMs };
    });
    const advance = async (): Promise<void> => {
      const before = writers.map(({ synced }) => synced.length);
      await until(() => writers.every(({ synced }, n) => synced.length > (before[n] ?? 0) + 10));
    };
    await advance();
    const old = await sentinels.master();
    await old.kill();
    const master = await failedOver(sentinels, old);
    await advance();
    // The old master comes back with what it had, and is made a replica while the programs go on.
    await old.start();
    await isReplicaOf(old, master);
    await advance();
    for (const { running } of writers) running.child.stdin?.end();
    for (const { running } of writers) expect(await running.finished).toMatchObject({ status: 0, stderr: '' });
    const list = join(tempDir('synced'), 'list');
    writeFileSync(list, JSON.stringify(writers.flatMap(({ synced }) => synced)));
    for (const mount of mounts) expect(await python(mount, CHECK, list)).toBe('all there');
    const longest = Math.max(...writers.flatMap(({ pausesMs }) => pausesMs));
    console.log(`the longest pause of a program over the failover: ${longest} ms`);
  });

  test('commits that only the old master had: gone for all, told to who synced them, and no number comes twice', async () => {
    const sentinels = await group(1);
    const volume = await formatted(sentinels.url());
    const keys = new VolumeKeys('lake');
    const [a, b] = [await mountTestVolume(volume), await mountTestVolume(volume)];
    await python(a, `import os, sys; os.chdir(sys.argv[1]); os.mkdir('kept'); open('file', 'w').write('old')`);
    const [old, replica] = sentinels.servers;
    if (old === undefined || replica === undefined) throw new Error('unreachable');
    await old.admin.set('marker', '1'); // WAIT is for the writes of its own connection
    expect(await old.admin.wait(1, HANG_MS)).toBe(1);
    // From here on the replica hears nothing of what the master acknowledges.
    process.kill(replica.pid, 'SIGSTOP');
    await old.admin.call('CLIENT', 'KILL', 'TYPE', 'replica');
    const program = start(
      'python3',
      [
        '-c',
        `import os, sys, errno
os.chdir(sys.argv[1])
def tried(change):
    try: return change() or 'ok'
    except OSError as error: return errno.errorcode[error.errno]
fd = os.open('lost-file', os.O_CREAT | os.O_RDWR); os.write(fd, b'lost'); os.close(os.dup(fd))
kept = os.open('file', os.O_RDWR); os.pwrite(kept, b'new', 0); os.close(os.dup(kept))
os.rmdir('kept'); os.mkdir('lost'); folder = os.open('.', os.O_RDONLY)
print(os.stat('lost').st_ino, os.fstat(fd).st_ino, flush=True); sys.stdin.readline()
print(tried(lambda: os.mkdir('lost/inside')), tried(lambda: os.fsync(fd)), tried(lambda: os.fsync(kept)), tried(lambda: os.fsync(folder)),
    open('file').read(), tried(lambda: os.pwrite(kept, b'NEW', 0) and None), tried(lambda: os.fsync(kept)), tried(lambda: os.fsync(folder)), flush=True)`,
        a.mountpoint,
      ],
      BESIDE_MS,
      'pipe',
    );
    let said = '';
    program.child.stdout?.on('data', (text: string) => (said += text));
    await until(() => said.includes('\n'));
    const lostInos = said.trim().split(' ').map(Number);
    said = '';
    const list = `import os, sys; print(*sorted(os.listdir(sys.argv[1])))`;
    await until(async () => (await python(b, list)) === 'file lost lost-file');
    // A session of the old master's time, which believes what is lost.
    const before = await openMeta(volume.metaUrl, { kind: 'test', leaseMs: 60_000 });
    onTestFinished(() => before.close().catch(() => undefined));
    const [believed] = await before.read([keys.entry(1, 'lost')]);
    const lostIds = await takeIds(before, keys, 'object', 10_000);

    await old.kill();
    process.kill(replica.pid, 'SIGCONT');
    expect(await failedOver(sentinels, old)).toBe(replica);

    // Both mounts forget what is gone, and see what is there again.
    program.child.stdin?.write('\n');
    await until(() => said.includes('\n'));
    expect(said.trim()).toBe('ENOENT EIO EIO EIO old ok ok ok');
    expect(await python(b, list)).toBe('file kept');
    expect(await python(b, `import sys; print(open(sys.argv[1] + '/file').read())`)).toBe('NEW');
    for (const { logPath } of [a, b]) expect(readFileSync(logPath, 'utf8')).toMatch(/metadata session lost/);
    expect(readFileSync(a.logPath, 'utf8')).toMatch(/failover of the metadata engine lost changes of 4 inodes/);
    // No compare of before passes, and nothing is numbered twice.
    const stale = before.commit({ compare: [{ key: keys.entry(1, 'lost'), version: believed?.version ?? null }] });
    await expect(stale).rejects.toMatchObject({ code: 'fenced' });
    const made = await python(
      a,
      `import os, sys; os.chdir(sys.argv[1]); os.mkdir('lost'); print(os.stat('lost').st_ino)`,
    );
    expect(lostInos).not.toContain(Number(made));
    const after = await openMeta(volume.metaUrl, { kind: 'test' });
    onTestFinished(() => after.close());
    expect(await takeIds(after, keys, 'object', 1)).toBeGreaterThan(lostIds + 10_000);

    // The old master still has it all on its disk, and does no harm when it comes back.
    await old.start();
    await isReplicaOf(old, replica);
    expect(await python(b, list)).toBe('file kept lost');
    expect(await old.admin.hexists(keys.entries(1), 'lost-file')).toBe(0);
    expect(await old.admin.hexists(keys.entries(1), 'kept')).toBe(1);
  });
});
