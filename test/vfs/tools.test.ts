import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fsckVolume, gcVolume } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { openMeta } from '../../lib/registry.ts';
import { encodeDentry } from '../../lib/volume/dentry.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { prepareListing } from '../../lib/volume/lake-listing.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';

const keys = new VolumeKeys('lake');
const OPTIONS = { blockSize: '64KiB', inlineBytes: '0', grace: '0s' };

async function writeFile(open: OpenVolume, name: string, data: Buffer): Promise<bigint> {
  const { entry, open: file } = await open.operations.create(caller(), 1n, name, 0o644, 2, 0);
  const { ino } = entry.attributes;
  await open.operations.write(caller(), ino, file.handle, 0n, data, 2, false);
  await open.operations.flush(caller(), ino, file.handle, 0n);
  await open.operations.release(caller(), ino, file.handle, undefined);
  return ino;
}

function objects(volume: TestVolume): number {
  return readdirSync(volume.storeDir, { recursive: true, withFileTypes: true }).filter(
    (entry) => entry.isFile() && /^\d+$/.test(entry.name),
  ).length;
}

test('gc deletes what was overwritten, cut off or removed, and nothing that a file still shows', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const data = Buffer.alloc(4 * 65_536, 'abcdefgh');
  const kept = await writeFile(open, 'kept', data);
  await writeFile(open, 'gone', data);
  const cut = await writeFile(open, 'cut', data);
  expect(objects(volume)).toBe(12);
  await open.operations.unlink(caller(), 1n, 'gone');
  await open.operations.setattr(caller(), cut, { size: 70_000n });
  // The middle of `kept` is written anew: its second object stays, because the rest of the block still shows it.
  await open.operations.write(caller(), kept, 0n, 70_000n, Buffer.alloc(100, 'z'), 2, false);
  await open.operations.fsync(caller(), kept, 0n, false);
  const report = await gcVolume(volume.metaUrl);
  expect(report).toMatchObject({ objects: 13, deletedObjects: 6 });
  expect(objects(volume)).toBe(7);
  data.fill('z', 70_000, 70_100);
  const reader = await openTestVolume(volume, 'reader');
  expect((await reader.operations.read(caller(), kept, 0n, 0n, data.length, 0)).equals(data)).toBe(true);
  expect((await reader.operations.read(caller(), cut, 0n, 0n, data.length, 0)).length).toBe(70_000);
  expect(await gcVolume(volume.metaUrl)).toMatchObject({ deletedObjects: 0 });
});

test('a shared copy keeps its objects when the source goes, also while a gc walks, and only one gc runs at a time', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const data = Buffer.alloc(3 * 65_536, 'shared');
  const source = await writeFile(open, 'source', data);
  const target = await writeFile(open, 'target', Buffer.alloc(100_000, 'old'));
  const end = (ino: bigint, offset: bigint): { ino: bigint; handle: bigint; offset: bigint } => ({
    ino,
    handle: 0n,
    offset,
  });
  expect(await open.operations.copyFileRange(caller(), end(source, 1000n), end(target, 50_000n), 2n ** 40n)).toBe(
    195_608n,
  );
  expect(objects(volume)).toBe(5);
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  expect(await engine.count(keys.movedReferences)).toBe(3);
  await open.operations.unlink(caller(), 1n, 'source');
  expect(await gcVolume(volume.metaUrl)).toMatchObject({ deletedObjects: 1 }); // the second block of the old target
  expect(await engine.count(keys.movedReferences)).toBe(0);
  const reader = await openTestVolume(volume, 'reader');
  const expected = Buffer.concat([Buffer.alloc(100_000, 'old').subarray(0, 50_000), data.subarray(1000)]);
  expect((await reader.operations.read(caller(), target, 0n, 0n, 300_000, 0)).equals(expected)).toBe(true);

  await engine.commit({ write: [{ key: keys.gcLock, value: Buffer.from(String(engine.sessionId)) }] });
  await expect(gcVolume(volume.metaUrl)).rejects.toMatchObject({ code: 'held' });
  await engine.close();
  expect(await gcVolume(volume.metaUrl)).toMatchObject({ deletedObjects: 0 });
});

test('gc leaves young objects and those of the lake alone', async () => {
  const volume = await testVolume({ ...OPTIONS, grace: '1h' });
  const open = await openTestVolume(volume);
  await writeFile(open, 'gone', Buffer.alloc(65_536, 1));
  await open.operations.unlink(caller(), 1n, 'gone');
  expect(await gcVolume(volume.metaUrl)).toMatchObject({ objects: 1, deletedObjects: 0 });
});

test('gc removes the records of a file that was open when its mount died', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const ino = await writeFile(open, 'file', Buffer.alloc(65_536, 1));
  await open.operations.open(caller(), ino, 2);
  await open.operations.unlink(caller(), 1n, 'file');
  expect(await gcVolume(volume.metaUrl)).toMatchObject({ reclaimedOrphans: 0, deletedObjects: 0 });
  await open.close();
  expect(await gcVolume(volume.metaUrl)).toMatchObject({ reclaimedOrphans: 1, deletedObjects: 1 });
});

test('fsck finds nothing in a sound volume with a lake', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const file = await writeFile(open, 'file', Buffer.alloc(100_000, 1));
  await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await open.operations.link(caller(), file, 1n, 'link');
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  await engine.commit(
    await prepareListing(
      engine,
      'lake',
      'a',
      [{ hour: 473_352, add: [{ name: 'p', key: 'empty', bytes: 0, modifiedMs: 0 }], remove: [] }],
      0,
    ),
  );
  await engine.close();
  expect(await fsckVolume(volume.metaUrl, false)).toEqual({ inodes: 8, directories: 6, objects: 2, findings: [] });
});

test('fsck names what is wrong, and repairs what needs no guess', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const [lost, linked] = [
    await writeFile(open, 'lost', Buffer.alloc(10, 1)),
    await writeFile(open, 'linked', Buffer.alloc(10, 1)),
  ];
  await writeFile(open, 'missing', Buffer.alloc(10, 1));
  await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await open.close();
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  await engine.commit({
    write: [
      { key: keys.entry(1, 'lost'), value: null },
      { key: keys.entry(1, 'second'), value: encodeDentry(Number(linked), 8) },
      { key: keys.entry(1, 'dangling'), value: encodeDentry(999_999, 8) },
    ],
    patch: [{ number: keys.subdirectories(1), add: 5n }],
  });
  await engine.close();
  rmSync(join(volume.storeDir), { recursive: true });
  const found = await fsckVolume(volume.metaUrl, true);
  expect(found.findings.map((finding) => [finding.kind, finding.repaired]).sort()).toEqual([
    ['dangling-entry', true],
    ['missing-object', false],
    ['missing-object', false],
    ['missing-object', false],
    ['unnamed-inode', true],
    ['wrong-link-count', true],
    ['wrong-subdirectory-count', true],
  ]);
  expect(found.findings.find((finding) => finding.kind === 'unnamed-inode')?.text).toContain(`inode ${lost} `);
  await gcVolume(volume.metaUrl);
  expect((await fsckVolume(volume.metaUrl, true)).findings.map((finding) => finding.kind)).toEqual([
    'missing-object',
    'missing-object',
  ]);
});
