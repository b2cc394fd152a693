/** Segments of staged files that serve again: no byte of one file is ever another's. */
import { closeSync, openSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import type { StagingRoom } from '../../fs-gateway/data/disk-room.ts';
import { Segments } from '../../fs-gateway/data/segments.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { openPlainStaging, segmentPath, segmentsIn, stagedContent } from '../support/staging.ts';
import { tempDir } from '../support/temp.ts';

const MIB = 2 ** 20;

test('what is committed gives its segments back while the file is being written, and they serve the next bytes', () => {
  const dir = tempDir('staging');
  const staging = openPlainStaging(dir);
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
  const copy = openPlainStaging(dir);
  expect(copy.get(7)?.active.ranges).toEqual([
    { start: 20 * MIB, end: 20 * MIB + 4, kind: 'data' },
    { start: 40 * MIB, end: 40 * MIB + 6, kind: 'data' },
  ]);
  expect(stagedContent(copy.get(7)).toString('latin1', 20 * MIB, 20 * MIB + 4)).toBe('over');
  expect(stagedContent(copy.get(7)).toString('latin1', 40 * MIB)).toBe('behind');
  copy.close();
  staging.close();
});

test('a flush reads a large range while programs are served: a write that comes meanwhile is whole in it', async () => {
  const staging = openPlainStaging(tempDir('staging'));
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
  const staging = openPlainStaging(dir);
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
  expect(stagedContent(second).equals(expected)).toBe(true);
  staging.close();
  const next = openPlainStaging(dir);
  expect(stagedContent(next.get(8)).equals(expected)).toBe(true);
  expect(next.get(7)).toBeUndefined();
  next.close();
});

test('what an earlier version had staged, in one file for all of it, is there, is written on, and is given back', () => {
  const dir = tempDir('staging');
  const before = openPlainStaging(dir);
  const file = before.begin(7, 0);
  before.write(file, 0, Buffer.alloc(MIB, 'a'), 1n);
  before.close();
  renameSync(segmentPath(dir, '7.0'), join(dir, '7'));
  // Of an inode that has nothing staged.
  writeFileSync(join(dir, '9'), 'x');
  const staging = openPlainStaging(dir);
  expect(stagedContent(staging.get(7)).equals(Buffer.alloc(MIB, 'a'))).toBe(true);
  const taken = staging.begin(7, 0);
  staging.write(taken, 20 * MIB, Buffer.from('behind'), 2n);
  expect(readdirSync(dir).filter((name) => /^\d/.test(name))).toEqual(['7']);
  staging.close();
  const next = openPlainStaging(dir);
  expect(stagedContent(next.get(7)).toString('latin1', 20 * MIB)).toBe('behind');
  const again = next.begin(7, 0);
  next.committed(again, next.beginFlush(again, 3n), 4n);
  expect(readdirSync(dir).filter((name) => /^\d|^free/.test(name))).toEqual([]);
  next.write(next.begin(7, 20 * MIB + 6), 0, Buffer.alloc(MIB, 'b'), 5n);
  expect(segmentsIn(dir)).toEqual(['7.0']);
  next.close();
});

function roomFor(over: Partial<StagingRoom>): { readonly room: StagingRoom; readonly idle: number[] } {
  const idle: number[] = [];
  const room: StagingRoom = {
    idleBytesMax: 40 * MIB,
    idleMs: 1000,
    hasReserve: () => true,
    idleChanged: (bytes) => void idle.push(bytes),
    giveWay: () => false,
    ...over,
  };
  return { room, idle };
}

test('segments that serve nobody are counted, bounded by the cache, and go when none is wanted for a while', () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
  const dir = tempDir('staging');
  const { room, idle } = roomFor({});
  const staging = openPlainStaging(dir, { room });
  const stage = (ino: number): void => {
    const file = staging.begin(ino, 0);
    for (let n = 0; n < 4; n++) staging.write(file, n * 16 * MIB, Buffer.alloc(100_000, 'a'), 1n);
    staging.committed(file, staging.beginFlush(file, 2n), 3n);
  };
  stage(7);
  expect(segmentsIn(dir).length).toBe(2);
  expect(idle).toEqual([16 * MIB, 32 * MIB]);
  vi.advanceTimersByTime(900);
  stage(8);
  vi.advanceTimersByTime(900);
  expect(segmentsIn(dir).length).toBe(2);
  vi.advanceTimersByTime(100);
  expect(segmentsIn(dir)).toEqual([]);
  expect(idle.at(-1)).toBe(0);
  staging.close();
});

