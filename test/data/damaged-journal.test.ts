/** A journal that is damaged, or of a newer version: what of it is believed, what is lost, and that no byte is taken from elsewhere than it was written. */
import { crc32c } from '@node-rs/crc32';
import { appendFileSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Journal } from '../../fs-gateway/data/journal.ts';
import { FrameKind, readJournal, sealOf } from '../../fs-gateway/data/journal-frames.ts';
import type { PlacedFrame } from '../../fs-gateway/data/journal-frames.ts';
import { isRoot, memoryFolder } from '../support/loop-disk.ts';
import { commitStaged, expectStaged, openPlainStaging, openStaging, stagedBytes } from '../support/staging.ts';
import { tempDir } from '../support/temp.ts';

const LARGE = 200_000;
const MIB = 2 ** 20;

const flips: readonly (readonly [what: string, flip: (journal: Buffer, frame: number) => void])[] = [
  ['in its bytes', (journal, frame) => (journal[frame + 45] = 0)],
  ['in its length', (journal, frame) => (journal[frame] = 0xff)],
];

test.each(flips)(
  'a frame of the journal that is damaged %s costs that frame, and is named; what stands behind it is there',
  (_what, flip) => {
    const dir = tempDir('staging');
    const first = openStaging(dir, 'boot 1');
    for (const ino of [7, 8, 9]) first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}`), 1n);
    first.opens.opened(5, 1n, 'request');
    first.close();
    const path = join(dir, 'journal');
    const damaged = readFileSync(path);
    const frame = damaged.indexOf('staged of 8') - 41;
    flip(damaged, frame);
    writeFileSync(path, damaged);
    const reports: string[] = [];
    const next = openStaging(dir, 'boot 1', 'one', () => false, reports);
    expect(stagedBytes(next, 7, 11).toString()).toBe('staged of 7');
    expect(stagedBytes(next, 9, 11).toString()).toBe('staged of 9');
    expect(next.get(8)).toBeUndefined();
    expect(next.opens.has(5)).toBe(true);
    expect(next.losses).toMatchObject([{ ino: 8 }]);
    expect(reports).toEqual([expect.stringContaining(`${path} is damaged (byte ${frame}, of inode 8 as it says)`)]);
    expect(readFileSync(`${path}.damaged.1`).equals(damaged)).toBe(true);
    next.close();
    // It was written anew.
    const last = openStaging(dir, 'boot 1');
    expect(last.losses).toEqual([]);
    expect(stagedBytes(last, 9, 11).toString()).toBe('staged of 9');
    last.close();
  },
);

test.skipIf(!isRoot)(
  'a damaged journal on a full disk is gone on with, though no copy of it can be kept; of each there is one copy',
  () => {
    const dir = memoryFolder('2m');
    const path = join(dir, 'journal');
    const first = openStaging(dir, 'boot 1');
    for (let ino = 1; ino <= 20; ino++) first.write(first.begin(ino, 0), 0, Buffer.alloc(60_000, 'staged'), 1n);
    first.close();
    const damaged = readFileSync(path);
    damaged[100_000] = 0;
    writeFileSync(path, damaged);
    const reports: string[] = [];
    const next = openStaging(dir, 'boot 1', 'one', () => false, reports);
    expect(reports).toEqual([expect.stringMatching(/inode 2 as it says.*No copy of it .*ENOSPC/)]);
    expect(globSync(`${path}.*`)).toEqual([]);
    expect(stagedBytes(next, 20, 6).toString()).toBe('staged');
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
  const another = openStaging(dir, 'boot 1');
  for (let n = 0; n < 100; n++) another.write(another.begin(ino, 0), n, Buffer.from('not ours'), 1n);
  another.close();
  return readFileSync(join(dir, 'journal'));
}

test('a damaged stretch of many frames makes no mark behind it swallow what was written after the flush', () => {
  const dir = tempDir('staging');
  const path = join(dir, 'journal');
  const first = openStaging(dir, 'boot 1');
  for (const ino of [5, 6]) first.opens.opened(ino, 1n, `open ${ino}`);
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
  const next = openStaging(dir, 'boot 1', 'one', () => false, reports);
  const starts = next.get(7)?.active.ranges.map(({ start }) => (start - LARGE) / 2000) ?? [];
  expect(starts.filter((n) => n >= 300)).toHaveLength(99);
  // And nothing that was committed whatever was lost.
  expect(Math.min(...starts)).toBe(300);
  expect(next.losses.map(({ ino }) => ino)).toEqual([undefined]);
  expect(reports).toEqual([expect.stringContaining('of which inodes nobody can tell')]);
  next.close();
});

test('a frame that was torn in the bytes of a file brings nothing of those back: a journal that was copied into a volume', () => {
  const dir = tempDir('staging');
  const path = join(dir, 'journal');
  const first = openStaging(dir, 'boot 1');
  first.write(first.begin(7, 0), 0, Buffer.from('staged of 7'), 1n);
  first.write(first.begin(8, 0), 0, Buffer.concat([journalOf(99), Buffer.alloc(1000, 'x')]), 1n);
  first.close();
  // Killed within the write: the reserve stands behind what was done of it.
  const left = readFileSync(path);
  writeFileSync(path, Buffer.concat([left.subarray(0, -500), Buffer.alloc(100_000)]));
  const reports: string[] = [];
  const next = openStaging(dir, 'boot 1', 'one', () => false, reports);
  expect(stagedBytes(next, 7, 11).toString()).toBe('staged of 7');
  expect([next.get(8)?.stagedBytes ?? 0, next.get(99)]).toEqual([0, undefined]);
  expect([reports, next.losses]).toEqual([[], []]);
  next.close();
});

test('of a frame with a damaged head nothing in the bytes of its file is taken for frames; what stands behind it is there', () => {
  const dir = tempDir('staging');
  const path = join(dir, 'journal');
  const first = openStaging(dir, 'boot 1');
  const copied = journalOf(99);
  first.write(first.begin(8, 0), 0, Buffer.concat([copied, Buffer.from('and more')]), 1n);
  first.write(first.begin(9, 0), 0, Buffer.from('staged of 9'), 1n);
  first.close();
  const damaged = readFileSync(path);
  damaged.fill(0xee, damaged.indexOf(copied) - 41, damaged.indexOf(copied));
  // The last frame was torn beside that.
  writeFileSync(path, Buffer.concat([damaged, damaged.subarray(-52, -3), Buffer.alloc(100_000)]));
  const next = openStaging(dir, 'boot 1');
  expect(stagedBytes(next, 9, 11).toString()).toBe('staged of 9');
  expect(next.get(99)).toBeUndefined();
  expect(next.losses.map(({ ino }) => ino)).toEqual([undefined]);
  next.close();
});

test('what stands between two damaged heads of the journal is there', () => {
  const dir = tempDir('staging');
  const path = join(dir, 'journal');
  const first = openStaging(dir, 'boot 1');
  for (const ino of [6, 7, 8, 9]) first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}`), 1n);
  first.close();
  const damaged = readFileSync(path);
  for (const ino of [7, 9]) {
    const at = damaged.indexOf(`staged of ${ino}`);
    damaged.fill(0xee, at - 41, at);
  }
  writeFileSync(path, damaged);
  const reports: string[] = [];
  const next = openStaging(dir, 'boot 1', 'one', () => false, reports);
  expect(stagedBytes(next, 8, 11).toString()).toBe('staged of 8');
  expect([...next.files.keys()]).toEqual([6, 8]);
  expect(next.losses.map(({ ino }) => ino)).toEqual([undefined]);
  expect(reports).toEqual([expect.stringContaining('of which inodes nobody can tell')]);
  next.close();
  const last = openStaging(dir, 'boot 1');
  expect([[...last.files.keys()], last.losses]).toEqual([[6, 8], []]);
  last.close();
});

