import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { describe, expect, test } from 'vitest';
import { lockControl } from '../../fs-gateway/fuse/control.ts';
import { mountStats, mountUsage, umountVolume, volumeInfo } from '../../fs-gateway/main.ts';
import { openMeta } from '../../lib/registry.ts';
import { prepareListing } from '../../lib/volume/lake-listing.ts';
import { mountTestVolume, testVolume } from '../support/fs-volume.ts';
import type { MountedVolume } from '../support/fs-volume.ts';
import { mountDirs, run, start, until } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';

const HOUR = 473_352; // 2024-01-01T00
const FOLDER = 'lake/plant.vibration/dt=2024-01-01/hour=00';

async function shell(mount: MountedVolume, script: string): Promise<string> {
  const result = await run('bash', ['-ec', script, 'bash', mount.mountpoint, mount.base]);
  expect(`${result.stderr}${result.status}`).toBe('0');
  return result.stdout.trim();
}

async function flip(mount: MountedVolume, add: readonly string[], remove: readonly string[]): Promise<void> {
  mkdirSync(join(mount.storeDir, 'tables'), { recursive: true });
  for (const name of add) writeFileSync(join(mount.storeDir, 'tables', name), `content of ${name}`);
  const engine = await openMeta(mount.metaUrl, { kind: 'test' });
  const files = add.map((name) => ({
    name,
    key: `tables/${name}`,
    bytes: `content of ${name}`.length,
    modifiedMs: 1_704_070_000_000,
  }));
  const parts = await prepareListing(
    engine,
    'lake',
    'plant.vibration',
    [{ hour: HOUR, add: files, remove }],
    Date.now(),
  );
  expect((await engine.commit(parts)).ok).toBe(true);
  await engine.close();
}

describe.skipIf(cannotMount())('a mounted volume', () => {
  test('shows the lake; a flip while it is mounted changes the listing and keeps replaced names openable', async () => {
    const mount = await mountTestVolume();
    await flip(mount, ['a.parquet', 'b.parquet'], []);
    expect(await shell(mount, `ls $1/${FOLDER}; cat $1/${FOLDER}/b.parquet`)).toBe(
      'a.parquet\nb.parquet\ncontent of b.parquet',
    );
    await flip(mount, ['c.parquet'], ['a.parquet', 'b.parquet']);
    // The feed tells the mount within a poll of the engine; until then the old listing is a correct one.
    const wait = `for i in $(seq 1000); do [ "$(ls $1/${FOLDER})" = c.parquet ] && break; sleep 0.05; done`;
    expect(await shell(mount, `${wait}; ls $1/${FOLDER}; cat $1/${FOLDER}/a.parquet`)).toBe(
      'c.parquet\ncontent of a.parquet',
    );
    // Who looks for what is read finds it by its path, the replaced one too. (A mount that stood still for its lease has forgotten the names until
    // somebody asks for them again.)
    const read = [`/${FOLDER}/a.parquet`, `/${FOLDER}/b.parquet`];
    await until('what is read has its names', async () => {
      await shell(mount, read.map((path) => `cat $1${path}`).join('; '));
      const { files } = await mountUsage(mount.mountpoint);
      return isDeepStrictEqual(files.map(({ path }) => path).sort(), read);
    });
    const refused = await run('bash', [
      '-c',
      `echo x > ${mount.mountpoint}/${FOLDER}/c.parquet; rm ${mount.mountpoint}/${FOLDER}/c.parquet; touch ${mount.mountpoint}/${FOLDER}/new`,
    ]);
    expect(refused.stderr.match(/Operation not permitted/g)).toHaveLength(3);
  });

  test('says where it is and what it does, and is empty of staged data after umount', async () => {
    const mount = await mountTestVolume();
    await shell(mount, 'echo hello > $1/file; mkdir $1/folder');
    expect(volumeInfo(join(mount.mountpoint, 'folder'))).toMatchObject({
      mountpoint: mount.mountpoint,
      source: 'penstock:lake@dir',
    });
    expect(await mountStats(mount.mountpoint)).toMatchObject({
      supervisorPid: mount.supervisorPid,
      worker: { volume: { stagedFiles: 0 } },
    });
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
    const again = await mountTestVolume(mount);
    expect(await shell(again, 'cat $1/file; ls $1')).toBe('hello\nfile\nfolder');
  });

  test('a descriptor whose O_DIRECT is set while it writes does not hang the mount', async () => {
    // The kernel has begun to write a part of a page, has it locked until the answer, and tells of O_DIRECT all the same (xfstests generic/036).
    // The second writer waits for the inode meanwhile, and the flag is set or cleared.
    const script = `import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
flags, first = fcntl.fcntl(fd, fcntl.F_GETFL), os.getpid()
if os.fork() == 0:
    while os.getppid() == first:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    os._exit(0)
second = os.fork()
for page in range(0 if second else 1, 100, 2):
    os.pwrite(fd, bytes([page]) * 512, page * 4096)
if second == 0:
    os._exit(0)
os.waitpid(second, 0)
with open(sys.argv[1], 'rb') as f:
    print(all(f.read(4096)[:512] == bytes([page]) * 512 for page in range(100)))`;
    const mount = await mountTestVolume();
    const toggled = await run('python3', ['-c', script, join(mount.mountpoint, 'file')]);
    expect(toggled).toMatchObject({ status: 0, stdout: 'True\n' });
  });

  test('carries a git clone, an SQLite database and a file of many blocks', async () => {
    const mount = await mountTestVolume();
    const repository = `cd $1; git init -q r; cd r; git config user.email a@b; git config user.name n
      for i in $(seq 40); do echo $i > f$i; done; git add .; git commit -qm one; git status --porcelain; cd ..
      git clone -q r copy; git -C copy fsck --strict 2>/dev/null; ls copy | wc -l`;
    expect(await shell(mount, repository)).toBe('40');
    const database = `import sqlite3, sys
db = sqlite3.connect(sys.argv[1] + '/t.db')
db.execute('create table t(a)')
for i in range(20):
    db.execute('insert into t values(?)', (i,)); db.commit()
print(db.execute('select count(*), sum(a) from t').fetchone(), db.execute('pragma integrity_check').fetchone()[0])`;
    const sqlite = await run('python3', ['-c', database, mount.mountpoint]);
    expect(sqlite).toMatchObject({ status: 0, stdout: '(20, 190) ok\n' });
    const big = `head -c 30000000 /dev/urandom > $2/source; cp $2/source $1/big
      dd if=/dev/urandom of=$2/source bs=4k count=300 seek=700 conv=notrunc status=none
      dd if=$2/source of=$1/big bs=4k skip=700 seek=700 count=300 conv=notrunc status=none
      cmp $2/source $1/big; truncate -s 12345678 $1/big; cmp -n 12345678 $2/source $1/big; stat -c %s $1/big`;
    expect(await shell(mount, big)).toBe('12345678');
  });
});

