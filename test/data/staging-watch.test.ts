/** A staging area that somebody removes under its mount. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Staging } from '../../fs-gateway/data/staging.ts';
import type { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { tempDir } from '../support/temp.ts';

const LARGE = Buffer.alloc(200_000, 'a');
const SMALL = Buffer.from('small');

interface Area {
  readonly cacheDir: string;
  readonly reports: string[];
  readonly open: () => Staging;
}

function area(): Area {
  const cacheDir = join(tempDir('watch'), 'cache');
  const identity = join(cacheDir, 'id');
  mkdirSync(cacheDir);
  writeFileSync(identity, 'of this directory');
  const reports: string[] = [];
  return {
    cacheDir,
    reports,
    open() {
      const staging = new Staging({
        ...{ dir: join(cacheDir, 'volume', 'mount'), life: 'one', bootId: 'boot', promises: true, identity },
        isCommitted: () => false,
        report: (message) => reports.push(message),
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
  staging.opened(9, 3n, 'request');
  return small;
}

function expectFound({ cacheDir, open, reports }: Area): void {
  expect(reports).toEqual([
    expect.stringMatching(/journal was removed under the mount: it is put back .* unmount first/),
  ]);
  const next = open();
  expect(content(next.get(7)).equals(LARGE)).toBe(true);
  expect(content(next.get(8)).equals(SMALL)).toBe(true);
  expect(next.isOpen(9)).toBe(true);
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
  expect(made.reports).toEqual([expect.stringMatching(/journal was removed, and cannot be put back: /)]);
  rmSync(made.cacheDir);
  await staging.sync(small, 5n);
  made.reports.shift();
  expectFound(made);
});