test('promises that stand behind a damaged frame are named where the machine was started anew, and kept', async () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
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
  const next = openStaging(dir, 'boot 2', 'two', () => false, reports);
  expect(stagedBytes(next, 7, 11).toString()).toBe('staged of 7');
  expect(reports).toEqual([expect.stringMatching(/is damaged .* may have been promised.*journal.damaged.1$/)]);
  expect(readFileSync(`${path}.damaged.1`).equals(damaged)).toBe(true);
  next.close();
});

test('a journal of a newer version is refused by name and left as it is, not half read', () => {
  const dir = tempDir('staging');
  const first = openStaging(dir, 'boot 1');
  first.write(first.begin(7, 0), 0, Buffer.from('a'), 1n);
  first.close();
  const path = join(dir, 'journal');
  const written = readFileSync(path);
  const [head, body] = [Buffer.alloc(8), Buffer.alloc(33)];
  body.writeUInt8(200, 0);
  head.writeUInt32LE(body.length, 0);
  const { number } = readJournal(written, path);
  head.writeUInt32LE(sealOf(crc32c(body), number ?? 0, written.length), 4);
  appendFileSync(path, Buffer.concat([head, body]));
  const left = readFileSync(path);
  expect(() => openStaging(dir, 'boot 1')).toThrow(`${path}: a newer version wrote it (frame of kind 200)`);
  expect(readFileSync(path).equals(left)).toBe(true);
});

