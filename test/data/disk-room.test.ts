/** What a full cache disk does to the staging area, and what in the cache directory gives way to it. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, rmSync, symlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, onTestFinished, test } from 'vitest';
import { BlockCache } from '../../fs-gateway/data/block-cache.ts';
import { Journal } from '../../fs-gateway/data/journal.ts';
import { FrameKind } from '../../fs-gateway/data/journal-frames.ts';
import type { Piece } from '../../fs-gateway/data/pieces.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { readElsewhere, sizeElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { isRoot, memoryFolder } from '../support/loop-disk.ts';
import { openStaging, stagedBytes } from '../support/staging.ts';
import { tempDir } from '../support/temp.ts';
import { lookUp } from '../tools/volume-files.ts';

const MIB = 2 ** 20;
const O_WRONLY = 1;

/** Another program takes all that is free. */
function fill(dir: string): string {
  const path = join(dir, 'others');
  const fd = openSync(path, 'w');
  for (const bytes of [MIB, 4096]) {
    expect(() => {
      for (;;) writeSync(fd, Buffer.alloc(bytes));
    }).toThrow('ENOSPC');
  }
  closeSync(fd);
  return path;
}

function piece(name: string): Piece {
  const none = { crc: null, objectId: null, objectBytes: null, etag: null };
  return { name, objectKey: name, offset: 0, storedBytes: 4 * MIB, bytes: 4 * MIB, ...none };
}

test.skipIf(!isRoot)('cached blocks give way to what is staged when another program has filled the disk', async () => {
  const dir = memoryFolder('80m');
  const cache = new BlockCache({ dir: join(dir, 'blocks'), bytesMax: 1e9, freeBytesMin: 0 });
  const staging = new Staging({
    dir: join(dir, 'mount'),
    life: 'one',
    bootId: 'boot',
    promises: false,
    isCommitted: () => false,
    room: {
      idleBytesMax: 0,
      idleMs: 1000,
      hasReserve: () => cache.hasReserve(),
      idleChanged: () => undefined,
      giveWay: () => cache.giveWay(),
    },
  });
  for (const name of ['a', 'b', 'c']) await cache.put(piece(name), Buffer.alloc(4 * MIB));
  expect(cache.bytes).toBeGreaterThan(12 * MIB);
  fill(dir);
  const file = staging.begin(7, 0);
  for (let at = 0; at < 8; at++) staging.write(file, at * MIB, Buffer.alloc(MIB, 'x'), 1n);
  expect(file.stagedBytes).toBe(8 * MIB);
  expect(cache.bytes).toBeLessThan(12 * MIB);
  staging.close();
  cache.close();
});

test.skipIf(!isRoot)(
  'a write that a full disk refused leaves nothing behind: the file is as the others have it',
  async () => {
    const volume = await testVolume({ inlineBytes: '0' });
    const dir = memoryFolder('40m');
    symlinkSync(dir, join(volume.base, 'cache-a'));
    const a = await openTestVolume(volume, 'a');
    const b = await openTestVolume(volume, 'b');
    await writeElsewhere(b, 'f', Buffer.from('one'));
    const { ino } = await lookUp(a, 1n, 'f');
    const { handle } = await a.operations.open(caller(), ino, O_WRONLY);
    const others = fill(dir);
    const write = async (): Promise<number> =>
      a.operations.write(caller(), ino, handle, 3n, Buffer.alloc(MIB, 'x'), O_WRONLY, false);
    await expect(write()).rejects.toMatchObject({ errno: Errno.ENOSPC });
    await writeElsewhere(b, 'f', Buffer.from('one and more'));
    expect((await readElsewhere(a, 'f')).toString()).toBe('one and more');
    expect(await sizeElsewhere(a, 'f')).toBe(12);
    rmSync(others);
    expect(await write()).toBe(MIB);
  },
);

interface Worker {
  hear(): Promise<unknown>;
  /** There is room from now on; the script hears a line. */
  goOn(): void;
  /** kill -9; resolves when it has ended. */
  kill(): Promise<void>;
}

/**
 * Runs a script that has the `staging` of a directory, and hears `lines`. The limit of a file's size stands for the size of the disk: a write that
 * crosses it is done in part, the next one fails.
 */
