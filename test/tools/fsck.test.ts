import { readdirSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { fsckVolume, gcVolume } from '../../fs-gateway/tools/main.ts';
import type { MetaEngine, Write } from '../../lib/meta/engine.ts';
import { openMeta } from '../../lib/registry.ts';
import { encodeDentry } from '../../lib/volume/dentry.ts';
import { decodeInode, encodeInode, newInode, S_IFREG } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { prepareListing } from '../../lib/volume/lake-listing.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { lookUp, removeFile, writeFile } from './volume-files.ts';

const keys = new VolumeKeys('lake');
const OPTIONS = { blockSize: '64KiB', inlineBytes: '100', grace: '0s' };
const REGULAR = 8;
const FOLDER = 4;

async function openEngine(volume: TestVolume): Promise<MetaEngine> {
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  return engine;
}

async function kinds(volume: TestVolume, repair: boolean): Promise<(readonly [string, boolean])[]> {
  const { findings } = await fsckVolume({ ...volume, repair });
  return findings.map(({ kind, repaired }) => [kind, repaired] as const).sort((a, b) => (a[0] < b[0] ? -1 : 1));
}

async function editInode(engine: MetaEngine, ino: bigint, change: Partial<Inode>): Promise<void> {
  const key = keys.inode(Number(ino));
  const [stored] = await engine.read([key]);
  if (!stored) throw new Error(`no inode ${ino}`);
  await engine.commit({
    write: [{ key, value: encodeInode({ ...decodeInode(stored.value, Number(ino)), ...change }) }],
  });
}

function storedObjects(volume: TestVolume): string[] {
  return readdirSync(volume.storeDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /^\d+$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}

test('fsck finds nothing in a sound volume with small, large, linked and open files and a lake', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const file = await writeFile(open, 'file', Buffer.alloc(100_000, 1));
  await writeFile(open, 'small', Buffer.alloc(50, 1));
  await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await open.operations.link(caller(), file, 1n, 'link');
  await open.operations.symlink(caller(), 1n, 'symlink', Buffer.from('/nowhere'));
  await removeFile(open, 'symlink');
  const orphan = await writeFile(open, 'orphan', Buffer.alloc(100, 1));
  await open.operations.open(caller(), orphan, 0);
  await removeFile(open, 'orphan');
  const engine = await openEngine(volume);
  const lakeFile = { name: 'p', key: 'empty', bytes: 0, modifiedMs: 0 };
  await engine.commit(await prepareListing(engine, 'lake', 'a', [{ hour: 473_352, add: [lakeFile], remove: [] }], 0));
  const sound = { inodes: 10, directories: 6, objects: 2, findings: [], more: 0 };
  expect(await fsckVolume(volume)).toEqual({ ...sound, inUse: true });
  await expect(fsckVolume({ ...volume, repair: true })).rejects.toMatchObject({ code: 'held' });
  await open.close();
  expect(await fsckVolume({ ...volume, repair: true })).toEqual({ ...sound, inUse: false });
});

test('fsck names what is wrong, and repairs what needs no guess', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const content = Buffer.alloc(70_000, 'kept');
  const lost = await writeFile(open, 'lost', content);
  const linked = await writeFile(open, 'linked', Buffer.alloc(10, 1));
  const { attributes: d } = await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await writeFile(open, 'below', Buffer.alloc(10, 2), d.ino);
  await open.close();
  const engine = await openEngine(volume);
  await engine.commit({
    write: [
      { key: keys.entry(1, 'lost'), value: null },
      { key: keys.entry(1, 'second'), value: encodeDentry(Number(linked), REGULAR) },
      { key: keys.entry(1, 'typed'), value: encodeDentry(Number(linked), FOLDER) },
      { key: keys.entry(1, 'dangling'), value: encodeDentry(999_999, REGULAR) },
      { key: keys.entry(1, 'damaged'), value: Buffer.from('abc') },
      { key: keys.entry(Number(d.ino), 'd'), value: encodeDentry(Number(d.ino), FOLDER) },
    ],
    patch: [
      { number: keys.subdirectories(1), add: 5n },
      { number: keys.counter('bytes'), add: -3n },
      { number: keys.counter('inodes'), add: 7n },
      { number: keys.counter('ino'), add: -5000n },
    ],
  });
  const { findings } = await fsckVolume(volume);
  expect(findings.find(({ kind }) => kind === 'dangling-entry')?.text).toBe(
    '/dangling names inode 999999, which does not exist',
  );
  expect(findings.find(({ kind }) => kind === 'unnamed-inode')?.text).toContain(`inode ${lost}, a file of 70000 bytes`);
  expect(findings.find(({ kind }) => kind === 'second-directory-name')?.text).toMatch(
    /^\/d\/d is also \/d|^\/d is also/,
  );
  expect(findings.every(({ repaired, means, repair }) => !repaired && means !== '' && repair !== '')).toBe(true);

  expect(await kinds(volume, true)).toEqual([
    ['damaged-record', true],
    ['dangling-entry', true],
    ['low-counter', true],
    ['second-directory-name', true],
    ['unnamed-inode', true],
    ['wrong-entry-type', true],
    ['wrong-link-count', true],
    ['wrong-subdirectory-count', true],
    ['wrong-usage', true],
    ['wrong-usage', true],
  ]);
  expect(await kinds(volume, false)).toEqual([]);
  const again = await openTestVolume(volume, 'again');
  const found = await lookUp(again, 1n, 'lost+found');
  const file = await lookUp(again, found.ino, `#${lost}`);
  expect((await again.operations.read(caller(), file.ino, 0n, 0n, 100_000, 0)).equals(content)).toBe(true);
  expect((await again.operations.getattr(caller(), linked, undefined)).attributes.nlink).toBe(3);
  expect((await lookUp(again, d.ino, 'below')).size).toBe(10n);
});