/** Damages the frames for which that is true. They are named by inode, or not: then the one before them is damaged in its length, too. */
function damage(dir: string, isDamaged: (frame: PlacedFrame, index: number) => boolean): void {
  const path = join(dir, 'journal');
  const content = readFileSync(path);
  const frames = readJournal(content, path).frames.filter(isDamaged);
  expect(frames.length).toBeGreaterThan(0);
  // A bit of its time.
  for (const { at } of frames) content.writeUInt8(content.readUInt8(at + 20) ^ 1, at + 20);
  writeFileSync(path, content);
}

test('a damaged word for a commit: no staged byte is taken from a segment that was given back and begun anew', () => {
  const dir = tempDir('staging');
  const first = openPlainStaging(dir);
  const file = first.begin(7, 0);
  first.write(file, 0, Buffer.alloc(MIB, 'a'), 1n);
  // It stays staged meanwhile, by what is in another segment.
  commitStaged(first, file, () => first.write(file, 16 * MIB, Buffer.alloc(MIB, 'b'), 2n));
  // The segment serves another file, and then this one again.
  const other = first.begin(8, 0);
  first.write(other, 0, Buffer.alloc(2 * MIB, 'o'), 4n);
  commitStaged(first, other);
  first.write(file, MIB / 2, Buffer.alloc(1000, 'c'), 5n);
  first.close();
  damage(dir, ({ kind, ino }) => kind === FrameKind.CLEAN && ino === 7);
  const next = openPlainStaging(dir);
  expect(next.get(7)?.active.ranges).toEqual([
    { start: MIB / 2, end: MIB / 2 + 1000, kind: 'data' },
    { start: 16 * MIB, end: 17 * MIB, kind: 'data' },
  ]);
  expectStaged(next.get(7), (at) => (at < 16 * MIB ? 'c' : 'b'));
  expect(next.losses).toMatchObject([{ ino: 7 }]);
  next.close();
});

test('a damaged word for a commit and for the segment that was begun behind it: what is in that is set aside by name, and not uploaded', () => {
  const dir = tempDir('staging');
  const first = openPlainStaging(dir);
  const file = first.begin(7, 0);
  first.write(file, 0, Buffer.alloc(MIB, 'a'), 1n);
  commitStaged(first, file, () => first.write(file, 16 * MIB, Buffer.alloc(MIB, 'b'), 2n));
  first.write(file, MIB / 2, Buffer.alloc(1000, 'c'), 5n);
  first.close();
  let begun = 0;
  damage(
    dir,
    ({ kind, offset }) => kind === FrameKind.CLEAN || (kind === FrameKind.SEGMENT && offset === 0 && ++begun === 2),
  );
  const reports: string[] = [];
  const next = openPlainStaging(dir, { report: (message) => reports.push(message) });
  expect(next.get(7)?.active.ranges).toEqual([{ start: 16 * MIB, end: 17 * MIB, kind: 'data' }]);
  const [kept = ''] = globSync(join(dir, 'aside', '*-7.0'));
  expect(reports.at(-1)).toContain(`inode 7, bytes 0 to ${MIB}: kept in ${kept}`);
  expect(readFileSync(kept).toString('latin1', MIB / 2, MIB / 2 + 1)).toBe('c');
  expect(JSON.parse(readFileSync(`${kept}.json`, 'utf8'))).toEqual({
    inode: 7,
    offset: 0,
    ranges: [{ start: 0, end: MIB, kind: 'data' }],
  });
  next.close();
});

