/** `-o writeback` and a power cut right behind a commit: of the journal the disk has what the last sync before the commit covered. */
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Journal } from '../../fs-gateway/data/journal.ts';
import { LiveFile } from '../../fs-gateway/data/live-file.ts';
import type { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { Staging } from '../../fs-gateway/data/staging.ts';
import { decodeWhole, encodeWhole } from '../../fs-gateway/data/whole-record.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { playKernel } from '../support/played-kernel.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { appendElsewhere, readElsewhere, sizeElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { lookUp } from '../tools/volume-files.ts';
import { loseStore } from '../fs-gateway/writeback-cases.ts';
import { Repeats } from '../../fs-gateway/meta/repeats.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { flushOperation } from '../../fs-gateway/vfs/append.ts';

const O_RDWR = 2;
const O_APPEND = 0o2000;

function mountFile(volume: TestVolume, name: string): string {
  const [path] = globSync(join(volume.base, 'cache-a', '*', 'mount-*', name));
  if (path === undefined) throw new Error(`there is no ${name}`);
  return path;
}

interface Disk {
  /**
   * Resolves when the next commit is made: what is synced behind it, the disk does not have any more. `isIt`: of a live file, whose flushes may find
   * nothing to commit; one that its node hears of late may come between.
   */
  committed(isIt?: (file: StagedFile) => boolean): Promise<void>;
  /** The power is off; the volume is closed. */
  cut(): void;
}

function watchDisk(volume: TestVolume): Disk {
  /** The files that do not depend on the order of writes, as of the commit; the journal as of the last sync before it. */
  const image = new Map<string, Buffer>();
  let committing: PromiseWithResolvers<void> | undefined;
  let isWanted = (_file: StagedFile): boolean => true;
  let isFrozen = false;
  replaceMethod(
    Journal.prototype,
    'sync',
    (sync) =>
      async function (this: Journal) {
        const path = mountFile(volume, 'journal');
        const written = readFileSync(path);
        await sync.call(this);
        if (!isFrozen) image.set(path, written);
      },
  );
  replaceMethod(
    Staging.prototype,
    'committed',
    (committed) =>
      function (this: Staging, ...args) {
        const isIt = committing !== undefined && isWanted(args[0]);
        if (isIt && !isFrozen) {
          isFrozen = true;
          const stagingFiles = globSync(join(volume.base, 'cache-a', '*', 'mount-*', '[0-9]*'));
          const kept = globSync(join(volume.base, 'cache-a', '*', 'mount-*', 'whole', '*', '*.kept'));
          for (const path of [...stagingFiles, ...kept]) image.set(path, readFileSync(path));
        }
        committed.apply(this, args);
        if (isIt) committing?.resolve();
      },
  );
  return {
    committed(isIt = () => true) {
      isWanted = isIt;
      committing = Promise.withResolvers();
      return committing.promise;
    },
    cut() {
      expect(isFrozen).toBe(true);
      for (const [path, bytes] of image) writeFileSync(path, bytes);
      const life = mountFile(volume, 'life');
      writeFileSync(life, readFileSync(life, 'utf8').replace(/\n.*\n/, '\nearlier boot\n'));
      for (const path of globSync(join(volume.base, 'cache-a', '*', 'mount-*', 'whole', '*', '*.base')))
        writeFileSync(path, encodeWhole({ ...decodeWhole(readFileSync(path), path), bootId: 'earlier boot' }));
    },
  };
}

const WRITEBACK = { writeback: true, cacheBytes: 256e6 } as const;

describe.each([
  ['in the metadata', 100],
  ['in objects', 200_000],
])('a power cut right behind a commit, of a file %s', (_where, bytes) => {
  test.each([
    ['what was appended is not there a second time', O_RDWR | O_APPEND],
    ['what was written is not written over what another node wrote since', O_RDWR],
  ])('%s', async (_what, flags) => {
    const volume = await testVolume();
    const a = await openTestVolume(volume, 'a', [], 'lake', WRITEBACK);
    const other = await openTestVolume(volume, 'other');
    await writeElsewhere(other, 'f', Buffer.alloc(bytes, 's'));
    const disk = watchDisk(volume);
    const { ino, handle } = await opened(a, 'f', flags);
    const ours = Buffer.alloc(bytes, 'o');
    const committed = disk.committed();
    await a.operations.write(caller(), ino, handle, 0n, ours, flags, false);
    await a.operations.fsync(caller(), ino, handle, false);
    await committed;
    await a.close();
    disk.cut();
    const theirs = Buffer.alloc(bytes, 't');
    if (flags === O_RDWR) await writeElsewhere(other, 'f', theirs);
    else await appendElsewhere(other, 'f', theirs.toString());
    const next = await openTestVolume(volume, 'a', [], 'lake', WRITEBACK);
    await next.operations.drain();
    const expected = flags === O_RDWR ? theirs : Buffer.concat([Buffer.alloc(bytes, 's'), ours, theirs]);
    const found = await readElsewhere(next, 'f');
    expect(found.length).toBe(expected.length);
    expect(found.equals(expected)).toBe(true);
  });
});

test('also when an earlier commit of the same bytes had failed, and more was promised meanwhile', async () => {
  const volume = await testVolume();
  const reports: string[] = [];
  const a = await openTestVolume(volume, 'a', reports, 'lake', WRITEBACK);
  const other = await openTestVolume(volume, 'other');
  await writeElsewhere(other, 'log', Buffer.alloc(0));
  const disk = watchDisk(volume);
  const flags = O_RDWR | O_APPEND;
  const { ino, handle } = await opened(a, 'log', flags);
  const restore = loseStore(volume, other);
  for (const part of ['first', 'second']) {
    await a.operations.write(caller(), ino, handle, 0n, Buffer.alloc(100_000, part), flags, false);
    await a.operations.fsync(caller(), ino, handle, false);
    await expect.poll(() => reports.join()).toContain('stays staged');
  }
  restore();
  const committed = disk.committed();
  await a.operations.drain();
  await committed;
  await a.close();
  disk.cut();
  const next = await openTestVolume(volume, 'a', [], 'lake', WRITEBACK);
  await next.operations.drain();
  expect((await readElsewhere(next, 'log')).length).toBe(200_000);
});

test('of a file that the kernel writes: what was appended is not there a second time', async () => {
  const volume = await testVolume();
  // Nobody writes but by the daemon.
  const options = { ...WRITEBACK, passthrough: 'full', kernel: playKernel(false) } as const;
  const a = await openTestVolume(volume, 'a', [], 'lake', options);
  const other = await openTestVolume(volume, 'other');
  const { entry, open } = await a.operations.create(caller(), 1n, 'log', 0o644, O_RDWR, 0);
  expect(open.backingId).toBe(1);
  const { ino } = entry.attributes;
  const flags = O_RDWR | O_APPEND;
  const { handle } = await a.operations.open(caller(), ino, flags);
  await a.operations.write(caller(), ino, handle, 0n, Buffer.alloc(100_000, 's'), flags, false);
  await a.operations.fsync(caller(), ino, handle, false);
  await expect.poll(async () => sizeElsewhere(other, 'log')).toBe(100_000);
  const disk = watchDisk(volume);
  const committed = disk.committed((file) => file instanceof LiveFile && file.record.content.size === 200_000);
  await a.operations.write(caller(), ino, handle, 0n, Buffer.alloc(100_000, 'o'), flags, false);
  await a.operations.fsync(caller(), ino, handle, false);
  await a.operations.drain();
  await committed;
  await a.close();
  disk.cut();
  await expect.poll(async () => sizeElsewhere(other, 'log')).toBe(200_000);
  await appendElsewhere(other, 'log', 'theirs');
  const next = await openTestVolume(volume, 'a', [], 'lake', options);
  await next.operations.drain();
  const found = await readElsewhere(next, 'log');
  expect(found.length).toBe(200_006);
  expect(found.subarray(200_000).toString()).toBe('theirs');
});

test('of a file that the kernel writes: what was committed is not committed again over what another node wrote since; it is kept aside', async () => {
  const volume = await testVolume();
  const kernel = playKernel(true);
  const options = { ...WRITEBACK, passthrough: 'full', kernel } as const;
  const a = await openTestVolume(volume, 'a', [], 'lake', options);
  const other = await openTestVolume(volume, 'other');
  const { entry, open } = await a.operations.create(caller(), 1n, 'f', 0o644, O_RDWR, 0);
  const { ino } = entry.attributes;
  const kernelWrites = async (text: string): Promise<void> => {
    writeFileSync(kernel.backing.get(open.backingId ?? 0) ?? '', Buffer.alloc(100_000, text), { flag: 'r+' });
    await a.operations.fsync(caller(), ino, open.handle, false);
    await expect.poll(async () => (await readElsewhere(other, 'f')).toString('latin1', 0, 1)).toBe(text);
    await a.operations.drain();
  };
  await kernelWrites('s');
  const disk = watchDisk(volume);
  const committed = disk.committed();
  await kernelWrites('o');
  await committed;
  await a.close();
  disk.cut();
  await writeElsewhere(other, 'f', Buffer.from('theirs'), 10);
  const next = await openTestVolume(volume, 'a', [], 'lake', options);
  await next.operations.drain().catch(() => undefined);
  const content = Buffer.alloc(100_000, 'o');
  content.write('theirs', 10);
  expect(next.stats()).toMatchObject({ keptAside: 1 });
  expect((await readElsewhere(next, 'f')).equals(content)).toBe(true);
  await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
});

async function opened(
  volume: OpenVolume,
  name: string,
  flags: number,
): Promise<{ readonly ino: bigint; readonly handle: bigint }> {
  const { ino } = await lookUp(volume, 1n, name);
  const { handle } = await volume.operations.open(caller(), ino, flags);
  return { ino, handle };
}

test('requests of programs write over no record of a commit', () => {
  const repeats = new Repeats(new VolumeKeys('lake'), 'mount');
  const commit = repeats.next(flushOperation(7, 1n), 0).key;
  const requests = Array.from({ length: 2048 }, (_, n) => repeats.next(`create ${n}`, 0).key);
  expect(new Set(requests.map(({ field }) => field)).size).toBe(1024);
  expect(requests).not.toContainEqual(commit);
});