describe.skipIf(cannotMount())('when its worker is killed with kill -9', () => {
  async function killWorker(mount: MountedVolume): Promise<void> {
    const { workerPid } = await mountStats(mount.mountpoint);
    if (typeof workerPid === 'number') process.kill(workerPid, 'SIGKILL');
  }

  test('programs that write, append, create, rename and remove see no error, and nothing is lost or done twice', async () => {
    const mount = await mountTestVolume();
    const script = `cd $1; mkdir work; cd work
      for i in $(seq 400); do
        echo line-$i >> log
        echo $i > new-$i; mv new-$i file-$i; ln file-$i link-$i; mkdir d-$i; rmdir d-$i; rm link-$i
      done`;
    const writing = start('bash', ['-ec', script, 'bash', mount.mountpoint]);
    const copying = start('bash', [
      '-ec',
      'exec 7<> $1/held; for i in $(seq 200); do head -c 50000 /dev/zero | tr "\\\\0" x >&7; done; exec 7>&-; stat -c %s $1/held',
      'bash',
      mount.mountpoint,
    ]);
    let done = 0;
    const ended = (): boolean => done > 0;
    const both = Promise.all([writing.finished, copying.finished]).finally(() => done++);
    let kills = 0;
    while (!ended() && kills < 4) {
      const before = await mountStats(mount.mountpoint);
      await killWorker(mount);
      kills++;
      for (let now = before; !ended() && now['restarts'] === before['restarts'];)
        now = await mountStats(mount.mountpoint);
    }
    const [writer, copier] = await both;
    expect(writer).toMatchObject({ status: 0, stderr: '' });
    expect(copier).toMatchObject({ status: 0, stdout: '10000000\n', stderr: '' });
    expect(kills).toBeGreaterThan(1);
    const check =
      'cd $1/work; ls | wc -l; wc -l < log; sort -u log | wc -l; for i in $(seq 400); do [ "$(cat file-$i)" = $i ]; done';
    expect(await shell(mount, check)).toBe('401\n400\n400');
    expect(readFileSync(mount.logPath, 'utf8')).not.toMatch(/EIO|unexpected/);
  });

  test('of two that start on one mount point at the same time the second is refused by name', async () => {
    const volume = await testVolume();
    const at = mountDirs();
    const first = await lockControl(at.mountpoint);
    await expect(mountTestVolume(volume, { at })).rejects.toMatchObject({
      code: 'held',
      message: expect.stringContaining(
        `${at.mountpoint} is held by process ${process.pid} (penstock fs mount)`,
      ) as string,
    });
    first.release();
    expect(await shell(await mountTestVolume(volume, { at }), 'echo on > $1/f; cat $1/f')).toBe('on');
    // And as long as it serves.
    await expect(lockControl(at.mountpoint)).rejects.toMatchObject({ code: 'held' });
  });

  test('a second mount on its mount point is refused by name, and the first goes on', async () => {
    const mount = await mountTestVolume();
    await expect(mountTestVolume(mount, { at: mount })).rejects.toThrow(
      `is already mounted (supervisor pid ${mount.supervisorPid})`,
    );
    expect(await shell(mount, 'echo on > $1/f; cat $1/f')).toBe('on');
  });
});
