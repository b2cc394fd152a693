/** Which errno a program gets of what fails below: none that says something else to it than it means. */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { guard } from '../../fs-gateway/vfs/errno.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { ErrorCode } from '../../lib/errors.ts';
import { loseStore } from '../fs-gateway/writeback-cases.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';

const { EIO, ENOSPC, EDQUOT } = Errno;

const OF_CODES = {
  usage: EIO,
  config: EIO,
  'not-found': EIO,
  exists: EIO,
  conflict: EIO,
  fenced: EIO,
  corrupt: EIO,
  unavailable: EIO,
  timeout: EIO,
  aborted: EIO,
  full: ENOSPC,
  quota: EDQUOT,
  denied: EIO,
  'too-large': EIO,
  unsupported: EIO,
  held: EIO,
  closed: EIO,
  'out-of-order': EIO,
  'unknown-producer': EIO,
  io: EIO,
} satisfies Record<ErrorCode, number>;

test.each(Object.entries(OF_CODES))('a failure that is called %s below is errno %i', async (code, errno) => {
  const reports: string[] = [];
  const error = new PenstockError(code as ErrorCode, 'what happened'); // a key of the table above
  const fail = async (): Promise<never> => Promise.reject(error);
  await expect(guard((message) => reports.push(message), fail)).rejects.toMatchObject({ errno });
  expect(reports).toEqual(errno === EIO ? ['what happened'] : []);
});

test.each([
  ['ENOSPC', ENOSPC],
  ['EDQUOT', ENOSPC],
  ['EROFS', EIO],
  ['ENOTDIR', EIO],
  ['EMFILE', EIO],
])('%s of the cache disk is errno %i', (code, errno) => {
  const fail = (): never => {
    throw Object.assign(new Error(code), { code });
  };
  expect(() => guard(() => undefined, fail)).toThrow(expect.objectContaining({ errno }));
});

test('what is a bug keeps its stack for the log', () => {
  expect(() =>
    guard(
      () => undefined,
      () => Buffer.alloc(1).readUInt32LE(0),
    ),
  ).toThrow(RangeError);
});

async function created(
  cacheName: string,
  bytes: number,
): Promise<{
  readonly close: () => unknown;
  readonly write: () => unknown;
  readonly away: () => () => void;
  readonly reports: string[];
  readonly base: string;
}> {
  const volume = await testVolume();
  const reports: string[] = [];
  const open = await openTestVolume(volume, cacheName, reports);
  const { operations } = open;
  const { entry, open: opened } = await operations.create(caller(), 1n, 'f', 0o644, 2, 0);
  const { ino } = entry.attributes;
  return {
    write: async () => operations.write(caller(), ino, opened.handle, 0n, Buffer.alloc(bytes, 'x'), 2, false),
    close: async () => operations.flush(caller(), ino, opened.handle, 0n),
    away: () => loseStore(volume, open),
    reports,
    base: volume.base,
  };
}

test('close is EIO, with the story in the log, when the folder of the store was replaced by a file', async () => {
  const { write, close, away, reports } = await created('a', 100_000);
  await write();
  const restore = away();
  await expect(close()).rejects.toMatchObject({ errno: EIO });
  expect(reports.join()).toContain('ENOTDIR');
  restore();
  await close();
});

test('a write is EIO when the cache directory was replaced by a file, and nothing else ends', async () => {
  const { write, close, base, reports } = await created('b', 100_000);
  const cache = join(base, 'cache-b');
  renameSync(cache, `${cache}.away`);
  writeFileSync(cache, '');
  await expect(write()).rejects.toMatchObject({ errno: EIO });
  expect(reports.join()).toContain('ENOTDIR');
  rmSync(cache);
  renameSync(`${cache}.away`, cache);
  await write();
  await close();
});
