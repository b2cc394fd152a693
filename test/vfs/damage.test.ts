import { globSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { BlockReader } from '../../fs-gateway/data/block-reader.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { openMeta } from '../../lib/registry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { lookUp } from '../tools/volume-files.ts';

const keys = new VolumeKeys('lake');

/** A file of three blocks, and the paths of its objects. */
async function written(
  volume: TestVolume,
): Promise<{ readonly ino: bigint; readonly objects: string[]; readonly data: Buffer }> {
  const open = await openTestVolume(volume, 'writer');
  const { entry, open: file } = await open.operations.create(caller(), 1n, 'file', 0o644, 2, 0);
  const { ino } = entry.attributes;
  const data = Buffer.alloc(3 * 65_536, 'penstock');
  await open.operations.write(caller(), ino, file.handle, 0n, data, 2, false);
  await open.operations.flush(caller(), ino, file.handle, 0n);
  await open.operations.release(caller(), ino, file.handle, undefined);
  await open.close();
  const objects = readdirSync(volume.storeDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /^\d+$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
  return { ino, objects, data };
}

const damages: readonly (readonly [what: string, damage: (path: string) => void, said: RegExp])[] = [
  ['missing', (path) => rmSync(path), /object \S+\/blocks\/\S+ .* is missing/],
  ['short', (path) => truncateSync(path, 1000), /blocks\/\S+ has 1000 bytes/],
  [
    'changed by one bit',
    (path) => {
      const bytes = readFileSync(path);
      bytes[777] = (bytes[777] ?? 0) ^ 4;
      writeFileSync(path, bytes);
    },
    /object \S+\/blocks\/\S+ .* does not match its checksum/,
  ],
];

test.each(damages)(
  'an object that is %s is EIO with its name in the log, never other bytes',
  async (_what, damage, said) => {
    const volume = await testVolume({ blockSize: '64KiB', inlineBytes: '0' });
    const { ino, objects } = await written(volume);
    expect(objects).toHaveLength(3);
    for (const path of objects) damage(path);
    const reports: string[] = [];
    const { operations } = await openTestVolume(volume, 'reader', reports);
    for (const offset of [0n, 70_000n, 190_000n]) {
      await expect(async () => operations.read(caller(), ino, 0n, offset, 4096, 0)).rejects.toMatchObject({
        errno: Errno.EIO,
      });
    }
    expect(reports).toHaveLength(3);
    for (const report of reports) expect(report).toMatch(said);
  },
);

test('a damaged inode or entry is EIO and named; its neighbours stay readable', async () => {
  const volume = await testVolume();
  const first = await openTestVolume(volume, 'writer');
  const inos: bigint[] = [];
  for (const name of ['good', 'bad-inode', 'bad-entry']) {
    const { attributes } = await first.operations.mknod(caller(), 1n, name, 0o100644, 0, 0);
    inos.push(attributes.ino);
  }
  await first.close();
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  const [stored] = await engine.read([keys.inode(Number(inos[1]))]);
  const damaged = Buffer.from(stored?.value ?? []);
  damaged[9] = (damaged[9] ?? 0) ^ 1;
  await engine.commit({
    write: [
      { key: keys.inode(Number(inos[1])), value: damaged },
      { key: keys.entry(1, 'bad-entry'), value: Buffer.from('short') },
    ],
  });
  await engine.close();
  const reports: string[] = [];
  const { operations } = await openTestVolume(volume, 'reader', reports);
  const look = async (name: string): Promise<unknown> => operations.lookup(caller(), 1n, name);
  expect(await look('good')).toMatchObject({ attributes: { ino: inos[0] } });
  await expect(look('bad-inode')).rejects.toMatchObject({ errno: Errno.EIO });
  await expect(look('bad-entry')).rejects.toMatchObject({ errno: Errno.EIO });
  expect(reports).toEqual([
    expect.stringContaining(`inode ${inos[1]} is damaged`),
    expect.stringContaining(`directory entry 'bad-entry' of inode 1 is damaged`),
  ]);
});

test('a block cache that was damaged while the mount was away is read past', async () => {
  const volume = await testVolume({ blockSize: '64KiB', inlineBytes: '0' });
  const { ino, data } = await written(volume);
  const cached = join(volume.base, 'cache-reader');
  const { operations } = await openTestVolume(volume, 'reader');
  for (const entry of readdirSync(cached, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && entry.parentPath.includes('blocks'))
      writeFileSync(join(entry.parentPath, entry.name), 'rubbish');
  }
  expect((await operations.read(caller(), ino, 0n, 60_000n, 20_000, 0)).equals(data.subarray(60_000, 80_000))).toBe(
    true,
  );
});

test('a block that memory had no room for at each look, and is then missing, is EIO and ends nothing else', async () => {
  const volume = await testVolume({ blockSize: '64KiB', inlineBytes: '0' });
  const { ino, objects } = await written(volume);
  for (const path of objects) rmSync(path);
  const { operations } = await openTestVolume(volume, 'reader');
  // What other readers do to it, and no test can time: it is here, and gone again before it is looked at.
  let looks = 0;
  replaceMethod(
    BlockReader.prototype,
    'bring',
    (bring) =>
      function (this: BlockReader, ...range) {
        return looks++ < 2 ? Promise.resolve() : bring.apply(this, range);
      },
  );
  await expect(async () => operations.read(caller(), ino, 0n, 0n, 4096, 0)).rejects.toMatchObject({ errno: Errno.EIO });
  expect(looks).toBe(3);
  // A rejection that nobody waits for, which would end the daemon, fails this test in the next turn.
  await new Promise((resolve) => setImmediate(resolve));
});

test('staged bytes that are damaged before they are uploaded (writeback) are kept aside by name, not tried for ever, and hold up no umount', async () => {
  const volume = await testVolume({ inlineBytes: '0' });
  const other = await openTestVolume(volume, 'other');
  await writeElsewhere(other, 'changed', Buffer.alloc(200_000, 'a'));
  const reports: string[] = [];
  const open = await openTestVolume(volume, 'writer', reports, 'lake', { writeback: true });
  const { operations } = open;
  const { ino } = await lookUp(open, 1n, 'changed');
  const [first, second] = [await operations.open(caller(), ino, 2), await operations.open(caller(), ino, 2)];
  const data = Buffer.alloc(200_000, 'mine');
  await operations.write(caller(), ino, first.handle, 0n, data, 2, false);
  const [segment = ''] = globSync(join(volume.base, 'cache-writer', '*', 'mount-*', `${ino}.0.*`));
  const damaged = readFileSync(segment);
  damaged[777] = (damaged[777] ?? 0) ^ 4;
  writeFileSync(segment, damaged);
  // What is committed of it would be neither what was there nor what was written.
  await operations.flush(caller(), ino, first.handle, 0n);
  await until('it is kept aside', () => open.stats()['keptAside'] === 1);
  await until('nothing is staged', () => open.stats()['stagedFiles'] === 0);
  const [record = ''] = globSync(join(volume.base, 'cache-writer', '*', 'mount-*', 'aside', '*.json'));
  const path = record.slice(0, -'.json'.length);
  expect(JSON.parse(readFileSync(record, 'utf8'))).toEqual({
    inode: Number(ino),
    size: data.length,
    ranges: [{ start: 0, end: data.length, kind: 'data' }],
    damaged: [{ start: 0, end: data.length }],
  });
  expect(readFileSync(path).equals(damaged.subarray(0, data.length))).toBe(true);
  expect(reports).toEqual([expect.stringContaining(`${segment} than were written`)]);
  expect(reports[0]).toContain(`is kept in ${path}, and not in the volume: write it anew`);
  await expect(async () => operations.fsync(caller(), ino, second.handle, false)).rejects.toMatchObject({
    errno: Errno.EIO,
  });
  expect((await operations.read(caller(), ino, second.handle, 0n, 4, 0)).toString()).toBe('aaaa');
  for (const { handle } of [first, second]) await operations.release(caller(), ino, handle, undefined);
  await operations.drain();
  expect((await readElsewhere(other, 'changed')).equals(Buffer.alloc(200_000, 'a'))).toBe(true);
  // And it is written as any other.
  await writeElsewhere(open, 'changed', data);
  await operations.drain();
  expect((await readElsewhere(other, 'changed')).equals(data)).toBe(true);
});
