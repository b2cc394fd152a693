/** A staging area that somebody removes under its mount, or whose disk he unmounts. */
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Staging } from '../../fs-gateway/data/staging.ts';
import type { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { folderOf, isOfAnother, readLife } from '../../fs-gateway/data/staging-life.ts';
import { acquireProcessLock } from '../../lib/process-lock.ts';
import type { ProcessLock } from '../../lib/process-lock.ts';
import { isRoot, memoryFolder, mountOver, openDevices } from '../support/loop-disk.ts';
import { tempDir } from '../support/temp.ts';

const LARGE = Buffer.alloc(200_000, 'a');
const SMALL = Buffer.from('small');

interface Area {
  readonly cacheDir: string;
  /** The staging area. */
  readonly dir: string;
  readonly reports: string[];
  readonly open: (lock?: ProcessLock) => Staging;
}

function area(cacheDir = join(tempDir('watch'), 'cache')): Area {
  const identity = join(cacheDir, 'id');
  const dir = join(cacheDir, 'volume', 'mount');
  mkdirSync(cacheDir, { recursive: true });
  writeFileSync(identity, 'of this directory');
  const reports: string[] = [];
  return {
    cacheDir,
    dir,
    reports,
    open(lock) {
      const staging = new Staging({
        ...{ dir, life: 'one', bootId: 'boot', promises: true, identity },
        isCommitted: () => false,
        report: (message) => reports.push(message),
        ...(lock !== undefined && { lock }),
      });
      onTestFinished(() => staging.close());
      return staging;
    },
  };
}

function content(file: StagedFile | undefined): Buffer {
  const bytes = Buffer.alloc(file?.size ?? 0);
  file?.overlay(0, bytes);
  return bytes;
}

/** A large file, a small one, and one that is open. */
function stage(staging: Staging): StagedFile {
  staging.write(staging.begin(7, 0), 0, LARGE, 1n);
  const small = staging.begin(8, 0);
  staging.write(small, 0, SMALL, 2n);
  staging.opens.opened(9, 3n, 'request');
  return small;
}

function expectFound({ cacheDir, open, reports }: Area): void {
  expect(reports).toEqual([
    expect.stringMatching(/mount or a part of it was removed under the mount: it is put back .* unmount first/),
  ]);
  const next = open();
  expect(content(next.get(7)).equals(LARGE)).toBe(true);
  expect(content(next.get(8)).equals(SMALL)).toBe(true);
  expect(next.opens.has(9)).toBe(true);
  expect(readFileSync(join(cacheDir, 'id'), 'utf8')).toBe('of this directory');
}

test('what was promised after the cache directory was removed is found by the next worker, with all that was staged before', async () => {
  const made = area();
  const staging = made.open();
  const small = stage(staging);
  rmSync(made.cacheDir, { recursive: true });
  await staging.sync(small, 4n);
  expectFound(made);
});

test('a cache directory that was removed is put back within a second, and written on', () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const made = area();
  const staging = made.open();
  stage(staging);
  rmSync(made.cacheDir, { recursive: true });
  vi.advanceTimersByTime(1000);
  staging.write(staging.begin(10, 0), 0, LARGE, 5n);
  expectFound(made);
  expect(content(made.open().get(10)).equals(LARGE)).toBe(true);
});

test('nothing is promised while a cache directory that was removed cannot be put back, and that is told once', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  const made = area();
  const staging = made.open();
  const small = stage(staging);
  rmSync(made.cacheDir, { recursive: true });
  writeFileSync(made.cacheDir, 'a file, and no directory');
  await expect(staging.sync(small, 4n)).rejects.toMatchObject({
    code: 'io',
    message: expect.stringContaining(made.cacheDir) as string,
  });
  vi.advanceTimersByTime(5000);
  expect(made.reports).toEqual([
    expect.stringMatching(/journal was removed, or is on another disk, and cannot be put back: /),
  ]);
  rmSync(made.cacheDir);
  await staging.sync(small, 5n);
  made.reports.shift();
  expectFound(made);
});

/** Each look of the watch is one of ours. */
function fakeLooks(): () => void {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  return () => void vi.advanceTimersByTime(1000);
}

test.skipIf(!isRoot)(
  'a cache disk that is unmounted under its mount, and mounted again, gives no older bytes in the place of what was staged since',
  async () => {
    const look = fakeLooks();
    const disk = memoryFolder('20m');
    const place = tempDir('watch');
    let unmount = mountOver(disk, place);
    const made = area(join(place, 'cache'));
    const lockPath = join(made.dir, 'lock');
    const lock = await acquireProcessLock(lockPath, { label: 'mount' });
    onTestFinished(() => lock.release());
    const staging = made.open(lock);
    const file = staging.begin(7, 0);
    staging.write(file, 0, Buffer.alloc(LARGE.length, 'old'), 1n);
    const before = statSync(made.cacheDir).dev;
    unmount();
    look();
    expect(made.reports.splice(0)).toEqual([
      expect.stringMatching(/mount is on another disk than before: .* \(device \d+:\d+ before, \d+:\d+ now\)/),
    ]);
    expect(statSync(made.cacheDir).dev).not.toBe(before);
    expect(openDevices()).not.toContain(before);
    staging.write(file, 0, LARGE, 2n);
    unmount = mountOver(disk, place);
    // No look has come between.
    staging.beginFlush(file, 3n);
    const flushed = Buffer.alloc(LARGE.length);
    await file.loadFlushing(0, flushed);
    expect(flushed.equals(LARGE)).toBe(true);
    look();
    expect(made.reports).toEqual([expect.stringContaining('is on another disk than before')]);
    await expect(acquireProcessLock(lockPath, { label: 'another' })).rejects.toMatchObject({ code: 'held' });
    expect(content(made.open().get(7)).equals(LARGE)).toBe(true);
    unmount();
  },
);