function onSmallDisk(dir: string, script: string): Worker {
  const prelude = `
    import { Staging } from '${join(import.meta.dirname, '../../fs-gateway/data/staging.ts')}';
    import { createInterface } from 'node:readline';
    const staging = new Staging({ dir: process.argv[1], life: 'one', bootId: 'boot 1', promises: true, isCommitted: () => false });
    const lines = createInterface(process.stdin)[Symbol.asyncIterator]();
`;
  const limited = ['-c', `trap '' XFSZ; ulimit -S -f 1024; exec "$0" "$@"`, process.execPath];
  const child = spawn('bash', [...limited, '--input-type=module-typescript', '-e', prelude + script, dir], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    hear: async () => (await lines.next()).value,
    goOn() {
      expect(spawnSync('prlimit', ['--pid', String(child.pid), '--fsize=unlimited:unlimited']).status).toBe(0);
      child.stdin.write('go on\n');
    },
    async kill() {
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
}

test('a frame that a full disk tore takes nothing with it that is answered later', async () => {
  const dir = tempDir('staging');
  const worker = onSmallDisk(
    dir,
    `
    let full = '';
    for (let ino = 1; full === ''; ino++) {
      try {
        staging.write(staging.begin(ino, 0), 0, Buffer.alloc(5000, 'x'), 1n);
      } catch (error) {
        full = error.message;
      }
    }
    console.log(full);
    await lines.next();
    staging.write(staging.begin(1000, 0), 0, Buffer.from('answered'), 1n);
    console.log('answered');
    await lines.next();`,
  );
  expect(await worker.hear()).toContain('staging in the cache directory');
  worker.goOn();
  expect(await worker.hear()).toBe('answered');
  await worker.kill();
  const next = openStaging(dir, 'boot 1');
  expect(stagedBytes(next, 1000, 8).toString()).toBe('answered');
  expect(next.get(1)?.size).toBe(5000);
  next.close();
});

test('closes files and lets go of what is committed on a full disk, and the next worker hears of it once there was room', async () => {
  const dir = tempDir('staging');
  const worker = onSmallDisk(
    dir,
    `
    staging.opens.opened(7, 1n, 'open');
    for (const ino of [1, 2, 3]) staging.write(staging.begin(ino, 0), 0, Buffer.from('staged'), 1n);
    for (let full = false; !full;) {
      try {
        staging.opens.opened(8, 1n, '');
      } catch {
        full = true;
      }
    }
    const [one, two] = [staging.begin(1, 0), staging.begin(2, 0)];
    staging.committed(one, staging.beginFlush(one, 2n), 2n);
    staging.committed(two, staging.beginFlush(two, 2n), 2n);
    console.log(staging.opens.closed(7, 2n, 'close'));
    await lines.next();
    staging.write(staging.begin(2, 0), 0, Buffer.from('anew'), 3n);
    console.log('answered');
    await lines.next();`,
  );
  expect(await worker.hear()).toBe('true');
  worker.goOn();
  expect(await worker.hear()).toBe('answered');
  await worker.kill();
  const next = openStaging(dir, 'boot 1');
  expect([next.opens.has(7), next.opens.has(8)]).toEqual([false, true]);
  expect(next.get(1)).toBeUndefined();
  expect(stagedBytes(next, 2, 4).toString()).toBe('anew');
  expect(stagedBytes(next, 3, 6).toString()).toBe('staged');
  next.close();
});

test('an open that only reads is refused by a full disk, and closes are written into what was kept for them', async () => {
  const dir = tempDir('staging');
  const worker = onSmallDisk(
    dir,
    `
    staging.opens.opened(7, 1n, 'open');
    const refuses = (ino) => {
      try {
        staging.opens.opened(ino, 1n, '', 0, true);
        return false;
      } catch {
        return true;
      }
    };
    // The smallest of frames, so that none has room behind it.
    for (let n = 0; n < 40_000 && !refuses(8); n++);
    console.log(refuses(9), staging.opens.closed(7, 2n, 'close'));
    await lines.next();`,
  );
  expect(await worker.hear()).toBe('true true');
  await worker.kill();
  const next = openStaging(dir, 'boot 1');
  expect([7, 8, 9].filter((ino) => next.opens.has(ino))).toEqual([8]);
  next.close();
});

test('has what is in a staging file also when the disk had no room for the word that it is there', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  const file = first.begin(7, 0);
  first.write(file, 0, Buffer.from('in memory'), 1n);
  first.write(file, 9, Buffer.alloc(200_000, 'b'), 2n);
  first.close();
  const journal = new Journal(dir);
  journal.rewrite(journal.read().filter(({ kind }) => kind !== FrameKind.SPILL));
  journal.close();
  const next = openStaging(dir, 'boot 1');
  expect(
    stagedBytes(next, 7, 200_000 + 9).equals(Buffer.concat([Buffer.from('in memory'), Buffer.alloc(200_000, 'b')])),
  ).toBe(true);
  next.close();
});

test.skipIf(!isRoot)(
  'a segment in which a full disk had no room for a byte is known to each later worker once it has bytes',
  () => {
    const dir = memoryFolder('4m');
    const first = openStaging(dir, 'boot');
    const file = first.begin(7, 0);
    first.write(file, 0, Buffer.alloc(60_000, 'a'), 1n);
    const others = fill(dir);
    expect(() => first.write(file, 60_000, Buffer.alloc(10_000, 'b'), 2n)).toThrow('ENOSPC');
    rmSync(others);
    // Killed here: the next one writes the journal anew, and finds the segment.
    const second = openStaging(dir, 'boot');
    second.write(second.begin(7, 0), 60_000, Buffer.alloc(10_000, 'b'), 3n);
    // Killed again.
    const third = openStaging(dir, 'boot');
    expect(stagedBytes(third, 7, 70_000).equals(Buffer.alloc(70_000, 'a').fill('b', 60_000))).toBe(true);
    for (const each of [third, second, first]) each.close();
  },
);
