/** The staging area over restarts and power cuts, without a mount. */
import { describe, expect, test } from 'vitest';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { tempDir } from '../support/temp.ts';

const LARGE = 200_000;

function open(dir: string, bootId: string, life = 'one'): Staging {
  return new Staging({ dir, life, bootId, durable: true });
}

function staged(staging: Staging, ino: number, length: number): Buffer {
  const target = Buffer.alloc(length);
  staging.get(ino)?.overlay(0, target);
  return target;
}

describe('the staging area', () => {
  test('after a power cut has what was synced, and nothing of a staging file that was not', async () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    const large = first.begin(7, 0);
    first.write(large, 0, Buffer.alloc(LARGE, 'a'), 1n);
    await first.sync(large);
    // Answered and not synced: the frame may be on the disk while the bytes are not.
    first.write(large, LARGE, Buffer.alloc(1000, 'b'), 2n);
    first.write(first.begin(8, 0), 0, Buffer.alloc(LARGE, 'c'), 3n);
    first.write(first.begin(9, 0), 0, Buffer.from('small'), 4n);
    first.close();
    const next = open(dir, 'boot 2');
    expect(next.get(7)?.size).toBe(LARGE);
    expect(staged(next, 7, LARGE).equals(Buffer.alloc(LARGE, 'a'))).toBe(true);
    expect(next.get(8)?.stagedBytes ?? 0).toBe(0);
    expect(staged(next, 9, 5).toString()).toBe('small');
    next.close();
  });

  test('in the same boot has all that was answered', () => {
    const dir = tempDir('staging');
    const first = open(dir, 'boot 1');
    first.write(first.begin(7, 0), 0, Buffer.alloc(LARGE, 'a'), 1n);
    first.opened(7, 1n, 5);
    first.opened(7, 1n);
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
      const flush = first.beginFlush(file);
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
});