test('the lock of a staging area that somebody removes is taken again: nobody else gets the area', async () => {
  const look = fakeLooks();
  const made = area();
  const path = join(made.dir, 'lock');
  const lock = await acquireProcessLock(path, { label: 'mount' });
  onTestFinished(() => lock.release());
  made.open(lock);
  rmSync(path);
  look();
  await expect(acquireProcessLock(path, { label: 'another' })).rejects.toMatchObject({ code: 'held' });
  expect(made.reports).toEqual([expect.stringMatching(/a part of it was removed under the mount: it is put back/)]);
});

test('nothing is put back, and nothing promised, while another process has taken the lock that was removed', async () => {
  const look = fakeLooks();
  const made = area();
  const path = join(made.dir, 'lock');
  const lock = await acquireProcessLock(path, { label: 'mount' });
  onTestFinished(() => lock.release());
  const staging = made.open(lock);
  const small = stage(staging);
  rmSync(made.cacheDir, { recursive: true });
  const other = await acquireProcessLock(path, { label: 'another' });
  await expect(staging.sync(small, 4n)).rejects.toMatchObject({ code: 'held' });
  look();
  look();
  expect(made.reports.splice(0)).toEqual([
    expect.stringMatching(/cannot be put back: .*lock was removed, and is held by process \d+ \(another\)/),
  ]);
  other.release();
  await staging.sync(small, 5n);
  expectFound(made);
});

test('the file that says whose cache directory it is is put back when somebody removes it', () => {
  const look = fakeLooks();
  const made = area();
  made.open();
  rmSync(join(made.cacheDir, 'id'));
  look();
  expect(readFileSync(join(made.cacheDir, 'id'), 'utf8')).toBe('of this directory');
});

test('a staging area that was put back is none that was copied, for the workers that come', () => {
  const look = fakeLooks();
  const made = area();
  made.open();
  // Where its inode is free again at once, another folder has it.
  renameSync(made.cacheDir, `${made.cacheDir}-before`);
  look();
  expect(readLife(made.dir)).toEqual({ life: 'one', bootId: 'boot', isCopy: false });
});

test('a staging area of the release before, whose file does not say which folder it is, is none that was copied; from then on it says so', () => {
  const made = area();
  made.open();
  const path = join(made.dir, 'life');
  const said = readFileSync(path, 'utf8');
  writeFileSync(path, 'one\nboot\n');
  expect(readLife(made.dir)?.isCopy).toBe(false);
  made.open();
  expect(isOfAnother(folderLine(path), folderLine(path, said))).toBe(false);
  expect(folderLine(path)).not.toBe('');
});

test('a copied staging area is one for its first worker, which has written the journal anew, and not for those behind it', () => {
  const made = area();
  made.open();
  const copy = area(join(tempDir('watch'), 'cache'));
  cpSync(made.cacheDir, copy.cacheDir, { recursive: true });
  expect(readLife(copy.dir)?.isCopy).toBe(true);
  copy.open();
  expect(readLife(copy.dir)?.isCopy).toBe(false);
});

function folderLine(path: string, said = readFileSync(path, 'utf8')): string {
  return said.split('\n')[2] ?? '';
}

test('where nobody knows when a folder was made, its inode tells a copy', () => {
  const known = folderOf({ ino: 7n, birthtimeNs: 1n, ctimeNs: 2n });
  const later = folderOf({ ino: 7n, birthtimeNs: 3n, ctimeNs: 4n });
  expect(isOfAnother(known, later)).toBe(true);
  for (const birthtimeNs of [0n, 5n]) {
    const unknown = folderOf({ ino: 7n, birthtimeNs, ctimeNs: 5n });
    expect(isOfAnother(known, unknown)).toBe(false);
    expect(isOfAnother(unknown, known)).toBe(false);
    expect(isOfAnother(unknown, folderOf({ ino: 8n, birthtimeNs, ctimeNs: 5n }))).toBe(true);
  }
});

test.skipIf(!isRoot)(
  'a staging area that finds no room on the disk beneath leaves nothing unfinished there, and is tried again after a minute',
  () => {
    const look = fakeLooks();
    const place = memoryFolder('2m');
    const filler = join(place, 'filler');
    writeFileSync(filler, Buffer.alloc(1_500_000));
    const unmount = mountOver(memoryFolder('20m'), place);
    const made = area(join(place, 'cache'));
    const staging = made.open();
    const large = Buffer.alloc(1_000_000, 'a');
    const file = staging.begin(7, 0);
    staging.write(file, 0, large, 1n);
    unmount();
    look();
    expect(made.reports).toEqual([expect.stringMatching(/cannot be put back: .*ENOSPC/)]);
    expect(readdirSync(made.dir)).toEqual(['life']);
    rmSync(filler);
    for (let looks = 1; looks < 60; looks++) look();
    expect(made.reports).toHaveLength(1);
    look();
    expect(made.reports.slice(1)).toEqual([expect.stringContaining('is on another disk than before')]);
    expect(content(made.open().get(7)).equals(large)).toBe(true);
  },
);
