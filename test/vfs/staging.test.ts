/** The staging area over restarts and power cuts, without a mount. */
import { crc32c } from '@node-rs/crc32';
import { spawn, spawnSync } from 'node:child_process';
import { appendFileSync, copyFileSync, globSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, expect, onTestFinished, test } from 'vitest';
import { Journal } from '../../fs-gateway/data/journal.ts';
import { FrameKind } from '../../fs-gateway/data/journal-frames.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import type { StagingOptions } from '../../fs-gateway/data/staging.ts';
import { HANG_MS } from '../support/hang.ts';
import { isRoot, memoryFolder } from '../support/loop-disk.ts';
import { tempDir } from '../support/temp.ts';

const LARGE = 200_000;

function open(
  dir: string,
  bootId: string,
  life = 'one',
  isCommitted: StagingOptions['isCommitted'] = () => false,
  reports: string[] = [],
): Staging {
  return new Staging({ dir, life, bootId, promises: true, isCommitted, report: (message) => reports.push(message) });
}

function staged(staging: Staging, ino: number, length: number): Buffer {
  const target = Buffer.alloc(length);
  staging.get(ino)?.overlay(0, target);
  return target;
}

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

describe('the staging area', () => {
  test('after a power cut has what was synced, and nothing of a staging file that was not', async () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    const large = first.begin(7, 0);
    first.write(large, 0, Buffer.alloc(LARGE, 'a'), 1n);
    await first.sync(large, 1n);
    // Answered and not synced: the frame may be on the disk while the bytes are not.
    first.write(large, LARGE, Buffer.alloc(1000, 'b'), 2n);
    first.write(first.begin(8, 0), 0, Buffer.alloc(LARGE, 'c'), 3n);
    const small = first.begin(9, 0);
    first.write(small, 0, Buffer.from('small'), 4n);
    await first.sync(small, 4n);
    first.write(small, 5, Buffer.from(' and not synced'), 5n);
    first.write(first.begin(10, 0), 0, Buffer.from('not synced'), 6n);
    first.close();
    const next = open(dir, 'boot 2');
    expect(next.get(7)?.size).toBe(LARGE);
    expect(staged(next, 7, LARGE).equals(Buffer.alloc(LARGE, 'a'))).toBe(true);
    expect(next.get(8)?.stagedBytes ?? 0).toBe(0);
    expect([next.get(9)?.size, staged(next, 9, 5).toString()]).toEqual([5, 'small']);
    expect(next.get(10)).toBeUndefined();
    next.close();
    // What was promised stays so until it is committed.
    const third = open(dir, 'boot 3');
    expect([third.get(7)?.size, third.get(9)?.size]).toEqual([LARGE, 5]);
    third.close();
  });

  test('after a power cut has nothing that was committed, though the word for that did not reach the disk', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    const file = first.begin(7, 0);
    first.write(file, 0, Buffer.from('committed'), 1n);
    first.resize(first.begin(8, 100), 10, true, 1n);
    // The disk has the journal as of now.
    copyFileSync(join(dir, 'journal'), join(dir, 'on the disk'));
    first.committed(file, first.beginFlush(file, 1n), 2n);
    first.close();
    copyFileSync(join(dir, 'on the disk'), join(dir, 'journal'));
    const next = open(dir, 'boot 2');
    expect([...next.files.keys()]).toEqual([]);
    next.close();
  });

  test('finds what was staged after the journal was emptied', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    for (let n = 0; n < 600; n++) {
      first.opened(5, 1n, `open ${n}`);
      first.closed(5, 2n, `close ${n}`);
    }
    first.opened(7, 3n, 'open');
    first.write(first.begin(7, 0), 0, Buffer.from('staged'), 3n);
    first.close();
    const next = open(dir, 'boot 1');
    expect([next.isOpen(5), next.isOpen(7), staged(next, 7, 6).toString()]).toEqual([false, true, 'staged']);
    next.close();
  });

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
    const next = open(dir, 'boot 1');
    expect(staged(next, 1000, 8).toString()).toBe('answered');
    expect(next.get(1)?.size).toBe(5000);
    next.close();
  });

  test('closes files and lets go of what is committed on a full disk, and the next worker hears of it once there was room', async () => {
    const dir = tempDir('staging');
    const worker = onSmallDisk(
      dir,
      `
      staging.opened(7, 1n, 'open');
      for (const ino of [1, 2, 3]) staging.write(staging.begin(ino, 0), 0, Buffer.from('staged'), 1n);
      for (let full = false; !full;) {
        try {
          staging.opened(8, 1n, '');
        } catch {
          full = true;
        }
      }
      const [one, two] = [staging.begin(1, 0), staging.begin(2, 0)];
      staging.committed(one, staging.beginFlush(one, 2n), 2n);
      staging.committed(two, staging.beginFlush(two, 2n), 2n);
      console.log(staging.closed(7, 2n, 'close'));
      await lines.next();
      staging.write(staging.begin(2, 0), 0, Buffer.from('anew'), 3n);
      console.log('answered');
      await lines.next();`,
    );
    expect(await worker.hear()).toBe('true');
    worker.goOn();
    expect(await worker.hear()).toBe('answered');
    await worker.kill();
    const next = open(dir, 'boot 1');
    expect([next.isOpen(7), next.isOpen(8)]).toEqual([false, true]);
    expect(next.get(1)).toBeUndefined();
    expect(staged(next, 2, 4).toString()).toBe('anew');
    expect(staged(next, 3, 6).toString()).toBe('staged');
    next.close();
  });

  test('an open that only reads is refused by a full disk, and closes are written into what was kept for them', async () => {
    const dir = tempDir('staging');
    const worker = onSmallDisk(
      dir,
      `
      staging.opened(7, 1n, 'open');
      const refuses = (ino) => {
        try {
          staging.opened(ino, 1n, '', 0, true);
          return false;
        } catch {
          return true;
        }
      };
      // The smallest of frames, so that none has room behind it.
      for (let n = 0; n < 40_000 && !refuses(8); n++);
      console.log(refuses(9), staging.closed(7, 2n, 'close'));
      await lines.next();`,
    );
    expect(await worker.hear()).toBe('true true');
    await worker.kill();
    const next = open(dir, 'boot 1');
    expect([7, 8, 9].filter((ino) => next.isOpen(ino))).toEqual([8]);
    next.close();
  });

  test('a journal that was written anew has what is written next, also where its folder cannot be synced; no promise is given then', () => {
    const dir = tempDir('staging');
    const script = `
      import { spawnSync } from 'node:child_process';
      import { closeSync, openSync } from 'node:fs';
      import { Journal } from '${join(import.meta.dirname, '../../fs-gateway/data/journal.ts')}';
      const frame = (ino) => ({ kind: 1, ino, timeNs: 1n, offset: 0, length: 0 });
      const journal = new Journal(process.argv[1]);
      journal.append(frame(7));
      const openAll = () => {
        for (let last = openSync('/dev/null'); ;) {
          try {
            last = openSync('/dev/null');
          } catch {
            return last;
          }
        }
      };
      spawnSync('prlimit', ['--pid', String(process.pid), '--nofile=64:']);
      // One file more can be opened, which is the new journal.
      closeSync(openAll());
      // The one before stays open for as long as it is synced.
      const synced = journal.sync();
      try {
        journal.rewrite([frame(7)]);
      } catch {}
      journal.append(frame(8));
      await synced;
      openAll();
      const refused = await journal.sync().then(() => 'promised', ({ code }) => code);
      console.log(refused);`;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module-typescript', '-e', script, dir], {
      encoding: 'utf8',
      timeout: HANG_MS,
    });
    expect(stdout, stderr).toBe('EMFILE\n');
    const journal = new Journal(dir);
    expect(journal.read().map(({ ino }) => ino)).toEqual([7, 8]);
    journal.close();
  });

  test('has what is in a staging file also when the disk had no room for the word that it is there', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    const file = first.begin(7, 0);
    first.write(file, 0, Buffer.from('in memory'), 1n);
    first.write(file, 9, Buffer.alloc(LARGE, 'b'), 2n);
    first.close();
    const journal = new Journal(dir);
    journal.rewrite(journal.read().filter(({ kind }) => kind !== FrameKind.SPILL));
    journal.close();
    const next = open(dir, 'boot 1');
    expect(staged(next, 7, LARGE + 9).equals(Buffer.concat([Buffer.from('in memory'), Buffer.alloc(LARGE, 'b')]))).toBe(
      true,
    );
    next.close();
  });

  const flips: readonly (readonly [what: string, flip: (journal: Buffer, frame: number) => void])[] = [
    ['in its bytes', (journal, frame) => (journal[frame + 45] = 0)],
    ['in its length', (journal, frame) => (journal[frame] = 0xff)],
  ];
  test.each(flips)(
    'a frame of the journal that is damaged %s costs that frame, and is named; what stands behind it is there',
    (_what, flip) => {
      const dir = tempDir('staging');
      const first = open(dir, 'boot 1');
      for (const ino of [7, 8, 9]) first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}`), 1n);
      first.opened(5, 1n, 'request');
      first.close();
      const path = join(dir, 'journal');
      const damaged = readFileSync(path);
      const frame = damaged.indexOf('staged of 8') - 41;
      flip(damaged, frame);
      writeFileSync(path, damaged);
      const reports: string[] = [];
      const next = open(dir, 'boot 1', 'one', () => false, reports);
      expect(staged(next, 7, 11).toString()).toBe('staged of 7');
      expect(staged(next, 9, 11).toString()).toBe('staged of 9');
      expect(next.get(8)).toBeUndefined();
      expect(next.isOpen(5)).toBe(true);
      expect(next.losses).toMatchObject([{ ino: 8 }]);
      expect(reports).toEqual([expect.stringContaining(`${path} is damaged (byte ${frame}, of inode 8 as it says)`)]);
      expect(readFileSync(`${path}.damaged.1`).equals(damaged)).toBe(true);
      next.close();
      // It was written anew.
      const last = open(dir, 'boot 1');
      expect(last.losses).toEqual([]);
      expect(staged(last, 9, 11).toString()).toBe('staged of 9');
      last.close();
    },
  );

  test.skipIf(!isRoot)(
    'a damaged journal on a full disk is gone on with, though no copy of it can be kept; of each there is one copy',
    () => {
      const dir = memoryFolder('2m');
      const path = join(dir, 'journal');
      const first = open(dir, 'boot 1');
      for (let ino = 1; ino <= 20; ino++) first.write(first.begin(ino, 0), 0, Buffer.alloc(60_000, 'staged'), 1n);
      first.close();
      const damaged = readFileSync(path);
      damaged[100_000] = 0;
      writeFileSync(path, damaged);
      const reports: string[] = [];
      const next = open(dir, 'boot 1', 'one', () => false, reports);
      expect(reports).toEqual([expect.stringMatching(/inode 2 as it says.*No copy of it .*ENOSPC/)]);
      expect(globSync(`${path}.*`)).toEqual([]);
      expect(staged(next, 20, 6).toString()).toBe('staged');
      next.close();
      const roomy = tempDir('staging');
      writeFileSync(join(roomy, 'journal'), damaged);
      writeFileSync(join(roomy, 'journal.damaged.1'), 'another');
      for (let start = 0; start < 2; start++) {
        const journal = new Journal(roomy);
        journal.read();
        journal.close();
      }
      expect(globSync(join(roomy, 'journal.*')).map((copy) => readFileSync(copy).length)).toEqual([7, damaged.length]);
    },
  );

  /** The frames of a journal in which this inode is staged, as somebody who copies it into a volume writes them. */
  function journalOf(ino: number): Buffer {
    const dir = tempDir('another');
    const another = open(dir, 'boot 1');
    for (let n = 0; n < 100; n++) another.write(another.begin(ino, 0), n, Buffer.from('not ours'), 1n);
    another.close();
    return readFileSync(join(dir, 'journal'));
  }

  test('a damaged stretch of many frames makes no mark behind it swallow what was written after the flush', () => {
    const dir = tempDir('staging');
    const path = join(dir, 'journal');
    const first = open(dir, 'boot 1');
    for (const ino of [5, 6]) first.opened(ino, 1n, `open ${ino}`);
    const file = first.begin(7, 0);
    const write = (from: number, count: number): void => {
      for (let n = from; n < from + count; n++) first.write(file, LARGE + n * 2000, Buffer.from('x'), 1n);
    };
    first.write(file, 0, Buffer.alloc(LARGE), 1n);
    write(0, 300);
    const flush = first.beginFlush(file, 2n);
    write(300, 99);
    first.committed(file, flush, 3n);
    first.close();
    const damaged = readFileSync(path);
    const end = damaged.length;
    // Of 399 frames behind the large one, before CLEAN: a page within the first 300.
    damaged.fill(0xee, end - 390 * 41 + 7, end - 290 * 41 + 7);
    writeFileSync(path, damaged);
    const reports: string[] = [];
    const next = open(dir, 'boot 1', 'one', () => false, reports);
    const starts = next.get(7)?.active.ranges.map(({ start }) => (start - LARGE) / 2000) ?? [];
    expect(starts.filter((n) => n >= 300)).toHaveLength(99);
    // And nothing that was committed whatever was lost.
    expect(Math.min(...starts)).toBeGreaterThan(190);
    expect(next.losses.map(({ ino }) => ino)).toEqual([undefined]);
    expect(reports).toEqual([expect.stringContaining('of which inodes nobody can tell')]);
    next.close();
  });

  test('a frame that was torn in the bytes of a file brings nothing of those back: a journal that was copied into a volume', () => {
    const dir = tempDir('staging');
    const path = join(dir, 'journal');
    const first = open(dir, 'boot 1');
    first.write(first.begin(7, 0), 0, Buffer.from('staged of 7'), 1n);
    first.write(first.begin(8, 0), 0, Buffer.concat([journalOf(99), Buffer.alloc(1000, 'x')]), 1n);
    first.close();
    // Killed within the write: the reserve stands behind what was done of it.
    const left = readFileSync(path);
    writeFileSync(path, Buffer.concat([left.subarray(0, -500), Buffer.alloc(100_000)]));
    const reports: string[] = [];
    const next = open(dir, 'boot 1', 'one', () => false, reports);
    expect(staged(next, 7, 11).toString()).toBe('staged of 7');
    expect([next.get(8)?.stagedBytes ?? 0, next.get(99)]).toEqual([0, undefined]);
    expect([reports, next.losses]).toEqual([[], []]);
    next.close();
  });

  test('of a frame with a damaged head nothing in the bytes of its file is taken for frames; what stands behind it is there', () => {
    const dir = tempDir('staging');
    const path = join(dir, 'journal');
    const first = open(dir, 'boot 1');
    const copied = journalOf(99);
    first.write(first.begin(8, 0), 0, Buffer.concat([copied, Buffer.from('and more')]), 1n);
    first.write(first.begin(9, 0), 0, Buffer.from('staged of 9'), 1n);
    first.close();
    const damaged = readFileSync(path);
    damaged.fill(0xee, damaged.indexOf(copied) - 41, damaged.indexOf(copied));
    // The last frame was torn beside that.
    writeFileSync(path, Buffer.concat([damaged, damaged.subarray(-52, -3), Buffer.alloc(100_000)]));
    const next = open(dir, 'boot 1');
    expect(staged(next, 9, 11).toString()).toBe('staged of 9');
    expect(next.get(99)).toBeUndefined();
    expect(next.losses.map(({ ino }) => ino)).toEqual([undefined]);
    next.close();
  });

  test('frames that do not follow one another to the end of a journal whose heads are damaged are lost, and that is said', () => {
    const dir = tempDir('staging');
    const path = join(dir, 'journal');
    const first = open(dir, 'boot 1');
    for (const ino of [6, 7, 8, 9]) first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}`), 1n);
    first.close();
    const damaged = readFileSync(path);
    for (const ino of [7, 9]) {
      const at = damaged.indexOf(`staged of ${ino}`);
      damaged.fill(0xee, at - 41, at);
    }
    writeFileSync(path, damaged);
    const reports: string[] = [];
    const next = open(dir, 'boot 1', 'one', () => false, reports);
    expect([...next.files.keys()]).toEqual([6]);
    expect(next.losses.map(({ ino }) => ino)).toEqual([undefined]);
    expect(reports).toEqual([expect.stringContaining('of which inodes nobody can tell')]);
    next.close();
    const last = open(dir, 'boot 1');
    expect([[...last.files.keys()], last.losses]).toEqual([[6], []]);
    last.close();
  });

  test('promises that stand behind a damaged frame are named where the machine was started anew, and kept', async () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    for (const ino of [7, 8]) {
      first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}`), 1n);
      await first.sync(first.begin(ino, 0), 2n);
    }
    first.close();
    const path = join(dir, 'journal');
    const damaged = readFileSync(path);
    damaged[damaged.indexOf('staged of 8')] = 0;
    writeFileSync(path, damaged);
    const reports: string[] = [];
    const next = open(dir, 'boot 2', 'two', () => false, reports);
    expect(staged(next, 7, 11).toString()).toBe('staged of 7');
    expect(reports).toEqual([expect.stringMatching(/is damaged .* may have been promised.*journal.damaged.1$/)]);
    expect(readFileSync(`${path}.damaged.1`).equals(damaged)).toBe(true);
    next.close();
  });

  test('a journal of a newer version is refused by name and left as it is, not half read', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    first.write(first.begin(7, 0), 0, Buffer.from('a'), 1n);
    first.close();
    const path = join(dir, 'journal');
    const [head, body] = [Buffer.alloc(8), Buffer.alloc(33)];
    body.writeUInt8(200, 0);
    head.writeUInt32LE(body.length, 0);
    head.writeUInt32LE(crc32c(body), 4);
    appendFileSync(path, Buffer.concat([head, body]));
    const left = readFileSync(path);
    expect(() => open(dir, 'boot 1')).toThrow(`${path}: a newer version wrote it (frame of kind 200)`);
    expect(readFileSync(path).equals(left)).toBe(true);
  });

  test('leaves a time that somebody has set, over workers', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    const [kept, written] = [first.begin(7, 0), first.begin(8, 0)];
    first.write(kept, 0, Buffer.from('a'), 1n);
    first.write(written, 0, Buffer.from('a'), 1n);
    for (const file of [kept, written]) first.keepMtime(file, 2n);
    first.write(written, 0, Buffer.from('b'), 3n);
    first.close();
    // The second one reads what the first one rewrote.
    for (let worker = 0; worker < 2; worker++) {
      const next = open(dir, 'boot 1');
      expect([next.get(7)?.mtimeNs, next.get(8)?.mtimeNs]).toEqual([null, 3n]);
      next.close();
    }
  });

  test('in the same boot has all that was answered', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    first.write(first.begin(7, 0), 0, Buffer.alloc(LARGE, 'a'), 1n);
    first.opened(7, 1n, 'one', 5);
    first.opened(7, 1n, 'two');
    first.close();
    const worker = open(dir, 'boot 1');
    expect(staged(worker, 7, LARGE).equals(Buffer.alloc(LARGE, 'a'))).toBe(true);
    expect([worker.isOpen(7), worker.backingOf(7)]).toEqual([true, 5]);
    worker.close();
    // Another mount: the handles of the one before are gone, what it staged is not.
    const mount = open(dir, 'boot 1', 'two');
    expect([mount.isOpen(7), mount.backingOf(7), mount.get(7)?.size]).toEqual([false, undefined, LARGE]);
    mount.close();
  });

  test('has what was written into a hole', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    const file = first.begin(7, 0);
    first.write(file, 0, Buffer.alloc(LARGE, 'a'), 1n);
    first.resize(file, 0, true, 2n);
    first.write(file, 0, Buffer.from('new'), 3n);
    first.punch(file, 1, 2, 4n);
    first.close();
    const worker = open(dir, 'boot 1');
    expect(worker.get(7)?.size).toBe(3);
    expect(staged(worker, 7, 3).toString()).toBe('n\0w');
    worker.close();
  });

  test('knows the size behind what was committed before it ended', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    for (const ino of [7, 8]) {
      const file = first.begin(ino, LARGE);
      first.write(file, LARGE, Buffer.from('more'), 1n);
      const flush = first.beginFlush(file, 1n);
      if (ino === 7) first.write(file, 0, Buffer.from('later'), 2n);
      else first.resize(file, 0, true, 2n);
      first.committed(file, flush, 3n);
    }
    first.close();
    const worker = open(dir, 'boot 1');
    expect(worker.get(7)?.size).toBe(LARGE + 4);
    expect([worker.get(8)?.size, worker.get(8)?.sizeSet]).toEqual([0, true]);
    // Grown again it has nothing of what it had.
    expect(worker.get(8)?.covers(0, LARGE + 4)).toBe(true);
    worker.close();
  });

  test('takes for committed what a flush of appended bytes had, and nothing behind it, when only the metadata know of the commit', () => {
    for (const [length, size] of [
      [5, 10],
      [LARGE, LARGE + 5],
    ] as const) {
      const dir = tempDir('staging');
      const first = open(dir, 'boot 1');
      const file = first.begin(7, 0);
      first.append(file, Buffer.alloc(length, 'a'), 1n, 'request 1');
      const flush = first.beginFlush(file, 2n);
      first.append(file, Buffer.from('later'), 3n, 'request 2');
      first.close();
      const isCommitted = (ino: number, id: bigint): boolean => ino === 7 && id === flush.append?.id;
      const next = open(dir, 'boot 1', 'one', isCommitted);
      next.close();
      // The one after it reads what that one rewrote.
      const third = open(dir, 'boot 1');
      const left = third.get(7);
      expect([left?.size, left?.append?.from]).toEqual([size, length]);
      expect(left?.active.ranges).toEqual([{ start: length, end: size, kind: 'data' }]);
      expect([third.appends.has(7, 'request 1'), third.appends.has(7, 'request 2')]).toEqual([false, true]);
      third.close();
    }
  });

  test('knows the last append to a file that is open, also when it is committed, and not over another mount', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    for (const ino of [7, 8]) {
      first.opened(ino, 1n, `open ${ino}`);
      const file = first.begin(ino, 0);
      first.append(file, Buffer.from('line'), 1n, `request ${ino}`);
      first.committed(file, first.beginFlush(file, 2n), 3n);
    }
    first.closed(8, 4n, 'close 8');
    first.close();
    for (let worker = 0; worker < 2; worker++) {
      const next = open(dir, 'boot 1');
      expect([next.appends.has(7, 'request 7'), next.appends.has(8, 'request 8')]).toEqual([true, false]);
      expect([...next.files.keys()]).toEqual([]);
      next.close();
    }
    const mount = open(dir, 'boot 1', 'two');
    expect(mount.appends.has(7, 'request 7')).toBe(false);
    mount.close();
  });

  test('counts an open and a close once, also when the kernel sends them again to a worker after the next', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    for (const request of ['one', 'two', 'three']) first.opened(7, 1n, request);
    expect(first.closed(7, 2n, 'four')).toBe(false);
    expect(first.takeBack(7, 2n, 'three')).toBe(false);
    first.close();
    for (let worker = 0; worker < 2; worker++) {
      const next = open(dir, 'boot 1');
      next.opened(7, 3n, 'two');
      next.opened(7, 3n, 'one');
      expect([next.closed(7, 3n, 'four'), next.isOpen(7)]).toEqual([false, true]);
      next.close();
    }
    const last = open(dir, 'boot 1');
    // It failed before: what comes again opens.
    last.opened(7, 4n, 'three');
    expect([last.closed(7, 5n, 'five'), last.closed(7, 5n, 'six'), last.isOpen(7)]).toEqual([false, true, false]);
    last.close();
  });

  test('knows the close that emptied the journal', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    for (let n = 0; n <= 500; n++) {
      first.opened(5, 1n, `open ${n}`);
      first.closed(5, 2n, `close ${n}`);
    }
    first.close();
    const next = open(dir, 'boot 1');
    next.opened(5, 3n, 'another');
    expect([next.closed(5, 3n, 'close 500'), next.isOpen(5)]).toEqual([false, true]);
    next.close();
  });

  test('an inode whose open waits is open for this worker, and not for the next one', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    first.opened(7, 1n, 'one', 5);
    first.hold(7);
    expect([first.closed(7, 2n, 'two'), first.isOpen(7), first.backingOf(7)]).toEqual([false, true, 5]);
    first.close();
    const next = open(dir, 'boot 1');
    expect(next.isOpen(7)).toBe(false);
    next.close();
    expect([first.letGo(7), first.isOpen(7), first.backingOf(7)]).toEqual([true, false, undefined]);
  });

  test('a promise keeps its id in a journal that is rewritten', async () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    const filler = first.begin(8, 0);
    const file = first.begin(7, 0);
    first.write(file, 0, Buffer.from('promised'), 1n);
    await first.sync(file, 2n);
    // Rewritten at the next close.
    for (let n = 0; n < 600; n++) first.write(filler, 0, Buffer.alloc(64_000), 3n);
    first.opened(9, 3n, 'open');
    first.closed(9, 3n, 'close');
    expect(statSync(join(dir, 'journal')).size).toBeLessThan(2 ** 20);
    const { promiseId } = first.beginFlush(file, 4n);
    first.close();
    const isCommitted = (ino: number, id: bigint): boolean => ino === 7 && id === promiseId;
    const next = open(dir, 'boot 2', 'one', isCommitted);
    expect(next.get(7)).toBeUndefined();
    next.close();
  });

  test('a small file that stays open and is written over again and again does not fill the disk with the journal', () => {
    const dir = tempDir('staging');
    const staging = open(dir, 'boot 1');
    staging.opened(7, 1n, 'open');
    const bytes = Buffer.alloc(64_000);
    for (let n = 0; n < 1200; n++) staging.write(staging.begin(7, 0), 0, bytes.fill(n), 2n);
    expect(statSync(join(dir, 'journal')).size).toBeLessThan(40 * 2 ** 20);
    staging.close();
    const next = open(dir, 'boot 1');
    expect(staged(next, 7, bytes.length).equals(bytes)).toBe(true);
    expect(next.isOpen(7)).toBe(true);
    next.close();
  });

  test('a journal of which nearly all is staged is not written again with each write', () => {
    const dir = tempDir('staging');
    const staging = open(dir, 'boot 1');
    const write = (ino: number): void => staging.write(staging.begin(ino, 0), 0, Buffer.alloc(64_000), 1n);
    for (let ino = 2; ino < 602; ino++) write(ino);
    const { ino: before } = statSync(join(dir, 'journal'));
    for (let ino = 602; ino < 610; ino++) write(ino);
    expect(statSync(join(dir, 'journal')).ino).toBe(before);
    staging.close();
  });

  test('of two syncs of one file at once, the promise of the one that began later holds', async () => {
    const dir = tempDir('staging');
    const staging = open(dir, 'boot 1');
    const file = staging.begin(7, 0);
    staging.write(file, 0, Buffer.alloc(100_000, 'a'), 1n);
    const first = staging.sync(file, 2n);
    staging.write(file, 0, Buffer.alloc(200_000, 'b'), 3n);
    await Promise.all([staging.sync(file, 4n), first]);
    staging.close();
    const journal = new Journal(dir);
    // The order of the two frames is the disk's.
    const frames = journal.read();
    const [one, two] = frames.filter(({ kind }) => kind === FrameKind.SYNC);
    if (one === undefined || two === undefined) throw new Error('there were two');
    const later = one.offset > two.offset ? one : two;
    journal.rewrite([...frames.filter(({ kind }) => kind !== FrameKind.SYNC), later, one === later ? two : one]);
    journal.close();
    const next = open(dir, 'boot 2');
    expect(next.get(7)?.size).toBe(200_000);
    next.close();
  });

  test('a flush that failed while a promise was made under its id: the next one is promised anew', async () => {
    const dir = tempDir('staging');
    const staging = open(dir, 'boot 1');
    const file = staging.begin(7, 0);
    staging.write(file, 0, Buffer.alloc(100_000, 'a'), 1n);
    const promise = staging.sync(file, 2n);
    staging.failedFlush(file, staging.beginFlush(file, 3n));
    await promise;
    // As the flusher does.
    if (file.promiseAgain) await staging.sync(file, 4n);
    const { promiseId } = staging.beginFlush(file, 5n);
    staging.close();
    expect(promiseId).toBeDefined();
    const isCommitted = (_ino: number, id: bigint): boolean => id === promiseId;
    const next = open(dir, 'boot 2', 'one', isCommitted);
    expect(next.get(7)).toBeUndefined();
    next.close();
  });
});
