/** `-o passthrough=full`: the kernel writes by itself too. Nothing that fsync or close answered is lost, whatever is killed. */
import { expect, test } from 'vitest';
import { umountVolume } from '../../fs-gateway/main.ts';
import type { FileLock } from '../../fs-gateway/vfs/operations.ts';
import { caller, mountTestVolume, openTestVolume } from '../support/fs-volume.ts';
import type { NewVolume } from '../support/fs-volume.ts';
import { run, shell, until } from '../support/mount-guard.ts';
import { lookUp } from '../tools/volume-files.ts';
import { random } from './passthrough-random.ts';
import {
  converse,
  HASH,
  killWorker,
  python,
  readElsewhere,
  sha,
  volumeStats,
  writeElsewhere,
} from './passthrough-volume.ts';

const O_RDWR = 2;

/** On volumes of any engine and store. */
export function passthroughFullCases(newVolume: NewVolume): void {
  test('random writes, mappings, cuts, syncs and reopens give what they give on a local disk, and are committed', async () => {
    const volume = await newVolume({ blockSize: '256KiB' });
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    const seed = Date.now() % 1_000_000;
    expect(await random(mount, 'f', seed, 300), `seed ${seed}`).toBe('equal');
    expect((await volumeStats(mount)).passthroughOpens).toBeGreaterThan(10);
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
    const { stdout } = await run('sha256sum', [`${mount.base}/oracle-f`]);
    await until(`seed ${seed} is heard of`, async () => sha(await readElsewhere(other, 'f')) === stdout.slice(0, 64));
  });

  test('the same while the worker is killed again and again: no error, nothing lost', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    const seed = Date.now() % 1_000_000;
    let running = 1;
    const writing = random(mount, 'f', seed, 400).finally(() => running--);
    let kills = 0;
    for (; kills < 4 && running > 0; kills++) await killWorker(mount);
    expect(await writing, `seed ${seed}`).toBe('equal');
    expect(kills).toBeGreaterThan(0);
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
    const { stdout } = await run('sha256sum', [`${mount.base}/oracle-f`]);
    await until(`seed ${seed} is heard of`, async () => sha(await readElsewhere(other, 'f')) === stdout.slice(0, 64));
  });

  test('what fsync answered is committed, also after a kill of the worker; what was only written is not lost by it', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    const program = converse(
      mount,
      'f',
      `fd = os.open(path, os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b's' * 500000, 0); os.fsync(fd); os.pwrite(fd, b'w' * 1000, 1000); say('written'); hear()
os.close(fd); say('closed'); hear()`,
    );
    expect(await program.hear()).toBe('written');
    const synced = Buffer.alloc(500_000, 's');
    await until('the fsync is heard of', async () => sha(await readElsewhere(other, 'f')) === sha(synced));
    await killWorker(mount);
    program.say('go on');
    expect(await program.hear()).toBe('closed');
    synced.fill('w', 1000, 2000);
    await until('the close is heard of', async () => sha(await readElsewhere(other, 'f')) === sha(synced));
    program.say('end');
  });

  test('a mapping that outlives its close is committed, and looked after by the next worker too', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    const program = converse(
      mount,
      'f',
      `fd = os.open(path, os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 300000); m = Mapping(fd, 300000); m.store(5, b'one'); os.close(fd)
say('closed'); hear(); m.store(250000, b'two'); say('stored'); hear(); m.close(); say('unmapped'); hear()`,
    );
    expect(await program.hear()).toBe('closed');
    await killWorker(mount);
    program.say('go on');
    expect(await program.hear()).toBe('stored');
    const expected = Buffer.alloc(300_000);
    expected.write('one', 5);
    expected.write('two', 250_000);
    await until('the store is committed', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
    program.say('go on');
    expect(await program.hear()).toBe('unmapped');
    await until('the file is complete', async () => (await volumeStats(mount)).liveFiles === 0);
    program.say('end');
  });

  test('two nodes write one file: each sees the other', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    const program = converse(
      mount,
      'f',
      `fd = os.open(path, os.O_RDWR | os.O_CREAT); os.pwrite(fd, bytes(200000), 0); os.fsync(fd); say('synced'); hear()
os.pwrite(fd, b'here', 0)
while os.pread(fd, 5, 100) != b'there': time.sleep(0.01)
say(os.pread(fd, 4, 0).decode()); hear()`,
    );
    expect(await program.hear()).toBe('synced');
    await until('it is heard of', async () => (await readElsewhere(other, 'f')).length === 200_000);
    await writeElsewhere(other, 'f', Buffer.from('there'), 100);
    program.say('go on');
    expect(await program.hear()).toBe('here');
    program.say('end');
    const expected = Buffer.alloc(200_000);
    expected.write('here', 0);
    expected.write('there', 100);
    await until('both are committed', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
  });

  test('what is allocated before it is written reads as zeros on every node, in its full size', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    const bytes = 20 * 2 ** 20 + 5;
    const allocate = `fd = os.open(path, os.O_RDWR | os.O_CREAT); os.posix_fallocate(fd, 0, ${bytes}); os.close(fd)`;
    await python(mount, 'f', allocate);
    const expected = Buffer.alloc(bytes);
    await until('the allocation is heard of', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
    expect(await python(mount, 'f', HASH)).toBe(sha(expected));
    const write = `fd = os.open(path, os.O_RDWR); os.pwrite(fd, b'written', 9000000)
m = Mapping(fd, ${bytes}); m.store(15000000, b'mapped'); m.close(); os.close(fd)`;
    await python(mount, 'f', write);
    expected.write('written', 9_000_000);
    expected.write('mapped', 15_000_000);
    await until('the write is heard of', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
    expect(await python(mount, 'f', HASH)).toBe(sha(expected));
  });

  test('a lock is given with what was written under it, also where the kernel writes, and no close and no fsync comes', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    const ROUNDS = 10;
    const program = converse(
      mount,
      'f',
      `import fcntl, struct
fd = os.open(path, os.O_RDWR | os.O_CREAT); os.pwrite(fd, bytes(200000), 0); os.fsync(fd); say('ready'); hear()
for n in range(${ROUNDS}):
    fcntl.lockf(fd, fcntl.LOCK_EX)
    (count,) = struct.unpack('<I', os.pread(fd, 4, 100000)); os.pwrite(fd, struct.pack('<I', count + 1), 100000)
    fcntl.lockf(fd, fcntl.LOCK_UN)
say('counted'); hear()`,
    );
    expect(await program.hear()).toBe('ready');
    const { operations } = other;
    const { ino } = await lookUp(other, 1n, 'f');
    const { handle } = await operations.open(caller(), ino, O_RDWR);
    const by: FileLock = { type: 'write', start: 0n, end: 2n ** 63n - 1n, pid: 1 };
    const how = { wait: true, flock: false };
    program.say('go on');
    for (let n = 0; n < ROUNDS; n++) {
      await operations.setlk(caller(), ino, handle, 1n, by, how);
      const count = Buffer.from(await operations.read(caller(), ino, handle, 100_000n, 4, 0)).readUInt32LE();
      const next = Buffer.alloc(4);
      next.writeUInt32LE(count + 1);
      await operations.write(caller(), ino, handle, 100_000n, next, O_RDWR, false);
      await operations.setlk(caller(), ino, handle, 1n, { ...by, type: 'unlock' }, how);
    }
    expect(await program.hear()).toBe('counted');
    program.say('end');
    await until('all were counted', async () => (await readElsewhere(other, 'f')).readUInt32LE(100_000) === 2 * ROUNDS);
  });

  test('stores by a mapping while another node changes other bytes of the same blocks: nothing of either is lost', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    // Every second run of 8 bytes is the program's, the others are the other node's.
    const program = converse(
      mount,
      'f',
      `import threading
fd = os.open(path, os.O_RDWR | os.O_CREAT); os.pwrite(fd, bytes(160000), 0); os.fsync(fd); m = Mapping(fd, 160000); say('ready')
heard = []; threading.Thread(target=lambda: heard.append(hear())).start(); n = 0
while not heard:
    n += 1
    for at in range(0, 160000, 16): m.store(at, n.to_bytes(8, 'little'))
m.close(); os.close(fd); say(n); hear()`,
    );
    expect(await program.hear()).toBe('ready');
    await until('the file is heard of', async () => (await readElsewhere(other, 'f')).length === 160_000);
    const expected = Buffer.alloc(160_000);
    for (let change = 1; change <= 12; change++) {
      const at = 8 + 16 * (change * 800);
      expected.writeUInt32LE(change, at);
      await writeElsewhere(other, 'f', expected.subarray(at, at + 8), at);
    }
    program.say('stop');
    const stores = BigInt(await program.hear());
    program.say('end');
    for (let at = 0; at < expected.length; at += 16) expected.writeBigUInt64LE(stores, at);
    await until('all is committed', async () => sha(await readElsewhere(other, 'f')) === sha(expected));
    await until('all is here', async () => (await python(mount, 'f', HASH)) === sha(expected));
  });

  test('carries a git clone and an SQLite database', async () => {
    const mount = await mountTestVolume(await newVolume(), { passthrough: 'full' });
    const repository = `cd $1; git init -q r; cd r; git config user.email a@b; git config user.name n
      for i in $(seq 40); do echo $i > f$i; done; git add .; git commit -qm one; git status --porcelain; cd ..
      git clone -q r copy; git -C copy fsck --strict 2>/dev/null; ls copy | wc -l`;
    expect((await shell(repository, mount.mountpoint)).trim()).toBe('40');
    const database = `import sqlite3
db = sqlite3.connect(path); db.execute('create table t(a)')
for i in range(20): db.execute('insert into t values(?)', (i,)); db.commit()
say(db.execute('select count(*), sum(a) from t').fetchone(), db.execute('pragma integrity_check').fetchone()[0])`;
    expect(await python(mount, 't.db', database)).toBe('(20, 190) ok');
  });
}