test('a lost directory and lost contents come back, a cycle is cut', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const [{ attributes: a }, { attributes: gone }] = [
    await open.operations.mkdir(caller(), 1n, 'a', 0o755, 0),
    await open.operations.mkdir(caller(), 1n, 'gone', 0o755, 0),
  ];
  const { attributes: b } = await open.operations.mkdir(caller(), a.ino, 'b', 0o755, 0);
  await writeFile(open, 'inside', Buffer.alloc(10, 3), gone.ino);
  const small = await writeFile(open, 'small', Buffer.from('small content'));
  await open.close();
  const engine = await openEngine(volume);
  const write: Write[] = [
    { key: keys.inode(Number(gone.ino)), value: null },
    { key: keys.inode(Number(small)), value: null },
    { key: keys.entry(1, 'a'), value: null },
    { key: keys.entry(Number(b.ino), 'up'), value: encodeDentry(Number(a.ino), FOLDER) },
  ];
  await engine.commit({ write });
  expect((await kinds(volume, true)).every(([, repaired]) => repaired)).toBe(true);
  expect(await kinds(volume, false)).toEqual([]);
  const again = await openTestVolume(volume, 'again');
  const found = await lookUp(again, 1n, 'lost+found');
  const revived = (await lookUp(again, 1n, 'small')).ino;
  expect((await again.operations.read(caller(), revived, 0n, 0n, 100, 0)).toString()).toBe('small content');
  const { ino: kept } = await lookUp(again, 1n, 'gone');
  expect((await lookUp(again, kept, 'inside')).size).toBe(10n);
  const names = await Promise.all([a.ino, b.ino].map((ino) => lookUp(again, found.ino, `#${ino}`).catch(() => null)));
  expect(names.filter((entry) => entry !== null)).toHaveLength(1);
});

test('what no repair can bring back is named with its path, and stays', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const { attributes: d } = await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  await writeFile(open, 'missing', Buffer.alloc(1000, 1), d.ino);
  const [missing] = storedObjects(volume);
  await writeFile(open, 'short', Buffer.alloc(2000, 2));
  const short = storedObjects(volume).find((path) => path !== missing);
  const damaged = await writeFile(open, 'damaged', Buffer.alloc(10, 3));
  const empty = await writeFile(open, 'empty', Buffer.alloc(10, 3));
  const outside = await writeFile(open, 'outside', Buffer.alloc(1000, 4));
  await open.close();
  rmSync(missing ?? '');
  truncateSync(short ?? '', 10);
  const engine = await openEngine(volume);
  await editInode(engine, outside, { size: 500 });
  await engine.commit({
    write: [
      { key: keys.inode(Number(damaged)), value: Buffer.from('not an inode') },
      { key: keys.inlineData(Number(empty)), value: null },
    ],
  });
  const { findings } = await fsckVolume(volume);
  const text = (kind: string): string | undefined => findings.find((finding) => finding.kind === kind)?.text;
  expect(text('missing-object')).toMatch(/^\/d\/missing: object .* is missing \(1000 bytes\)$/);
  expect(text('short-object')).toMatch(/^\/short: object .* has 10 bytes, 2000 are needed$/);
  expect(text('damaged-record')).toContain(`inode ${damaged}`);
  expect(text('missing-content')).toContain(`inode ${empty}`);
  expect(text('extent-outside')).toContain('bytes 0 to 1000, allowed are 0 to 500');
  const left = (await kinds(volume, true)).filter(([, repaired]) => !repaired).map(([kind]) => kind);
  expect(left).toEqual(['damaged-record', 'extent-outside', 'missing-content', 'missing-object', 'short-object']);
  await expect(gcVolume({ ...volume, uploadMs: 0 })).rejects.toMatchObject({ code: 'corrupt' });
});

test('inodes written ahead for a flip of the lake are left alone while young, and removed when old', async () => {
  const volume = await testVolume(OPTIONS);
  const engine = await openEngine(volume);
  const object = { kind: 'external', key: 'table/file', objectBytes: 5 } as const;
  const extents = [{ fileOffset: 0, length: 5, sliceOffset: 0, source: object }];
  const lakeFile = (ageMs: number): Buffer =>
    encodeInode(
      newInode(S_IFREG | 0o444, 0, 0, BigInt(Date.now() - ageMs) * 1_000_000n, { flags: 16, size: 5, extents }),
    );
  await engine.commit({
    write: [
      { key: keys.inode(50), value: lakeFile(0) },
      { key: keys.inode(51), value: lakeFile(7200e3) },
    ],
    patch: [{ number: keys.counter('ino'), max: 100n }],
  });
  expect(await kinds(volume, true)).toContainEqual(['unnamed-inode', true]);
  expect(await engine.read([keys.inode(51)])).toEqual([null]);
  expect((await engine.read([keys.inode(50)]))[0]).not.toBeNull();
});