test('no segment is kept for the next bytes where the disk is short of its reserve', () => {
  const dir = tempDir('staging');
  const { room, idle } = roomFor({ hasReserve: () => false });
  const staging = openPlainStaging(dir, { room });
  const file = staging.begin(7, 0);
  staging.write(file, 0, Buffer.alloc(MIB, 'a'), 1n);
  staging.committed(file, staging.beginFlush(file, 2n), 3n);
  expect([segmentsIn(dir), idle]).toEqual([[], []]);
  staging.close();
});

test('what was promised over a power cut is never written over with the bytes of another file', async () => {
  const dir = tempDir('staging');
  const staging = openPlainStaging(dir);
  const file = staging.begin(7, 0);
  staging.write(file, 0, Buffer.alloc(MIB, 'a'), 1n);
  await staging.sync(file, 2n);
  staging.committed(file, staging.beginFlush(file, 3n), 4n);
  expect(segmentsIn(dir)).toEqual([]);
  staging.close();
});

test('segments of no staged file are removed at the start, and what serves nobody is bounded', () => {
  const dir = tempDir('staging');
  const staging = openPlainStaging(dir);
  const file = staging.begin(7, 0);
  for (let n = 0; n < 20; n++) staging.write(file, n * 16 * MIB, Buffer.alloc(100_000, 'a'), 1n);
  staging.committed(file, staging.beginFlush(file, 2n), 3n);
  expect(segmentsIn(dir).length).toBe(16);
  staging.close();
  openPlainStaging(dir).close();
  expect(segmentsIn(dir)).toEqual([]);
});

test('a segment that somebody has removed is not made anew with zeros in the place of what was staged', async () => {
  const dir = tempDir('staging');
  const earlier = openPlainStaging(dir);
  earlier.write(earlier.begin(7, 0), 15 * MIB, Buffer.alloc(2 * MIB, 'a'), 1n);
  earlier.close();
  rmSync(segmentPath(dir, '7.1'));
  const staging = openPlainStaging(dir);
  const file = staging.begin(7, 0);
  const lost =
    /what was staged of inode 7 is lost: somebody has removed .*\/7\.1\.\d+ from .* Remove the file .* write it anew/;
  expect(() => staging.write(file, 17 * MIB, Buffer.alloc(MIB, 'b'), 2n)).toThrow(lost);
  expect(() => stagedContent(file)).toThrow(lost);
  // What is in other segments is there, and they are written.
  staging.write(file, 0, Buffer.alloc(MIB, 'c'), 3n);
  staging.write(file, 40 * MIB, Buffer.alloc(MIB, 'd'), 4n);
  staging.beginFlush(file, 5n);
  const part = Buffer.alloc(MIB);
  await file.loadFlushing(15 * MIB, part);
  expect(part.equals(Buffer.alloc(MIB, 'a'))).toBe(true);
  await expect(file.loadFlushing(16 * MIB, part)).rejects.toThrow(lost);
  staging.close();
});

