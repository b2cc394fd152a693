/** Segments of staged files that serve again: no byte of one file is ever another's. */
import { closeSync, openSync, readdirSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Segments } from '../../fs-gateway/data/segments.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { isRoot, memoryFolder } from '../support/loop-disk.ts';
import { tempDir } from '../support/temp.ts';

const MIB = 2 ** 20;

function openStaging(dir: string): Staging {
  return new Staging({ dir, life: 'one', bootId: 'boot', promises: false, isCommitted: () => false });
}

function segmentsIn(dir: string): string[] {
  return readdirSync(dir)
    .filter((name) => /^(\d+|free)\.\d+$/.test(name))
    .sort();
}

/** So that the journal has no room for another frame. */
function fillDisk(dir: string, staging: Staging): void {
  const fd = openSync(join(dir, 'others'), 'w');
  expect(() => {
    for (;;) writeSync(fd, Buffer.alloc(MIB));
  }).toThrow('ENOSPC');
  closeSync(fd);
  const other = staging.begin(8, 0);
  // Its last page has room for some.
  expect(() => {
    for (;;) staging.punch(other, 0, 1, 1n);
  }).toThrow('ENOSPC');
}

function content(file: StagedFile | undefined): Buffer {
  const bytes = Buffer.alloc(file?.size ?? 0);
  file?.overlay(0, bytes);
  return bytes;
}

test('what is committed gives its segments back while the file is being written, and they serve the next bytes', () => {
  const dir = tempDir('staging');
  const staging = openStaging(dir);
  const file = staging.begin(7, 0);
  staging.write(file, 0, Buffer.alloc(40 * MIB, 'a'), 1n);
  expect(segmentsIn(dir)).toEqual(['7.0', '7.1', '7.2']);
  const flush = staging.beginFlush(file, 2n);
  // Beside the flush: over what it commits, and behind it.
  staging.write(file, 20 * MIB, Buffer.from('over'), 3n);
  staging.write(file, 40 * MIB, Buffer.from('behind'), 3n);
  staging.committed(file, flush, 4n);
  expect(segmentsIn(dir)).toEqual(['7.1', '7.2', 'free.0']);
  // A worker that is killed here leaves all of it to the next one.
  const copy = openStaging(dir);
  expect(copy.get(7)?.active.ranges).toEqual([
    { start: 20 * MIB, end: 20 * MIB + 4, kind: 'data' },
    { start: 40 * MIB, end: 40 * MIB + 6, kind: 'data' },
  ]);
  expect(content(copy.get(7)).toString('latin1', 20 * MIB, 20 * MIB + 4)).toBe('over');
  expect(content(copy.get(7)).toString('latin1', 40 * MIB)).toBe('behind');
  copy.close();
  staging.close();
});

test('a flush reads a large range while programs are served: a write that comes meanwhile is whole in it', async () => {
  const staging = openStaging(tempDir('staging'));
  const file = staging.begin(7, 0);
  const expected = Buffer.alloc(20 * MIB, 'a');
  staging.write(file, 0, expected, 1n);
  staging.beginFlush(file, 2n);
  const target = Buffer.alloc(expected.length);
  const loading = file.loadFlushing(0, target);
  // Also where two segments meet.
  for (const at of [0, 5 * MIB + 1, 16 * MIB - 2048]) {
    expected.fill('b', at, at + 4096);
    staging.write(file, at, Buffer.alloc(4096, 'b'), 3n);
  }
  await loading;
  expect(target.equals(expected)).toBe(true);
  staging.close();
});

/** Reads the second half when `meanwhile` was done behind the first. */
class InTwo extends Segments {
  meanwhile = (): void => undefined;

  override async readBeside(ino: number, offset: number, target: Buffer): Promise<void> {
    const half = target.length / 2;
    await super.readBeside(ino, offset, target.subarray(0, half));
    this.meanwhile();
    await super.readBeside(ino, offset + half, target.subarray(half));
  }
}

test('a write that comes while a flush reads is whole in it also where a hole was made of it since', async () => {
  const segments = new InTwo(tempDir('segments'));
  const file = new StagedFile(7, 0, segments);
  file.takeSegments();
  file.store(0, Buffer.alloc(MIB, 'a'));
  file.wrote(0, MIB);
  file.beginFlush();
  const [from, bytes] = [MIB / 2 - 2048, 4096];
  segments.meanwhile = () => {
    file.store(from, Buffer.alloc(bytes, 'b'));
    file.wrote(from, bytes);
    file.punched(from, from + bytes);
  };
  const target = Buffer.alloc(MIB);
  await file.loadFlushing(0, target);
  expect(new Set(target.toString('latin1', from, from + bytes)).size).toBe(1);
  segments.close();
});

