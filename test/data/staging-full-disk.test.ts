/** Staged files on a disk that is full: who gives room, and that the next worker has every byte that is not committed, and none that is. */
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Staging } from '../../fs-gateway/data/staging.ts';
import type { Version } from '../../lib/meta/engine.ts';
import { isRoot, memoryFolder } from '../support/loop-disk.ts';
import { openPlainStaging, segmentPath, segmentsIn, stagedContent } from '../support/staging.ts';

const MIB = 2 ** 20;

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

/** So that what is owed to the journal has to wait. */
function useUpReserve(staging: Staging): void {
  const file = staging.begin(8, 0);
  const base = { session: 1, wallMs: 0, monotonicMs: 0, version: '1' as Version, inode: Buffer.alloc(1000) };
  for (let n = 0; n < 300; n++) staging.bases.set(file, base);
}

test.skipIf(!isRoot)(
  'killed while a full disk with no reserve keeps the word of a commit out of the journal, the next worker has all the bytes',
  () => {
    const dir = memoryFolder('40m');
    const staging = openPlainStaging(dir);
    const file = staging.begin(7, 0);
    staging.write(file, 0, Buffer.alloc(20 * MIB, 'a'), 1n);
    const flush = staging.beginFlush(file, 2n);
    staging.write(file, 17 * MIB, Buffer.from('meanwhile'), 3n);
    fillDisk(dir, staging);
    useUpReserve(staging);
    staging.committed(file, flush, 4n);
    // Killed here.
    const copy = openPlainStaging(dir);
    const expected = Buffer.alloc(20 * MIB, 'a');
    expected.write('meanwhile', 17 * MIB);
    expect(stagedContent(copy.get(7)).equals(expected)).toBe(true);
    copy.close();
    // All of it, now; and others make room.
    staging.committed(file, staging.beginFlush(file, 5n), 6n);
    expect(segmentsIn(dir)).toEqual(['7.0', '7.1']);
    rmSync(join(dir, 'others'));
    staging.write(staging.begin(7, 0), 0, Buffer.from('anew'), 7n);
    expect(segmentsIn(dir)).toEqual([]);
    staging.close();
    const next = openPlainStaging(dir);
    expect(stagedContent(next.get(7)).toString()).toBe('anew');
    next.close();
  },
);

test.skipIf(!isRoot)(
  'on a full disk what is committed is in the journal at once: the next worker does not commit it again',
  () => {
    const dir = memoryFolder('40m');
    const staging = openPlainStaging(dir);
    const [small, large] = [staging.begin(6, 0), staging.begin(7, 0)];
    staging.opens.opened(6, 1n, 'open');
    staging.write(small, 0, Buffer.from('small'), 1n);
    staging.write(large, 0, Buffer.alloc(MIB, 'a'), 1n);
    // As long as it is open its place is not free.
    const fd = openSync(segmentPath(dir, '7.0'), 'r');
    fillDisk(dir, staging);
    for (const file of [small, large]) staging.committed(file, staging.beginFlush(file, 2n), 3n);
    expect(staging.opens.closed(6, 4n, 'close')).toBe(true);
    // Killed here.
    const copy = openPlainStaging(dir);
    expect([copy.get(6), copy.get(7), copy.opens.has(6)]).toEqual([undefined, undefined, false]);
    copy.close();
    closeSync(fd);
    staging.close();
  },
);

test.skipIf(!isRoot)('an append is flushed on a full disk, which gives it room', () => {
  const dir = memoryFolder('40m');
  const staging = openPlainStaging(dir);
  const file = staging.begin(7, 0);
  staging.append(file, Buffer.alloc(MIB, 'a'), 1n, 'request');
  fillDisk(dir, staging);
  const flush = staging.beginFlush(file, 2n);
  const isCommitted = (ino: number, id: bigint): boolean => ino === 7 && id === flush.append?.id;
  // Killed behind the commit; the disk has no room for a journal that is written anew, either.
  const full = openSync(join(dir, 'others'), 'a');
  const next = new Staging({ dir, life: 'one', bootId: 'boot', promises: false, isCommitted });
  expect(next.get(7)).toBeUndefined();
  // Killed again, when other commits have written over the record of that one.
  const last = openPlainStaging(dir);
  expect(last.get(7)).toBeUndefined();
  closeSync(full);
  for (const each of [last, next, staging]) each.close();
});

test.skipIf(!isRoot)('segments that serve nobody make room on a full disk before a program hears of it', () => {
  const dir = memoryFolder('40m');
  const staging = openPlainStaging(dir);
  const file = staging.begin(7, 0);
  staging.write(file, 0, Buffer.alloc(15 * MIB, 'a'), 1n);
  staging.committed(file, staging.beginFlush(file, 2n), 3n);
  expect(segmentsIn(dir)).toEqual(['free.0']);
  const fd = openSync(join(dir, 'others'), 'w');
  expect(() => {
    for (;;) writeSync(fd, Buffer.alloc(MIB));
  }).toThrow('ENOSPC');
  closeSync(fd);
  const second = staging.begin(8, 0);
  // The first segment is the one that served, the others are new.
  staging.write(second, 0, Buffer.alloc(15 * MIB, 'b'), 4n);
  staging.committed(second, staging.beginFlush(second, 5n), 6n);
  // A small one has no segment: its frame needs the room.
  for (let ino = 10; ino < 40; ino++) staging.write(staging.begin(ino, 0), 0, Buffer.alloc(64_000, 'c'), 7n);
  expect(segmentsIn(dir)).toEqual([]);
  staging.close();
});