test('staged bytes that the disk gives back otherwise than they were written are not uploaded, and named with their range', async () => {
  const dir = tempDir('staging');
  const staging = new Staging({ dir, life: 'one', bootId: 'boot', promises: true, isCommitted: () => false });
  onTestFinished(() => staging.close());
  const file = staging.begin(7, 0);
  // In pieces that no bound of a checksum falls on, and beside that a file that is written over.
  for (let at = 0; at < 20 * MIB; at += 100_000) staging.write(file, at, Buffer.alloc(100_000, at / 1000), 1n);
  const over = staging.begin(8, 0);
  for (const offset of [0, 100_000, 50_000]) staging.write(over, offset, Buffer.alloc(300_000, 'over'), 1n);
  const load = async (staged: StagedFile, offset: number): Promise<Buffer> => {
    const bytes = Buffer.alloc(3 * MIB);
    await staged.loadFlushing(offset, bytes.subarray(0, Math.min(bytes.length, staged.size - offset)));
    return bytes;
  };
  staging.beginFlush(file, 2n);
  staging.beginFlush(over, 2n);
  expect((await load(file, 16 * MIB))[0]).toBe(16_700 % 256);
  await load(over, 0);
  const fd = openSync(segmentPath(dir, '7.1'), 'r+');
  writeSync(fd, Buffer.from([255]), 0, 1, MIB + 5);
  closeSync(fd);
  await expect(load(file, 16 * MIB)).rejects.toMatchObject({
    code: 'corrupt',
    message: expect.stringMatching(/inode 7 is damaged, bytes 17825792 to 18087936: .*7\.1\.2 /) as string,
  });
  // What is written in its place while it is flushed is no damage.
  staging.write(file, 17 * MIB, Buffer.alloc(300_000, 'new'), 3n);
  await load(file, 16 * MIB);
});

test('what was staged in segments that somebody has removed is there as long as this worker has them open, and is put back', async () => {
  const dir = tempDir('staging');
  const staging = openPlainStaging(dir);
  const file = staging.begin(7, 0);
  staging.write(file, 0, Buffer.alloc(20 * MIB, 'a'), 1n);
  for (const name of segmentsIn(dir)) rmSync(segmentPath(dir, name));
  await staging.sync(file, 2n);
  expect(segmentsIn(dir)).toEqual(['7.0', '7.1']);
  for (const name of segmentsIn(dir)) rmSync(segmentPath(dir, name));
  staging.write(file, MIB, Buffer.alloc(MIB, 'b'), 3n);
  staging.beginFlush(file, 4n);
  const bytes = Buffer.alloc(20 * MIB);
  await file.loadFlushing(0, bytes);
  expect(bytes.equals(Buffer.alloc(20 * MIB, 'a').fill('b', MIB, 2 * MIB))).toBe(true);
  staging.close();
});

test('a segment that a power cut left to a file which is in memory again is known to each later worker once it has bytes', async () => {
  const dir = tempDir('staging');
  const open = (bootId: string): Staging =>
    new Staging({ dir, life: 'one', bootId, promises: true, isCommitted: () => false });
  const first = open('boot 1');
  const file = first.begin(7, 0);
  first.write(file, 0, Buffer.from('promised'), 1n);
  await first.sync(file, 2n);
  first.write(file, 8, Buffer.alloc(100_000, 'a'), 3n);
  first.close();
  const second = open('boot 2');
  expect(stagedContent(second.get(7)).toString()).toBe('promised');
  // It finds the segment, and begins none.
  second.write(second.begin(7, 0), 8, Buffer.alloc(100_000, 'b'), 4n);
  expect(readdirSync(dir).filter((name) => name.startsWith('7.'))).toEqual(['7.0.1']);
  second.close();
  const third = open('boot 2');
  const expected = Buffer.concat([Buffer.from('promised'), Buffer.alloc(100_000, 'b')]);
  expect(stagedContent(third.get(7)).equals(expected)).toBe(true);
  third.close();
});

test('a segment that served and cannot be opened for the next bytes does not stay on the disk as nobody’s', () => {
  const dir = tempDir('staging');
  const staging = openPlainStaging(dir);
  const first = staging.begin(7, 0);
  staging.write(first, 0, Buffer.alloc(MIB, 'a'), 1n);
  staging.committed(first, staging.beginFlush(first, 2n), 3n);
  // At its next name it leads to itself, so that no open succeeds.
  rmSync(join(dir, 'free.0'));
  symlinkSync('8.0.2', join(dir, 'free.0'));
  const second = staging.begin(8, 0);
  const write = (): void => staging.write(second, 0, Buffer.alloc(MIB, 'b'), 4n);
  expect(write).toThrow('ELOOP');
  expect(segmentsIn(dir)).toEqual([]);
  write();
  expect(readdirSync(dir).filter((name) => name.startsWith('8.'))).toEqual(['8.0.3']);
  staging.close();
});
