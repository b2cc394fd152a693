/** The staging area over restarts and power cuts, without a mount. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Journal } from '../../fs-gateway/data/journal.ts';
import { FrameKind } from '../../fs-gateway/data/journal-frames.ts';
import { HANG_MS } from '../support/hang.ts';
import { openStaging, stagedBytes } from '../support/staging.ts';
import { tempDir } from '../support/temp.ts';

const LARGE = 200_000;

test('after a power cut has what was synced, and nothing of a staging file that was not', async () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
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
  const next = openStaging(dir, 'boot 2');
  expect(next.get(7)?.size).toBe(LARGE);
  expect(stagedBytes(next, 7, LARGE).equals(Buffer.alloc(LARGE, 'a'))).toBe(true);
  expect(next.get(8)?.stagedBytes ?? 0).toBe(0);
  expect([next.get(9)?.size, stagedBytes(next, 9, 5).toString()]).toEqual([5, 'small']);
  expect(next.get(10)).toBeUndefined();
  next.close();
  // What was promised stays so until it is committed.
  const third = openStaging(dir, 'boot 3');
  expect([third.get(7)?.size, third.get(9)?.size]).toEqual([LARGE, 5]);
  third.close();
});

test('after a power cut has nothing that was committed, though the word for that did not reach the disk', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  const file = first.begin(7, 0);
  first.write(file, 0, Buffer.from('committed'), 1n);
  first.resize(first.begin(8, 100), 10, true, 1n);
  // The disk has the journal as of now.
  copyFileSync(join(dir, 'journal'), join(dir, 'on the disk'));
  first.committed(file, first.beginFlush(file, 1n), 2n);
  first.close();
  copyFileSync(join(dir, 'on the disk'), join(dir, 'journal'));
  const next = openStaging(dir, 'boot 2');
  expect([...next.files.keys()]).toEqual([]);
  next.close();
});

test('finds what was staged after the journal was emptied', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  for (let n = 0; n < 600; n++) {
    first.opens.opened(5, 1n, `open ${n}`);
    first.opens.closed(5, 2n, `close ${n}`);
  }
  first.opens.opened(7, 3n, 'open');
  first.write(first.begin(7, 0), 0, Buffer.from('staged'), 3n);
  first.close();
  const next = openStaging(dir, 'boot 1');
  expect([next.opens.has(5), next.opens.has(7), stagedBytes(next, 7, 6).toString()]).toEqual([false, true, 'staged']);
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

test('leaves a time that somebody has set, over workers', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  const [kept, written] = [first.begin(7, 0), first.begin(8, 0)];
  first.write(kept, 0, Buffer.from('a'), 1n);
  first.write(written, 0, Buffer.from('a'), 1n);
  for (const file of [kept, written]) first.keepMtime(file, 2n);
  first.write(written, 0, Buffer.from('b'), 3n);
  first.close();
  // The second one reads what the first one rewrote.
  for (let worker = 0; worker < 2; worker++) {
    const next = openStaging(dir, 'boot 1');
    expect([next.get(7)?.mtimeNs, next.get(8)?.mtimeNs]).toEqual([null, 3n]);
    next.close();
  }
});

test('in the same boot has all that was answered', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  first.write(first.begin(7, 0), 0, Buffer.alloc(LARGE, 'a'), 1n);
  first.opens.opened(7, 1n, 'one', 5);
  first.opens.opened(7, 1n, 'two');
  first.close();
  const worker = openStaging(dir, 'boot 1');
  expect(stagedBytes(worker, 7, LARGE).equals(Buffer.alloc(LARGE, 'a'))).toBe(true);
  expect([worker.opens.has(7), worker.opens.backingOf(7)]).toEqual([true, 5]);
  worker.close();
  // Another mount: the handles of the one before are gone, what it staged is not.
  const mount = openStaging(dir, 'boot 1', 'two');
  expect([mount.opens.has(7), mount.opens.backingOf(7), mount.get(7)?.size]).toEqual([false, undefined, LARGE]);
  mount.close();
});

test('has what was written into a hole', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  const file = first.begin(7, 0);
  first.write(file, 0, Buffer.alloc(LARGE, 'a'), 1n);
  first.resize(file, 0, true, 2n);
  first.write(file, 0, Buffer.from('new'), 3n);
  first.punch(file, 1, 2, 4n);
  first.close();
  const worker = openStaging(dir, 'boot 1');
  expect(worker.get(7)?.size).toBe(3);
  expect(stagedBytes(worker, 7, 3).toString()).toBe('n\0w');
  worker.close();
});

test('knows the size behind what was committed before it ended', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  for (const ino of [7, 8]) {
    const file = first.begin(ino, LARGE);
    first.write(file, LARGE, Buffer.from('more'), 1n);
    const flush = first.beginFlush(file, 1n);
    if (ino === 7) first.write(file, 0, Buffer.from('later'), 2n);
    else first.resize(file, 0, true, 2n);
    first.committed(file, flush, 3n);
  }
  first.close();
  const worker = openStaging(dir, 'boot 1');
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
    const first = openStaging(dir, 'boot 1');
    const file = first.begin(7, 0);
    first.append(file, Buffer.alloc(length, 'a'), 1n, 'request 1');
    const flush = first.beginFlush(file, 2n);
    first.append(file, Buffer.from('later'), 3n, 'request 2');
    first.close();
    const isCommitted = (ino: number, id: bigint): boolean => ino === 7 && id === flush.append?.id;
    const next = openStaging(dir, 'boot 1', 'one', isCommitted);
    next.close();
    // The one after it reads what that one rewrote.
    const third = openStaging(dir, 'boot 1');
    const left = third.get(7);
    expect([left?.size, left?.append?.from]).toEqual([size, length]);
    expect(left?.active.ranges).toEqual([{ start: length, end: size, kind: 'data' }]);
    expect([third.appends.has(7, 'request 1'), third.appends.has(7, 'request 2')]).toEqual([false, true]);
    third.close();
  }
});

test('knows the last append to a file that is open, also when it is committed, and not over another mount', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  for (const ino of [7, 8]) {
    first.opens.opened(ino, 1n, `open ${ino}`);
    const file = first.begin(ino, 0);
    first.append(file, Buffer.from('line'), 1n, `request ${ino}`);
    first.committed(file, first.beginFlush(file, 2n), 3n);
  }
  first.opens.closed(8, 4n, 'close 8');
  first.close();
  for (let worker = 0; worker < 2; worker++) {
    const next = openStaging(dir, 'boot 1');
    expect([next.appends.has(7, 'request 7'), next.appends.has(8, 'request 8')]).toEqual([true, false]);
    expect([...next.files.keys()]).toEqual([]);
    next.close();
  }
  const mount = openStaging(dir, 'boot 1', 'two');
  expect(mount.appends.has(7, 'request 7')).toBe(false);
  mount.close();
});

test('counts an open and a close once, also when the kernel sends them again to a worker after the next', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  for (const request of ['one', 'two', 'three']) first.opens.opened(7, 1n, request);
  expect(first.opens.closed(7, 2n, 'four')).toBe(false);
  expect(first.opens.takeBack(7, 2n, 'three')).toBe(false);
  first.close();
  for (let worker = 0; worker < 2; worker++) {
    const next = openStaging(dir, 'boot 1');
    next.opens.opened(7, 3n, 'two');
    next.opens.opened(7, 3n, 'one');
    expect([next.opens.closed(7, 3n, 'four'), next.opens.has(7)]).toEqual([false, true]);
    next.close();
  }
  const last = openStaging(dir, 'boot 1');
  // It failed before: what comes again opens.
  last.opens.opened(7, 4n, 'three');
  expect([last.opens.closed(7, 5n, 'five'), last.opens.closed(7, 5n, 'six'), last.opens.has(7)]).toEqual([
    false,
    true,
    false,
  ]);
  last.close();
});

test('knows the close that emptied the journal', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  for (let n = 0; n <= 500; n++) {
    first.opens.opened(5, 1n, `open ${n}`);
    first.opens.closed(5, 2n, `close ${n}`);
  }
  first.close();
  const next = openStaging(dir, 'boot 1');
  next.opens.opened(5, 3n, 'another');
  expect([next.opens.closed(5, 3n, 'close 500'), next.opens.has(5)]).toEqual([false, true]);
  next.close();
});

test('an inode whose open waits is open for this worker, and not for the next one', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  first.opens.opened(7, 1n, 'one', 5);
  first.opens.hold(7);
  expect([first.opens.closed(7, 2n, 'two'), first.opens.has(7), first.opens.backingOf(7)]).toEqual([false, true, 5]);
  first.close();
  const next = openStaging(dir, 'boot 1');
  expect(next.opens.has(7)).toBe(false);
  next.close();
  expect([first.opens.letGo(7), first.opens.has(7), first.opens.backingOf(7)]).toEqual([true, false, undefined]);
});

test('a promise keeps its id in a journal that is rewritten', async () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  const filler = first.begin(8, 0);
  const file = first.begin(7, 0);
  first.write(file, 0, Buffer.from('promised'), 1n);
  await first.sync(file, 2n);
  // Rewritten at the next close.
  for (let n = 0; n < 600; n++) first.write(filler, 0, Buffer.alloc(64_000), 3n);
  first.opens.opened(9, 3n, 'open');
  first.opens.closed(9, 3n, 'close');
  expect(statSync(join(dir, 'journal')).size).toBeLessThan(2 ** 20);
  const { promiseId } = first.beginFlush(file, 4n);
  first.close();
  const isCommitted = (ino: number, id: bigint): boolean => ino === 7 && id === promiseId;
  const next = openStaging(dir, 'boot 2', 'one', isCommitted);
  expect(next.get(7)).toBeUndefined();
  next.close();
});

test('a small file that stays open and is written over again and again does not fill the disk with the journal', () => {
  const dir = tempDir('staging');
  const staging = openStaging(dir, 'boot 1');
  staging.opens.opened(7, 1n, 'open');
  const bytes = Buffer.alloc(64_000);
  for (let n = 0; n < 1200; n++) staging.write(staging.begin(7, 0), 0, bytes.fill(n), 2n);
  expect(statSync(join(dir, 'journal')).size).toBeLessThan(40 * 2 ** 20);
  staging.close();
  const next = openStaging(dir, 'boot 1');
  expect(stagedBytes(next, 7, bytes.length).equals(bytes)).toBe(true);
  expect(next.opens.has(7)).toBe(true);
  next.close();
});

test('a journal of which nearly all is staged is not written again with each write', () => {
  const dir = tempDir('staging');
  const staging = openStaging(dir, 'boot 1');
  const write = (ino: number): void => staging.write(staging.begin(ino, 0), 0, Buffer.alloc(64_000), 1n);
  for (let ino = 2; ino < 602; ino++) write(ino);
  const { ino: before } = statSync(join(dir, 'journal'));
  for (let ino = 602; ino < 610; ino++) write(ino);
  expect(statSync(join(dir, 'journal')).ino).toBe(before);
  staging.close();
});

test('of two syncs of one file at once, the promise of the one that began later holds', async () => {
  const dir = tempDir('staging');
  const staging = openStaging(dir, 'boot 1');
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
  const next = openStaging(dir, 'boot 2');
  expect(next.get(7)?.size).toBe(200_000);
  next.close();
});

test('a flush that failed while a promise was made under its id: the next one is promised anew', async () => {
  const dir = tempDir('staging');
  const staging = openStaging(dir, 'boot 1');
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
  const next = openStaging(dir, 'boot 2', 'one', isCommitted);
  expect(next.get(7)).toBeUndefined();
  next.close();
});