test('a damaged word that a file is dropped: what is staged of it anew, in memory or in segments, has its own bytes', () => {
  const dir = tempDir('staging');
  const first = openPlainStaging(dir);
  for (const ino of [7, 8]) {
    const file = first.begin(ino, 0);
    first.write(file, 0, Buffer.alloc(1000, 'm'), 1n);
    first.write(file, 1000, Buffer.alloc(MIB, 'a'), 1n);
    commitStaged(first, file);
  }
  first.write(first.begin(7, MIB), 10, Buffer.from('x'), 4n);
  first.write(first.begin(8, MIB), 100_000, Buffer.from('x'), 4n);
  first.close();
  damage(dir, ({ kind }) => kind === FrameKind.DROP);
  const next = openPlainStaging(dir);
  for (const ino of [7, 8]) {
    expect(next.get(ino)?.active.dataBytes).toBe(1);
    expectStaged(next.get(ino), () => 'x');
  }
  next.close();
});

test('a damaged word for bytes that went from memory to a segment costs them only where a commit may be lost, too', () => {
  for (const [kinds, from] of [
    [[FrameKind.SPILL], 0],
    [[FrameKind.SPILL, FrameKind.RANGE, FrameKind.CLEAN], 16 * MIB],
  ] as const) {
    const dir = tempDir('staging');
    const first = openPlainStaging(dir);
    const file = first.begin(7, 0);
    first.write(file, 0, Buffer.alloc(1000, 'm'), 1n);
    first.write(file, 1000, Buffer.alloc(MIB, 'a'), 1n);
    if (from > 0) commitStaged(first, file, () => first.write(file, 16 * MIB, Buffer.alloc(MIB, 'b'), 2n));
    if (from > 0) first.write(file, MIB, Buffer.from('c'), 4n);
    first.write(file, 2 * MIB, Buffer.alloc(1000, 'd'), 5n);
    first.close();
    const last = 2 * MIB;
    damage(dir, ({ kind, offset }) => kinds.some((damaged) => damaged === kind) && offset !== last && offset !== MIB);
    const next = openPlainStaging(dir);
    const starts = next.get(7)?.active.ranges.map(({ start }) => start) ?? [];
    expect(starts).toEqual(from > 0 ? [MIB, last] : [0, last]);
    expectStaged(next.get(7), (at) => (at >= last ? 'd' : from > 0 ? 'c' : at < 1000 ? 'm' : 'a'));
    next.close();
  }
});

test('a copy of the journal itself, in the bytes of a file, is taken for no frames between heads that are damaged', () => {
  const dir = tempDir('staging');
  const path = join(dir, 'journal');
  const first = openStaging(dir, 'boot 1');
  for (const ino of [5, 6]) first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}`), 1n);
  first.write(first.begin(9, 0), 0, Buffer.from('committed'), 1n);
  const copied = readFileSync(path).subarray(0, 500);
  first.drop(first.begin(9, 0), 2n);
  first.write(first.begin(7, 0), 0, copied, 1n);
  for (const ino of [8, 10]) first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}`), 1n);
  first.close();
  const damaged = readFileSync(path);
  for (const at of [damaged.indexOf(copied), damaged.indexOf('staged of 10')]) damaged.fill(0xee, at - 41, at);
  writeFileSync(path, damaged);
  const next = openStaging(dir, 'boot 1');
  expect([...next.files.keys()]).toEqual([5, 6, 8]);
  next.close();
});

test('a journal of which the first page is damaged, and its number with it, has what stands behind that', () => {
  const dir = tempDir('staging');
  const path = join(dir, 'journal');
  const first = openStaging(dir, 'boot 1');
  for (let ino = 1; ino <= 200; ino++) first.write(first.begin(ino, 0), 0, Buffer.from(`staged of ${ino}`), 1n);
  first.close();
  const damaged = readFileSync(path).fill(0xee, 0, 4096);
  writeFileSync(path, damaged);
  const next = openStaging(dir, 'boot 1');
  expect(next.get(1)).toBeUndefined();
  expect(stagedBytes(next, 200, 13).toString()).toBe('staged of 200');
  expect(next.files.size).toBeGreaterThan(120);
  next.close();
});