test('a file in a segment that served another one has its own bytes only, also for the next worker', () => {
  const dir = tempDir('staging');
  const staging = openStaging(dir);
  const first = staging.begin(7, 0);
  staging.write(first, 0, Buffer.alloc(MIB, 'a'), 1n);
  staging.committed(first, staging.beginFlush(first, 2n), 3n);
  expect(segmentsIn(dir)).toEqual(['free.0']);
  const second = staging.begin(8, 0);
  staging.write(second, 100_000, Buffer.from('own'), 4n);
  staging.resize(second, 300_000, false, 5n);
  expect(segmentsIn(dir)).toEqual(['8.0']);
  const expected = Buffer.alloc(300_000);
  expected.write('own', 100_000);
  expect(content(second).equals(expected)).toBe(true);
  staging.close();
  const next = openStaging(dir);
  expect(content(next.get(8)).equals(expected)).toBe(true);
  expect(next.get(7)).toBeUndefined();
  next.close();
});

test('what an earlier version had staged, in one file for all of it, is there, is written on, and is given back', () => {
  const dir = tempDir('staging');
  const before = openStaging(dir);
  const file = before.begin(7, 0);
  before.write(file, 0, Buffer.alloc(MIB, 'a'), 1n);
  before.close();
  renameSync(join(dir, '7.0'), join(dir, '7'));
  // Of an inode that has nothing staged.
  writeFileSync(join(dir, '9'), 'x');
  const staging = openStaging(dir);
  expect(content(staging.get(7)).equals(Buffer.alloc(MIB, 'a'))).toBe(true);
  const taken = staging.begin(7, 0);
  staging.write(taken, 20 * MIB, Buffer.from('behind'), 2n);
  expect(readdirSync(dir).filter((name) => /^\d/.test(name))).toEqual(['7']);
  staging.close();
  const next = openStaging(dir);
  expect(content(next.get(7)).toString('latin1', 20 * MIB)).toBe('behind');
  const again = next.begin(7, 0);
  next.committed(again, next.beginFlush(again, 3n), 4n);
  expect(readdirSync(dir).filter((name) => /^\d|^free/.test(name))).toEqual([]);
  next.write(next.begin(7, 20 * MIB + 6), 0, Buffer.alloc(MIB, 'b'), 5n);
  expect(segmentsIn(dir)).toEqual(['7.0']);
  next.close();
});

test.skipIf(!isRoot)(
  'killed while a full disk keeps the word of a commit out of the journal, the next worker has all the bytes',
  () => {
    const dir = memoryFolder('40m');
    const staging = openStaging(dir);
    const file = staging.begin(7, 0);
    staging.write(file, 0, Buffer.alloc(20 * MIB, 'a'), 1n);
    const flush = staging.beginFlush(file, 2n);
    staging.write(file, 17 * MIB, Buffer.from('meanwhile'), 3n);
    fillDisk(dir, staging);
    staging.committed(file, flush, 4n);
    // Killed here.
    const copy = openStaging(dir);
    const expected = Buffer.alloc(20 * MIB, 'a');
    expected.write('meanwhile', 17 * MIB);
    expect(content(copy.get(7)).equals(expected)).toBe(true);
    copy.close();
    // Else the rest of it makes room, and what was owed with it.
    staging.committed(file, staging.beginFlush(file, 5n), 6n);
    staging.close();
    const next = openStaging(dir);
    expect(next.get(7)).toBeUndefined();
    next.close();
  },
);

test('what was promised over a power cut is never written over with the bytes of another file', async () => {
  const dir = tempDir('staging');
  const staging = openStaging(dir);
  const file = staging.begin(7, 0);
  staging.write(file, 0, Buffer.alloc(MIB, 'a'), 1n);
  await staging.sync(file, 2n);
  staging.committed(file, staging.beginFlush(file, 3n), 4n);
  expect(segmentsIn(dir)).toEqual([]);
  staging.close();
});

test('segments of no staged file are removed at the start, and what serves nobody is bounded', () => {
  const dir = tempDir('staging');
  const staging = openStaging(dir);
  const file = staging.begin(7, 0);
  for (let n = 0; n < 20; n++) staging.write(file, n * 16 * MIB, Buffer.alloc(100_000, 'a'), 1n);
  staging.committed(file, staging.beginFlush(file, 2n), 3n);
  expect(segmentsIn(dir).length).toBe(16);
  staging.close();
  openStaging(dir).close();
  expect(segmentsIn(dir)).toEqual([]);
});
