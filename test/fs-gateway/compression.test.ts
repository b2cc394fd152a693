/** Volumes whose blocks are stored in zstd, on a real Redis and a real S3 server. */
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { formatVolume, umountVolume } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import {
  configure,
  dumpToFile,
  fsckVolume,
  gcVolume,
  infoOf,
  loadFromFile,
  snapshotVolume,
} from '../../fs-gateway/tools/main.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { openMeta } from '../../lib/registry.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, mountTestVolume, openTestVolume, startServices, testVolume } from '../support/fs-volume.ts';
import type { Services, TestVolume } from '../support/fs-volume.ts';
import { run, until } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount, missing } from '../support/services.ts';
import { removeFile } from '../tools/volume-files.ts';
import { makeWhole, readElsewhere, sha, writeElsewhere } from './passthrough-volume.ts';

const BLOCK = 64 * 1024;
const OPTIONS = { blockSize: '64KiB', inlineBytes: '0', compression: 'zstd', grace: '0s', gc: '0s', backup: '0s' };

/** Blocks that compress well, blocks that do not, a short end. */
function mixed(): Buffer {
  const text = Buffer.alloc(4 * BLOCK, 'ts,sensor,rms\n1700000000123,press-7,0.0421\n');
  return Buffer.concat([
    text,
    randomBytes(2 * BLOCK),
    Buffer.alloc(2 * BLOCK),
    text.subarray(0, 10_000),
    randomBytes(77),
  ]);
}

function storedFiles(volume: TestVolume): string[] {
  return readdirSync(volume.storeDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /^\d+$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}

const storedBytes = (volume: TestVolume): number =>
  storedFiles(volume).reduce((total, path) => total + statSync(path).size, 0);

async function cold(volume: TestVolume, name = 'file', reports: string[] = []): Promise<Buffer> {
  const reader = await openTestVolume(volume, `cold-${Math.random()}`, reports);
  const data = await readElsewhere(reader, name);
  await reader.close();
  return data;
}

async function overwrite({ operations }: OpenVolume, name: string, offset: number, data: Buffer): Promise<void> {
  const found = await operations.lookup(caller(), 1n, name);
  if (!('attributes' in found)) throw new Error(`${name} is absent`);
  const { ino } = found.attributes;
  const { handle } = await operations.open(caller(), ino, 2);
  await operations.write(caller(), ino, handle, BigInt(offset), data, 2, false);
  await operations.flush(caller(), ino, handle, 0n);
  await operations.release(caller(), ino, handle, undefined);
}

describe.skipIf(missing('redis-server', 'versitygw'))('a compressed volume', () => {
  let services: Services;
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(() => services.stop());

  test('stores what becomes smaller in zstd and the rest as it is, and gives back the same bytes', async () => {
    const volume = await services.volume(OPTIONS);
    const writer = await openTestVolume(volume, 'writer');
    const content = mixed();
    await writeElsewhere(writer, 'file', content);
    const sizes = storedFiles(volume).map((path) => statSync(path).size);
    expect(sizes.filter((bytes) => bytes === BLOCK)).toHaveLength(2);
    expect(sizes.filter((bytes) => bytes < BLOCK / 8)).toHaveLength(7);
    const stored = storedBytes(volume);
    expect(writer.stats()).toMatchObject({ uploadedBytes: stored, savedBytes: content.length - stored });
    const reader = await openTestVolume(volume, 'reader');
    expect((await readElsewhere(reader, 'file')).equals(content)).toBe(true);
    // What came over the network is what is stored; a second look asks for nothing, nor does a restart.
    expect(reader.stats()['fetchedBytes']).toBe(stored);
    await reader.close();
    const again = await openTestVolume(volume, 'reader');
    expect((await readElsewhere(again, 'file')).equals(content)).toBe(true);
    expect(again.stats()['fetchedBytes']).toBe(0);
  });

  test('slices of compressed blocks stay right under overwrites and cuts, and gc and fsck see what they need', async () => {
    const volume = await services.volume(OPTIONS);
    const writer = await openTestVolume(volume, 'writer');
    const content = mixed();
    await writeElsewhere(writer, 'file', content);
    await writeElsewhere(writer, 'gone', content);
    for (const [offset, data] of [
      [100, Buffer.from('in the first block')],
      [BLOCK - 50, randomBytes(100)],
      [3 * BLOCK + 10, Buffer.alloc(2 * BLOCK, 'over three blocks ')],
    ] as const) {
      await overwrite(writer, 'file', offset, data);
      data.copy(content, offset);
    }
    await snapshotVolume({ metaUrl: volume.metaUrl, snapshot: 'before' });
    await removeFile(writer, 'gone');
    expect((await cold(volume)).equals(content)).toBe(true);
    await writer.close();
    expect(await fsckVolume({ metaUrl: volume.metaUrl })).toMatchObject({ findings: [] });
    await gcVolume({ uploadMs: 0, metaUrl: volume.metaUrl, graceMs: 0 });
    expect(await gcVolume({ uploadMs: 0, metaUrl: volume.metaUrl, graceMs: 0 })).toMatchObject({
      waitingObjects: 0,
      problem: null,
    });
    expect(await fsckVolume({ metaUrl: volume.metaUrl })).toMatchObject({ findings: [] });
    expect((await cold(volume)).equals(content)).toBe(true);
    // A dump says how each piece is stored.
    const path = join(volume.base, 'dump');
    await dumpToFile({ metaUrl: volume.metaUrl, path });
    const metaUrl = `sqlite:${join(volume.base, 'loaded.db')}`;
    await loadFromFile({ metaUrl, path });
    expect((await cold({ ...volume, metaUrl })).equals(content)).toBe(true);
  });

  test('damage in the store is EIO with the name of the object, and a cut object is a finding', async () => {
    const volume = await services.volume(OPTIONS);
    const writer = await openTestVolume(volume, 'writer');
    await writeElsewhere(writer, 'file', Buffer.alloc(BLOCK, 'compress me '));
    await writer.close();
    const [path = ''] = storedFiles(volume);
    const good = readFileSync(path);
    expect(good.length).toBeLessThan(1000);
    let refused = 0;
    for (let at = 0; at < good.length; at += 6) {
      const bad = Buffer.from(good);
      bad[at] = (bad[at] ?? 0) ^ 0x10;
      writeFileSync(path, bad);
      const reports: string[] = [];
      const data = await cold(volume, 'file', reports).catch((error: unknown) => error);
      // Some bits of a frame mean nothing: then the bytes are right.
      if (Buffer.isBuffer(data)) expect(data.equals(Buffer.alloc(BLOCK, 'compress me '))).toBe(true);
      else {
        refused++;
        expect(data).toMatchObject({ errno: Errno.EIO });
        expect(reports[0]).toMatch(/object \S+\/blocks\/\S+ .*(cannot be decompressed|checksum|gave)/);
      }
    }
    expect(refused).toBeGreaterThan(good.length / 12);
    writeFileSync(path, good);
    truncateSync(path, good.length - 1);
    const { findings } = await fsckVolume({ metaUrl: volume.metaUrl });
    expect(findings).toMatchObject([{ kind: 'short-object' }]);
  });

  test('peers give each other the content, which the store gave once', async () => {
    const volume = await services.volume(OPTIONS);
    const writer = await openTestVolume(volume, 'writer');
    const content = mixed();
    await writeElsewhere(writer, 'file', content);
    await writer.close();
    const stored = storedBytes(volume);
    const group = { cacheGroup: { name: 'g', listen: '127.0.0.1:0' } };
    const all = [
      await openTestVolume(volume, 'a', [], 'lake', group),
      await openTestVolume(volume, 'b', [], 'lake', group),
    ];
    await until('they know each other', () => all.every((open) => open.stats()['peers'] === 1));
    for (const data of await Promise.all(all.map((open) => readElsewhere(open, 'file')))) {
      expect(data.equals(content)).toBe(true);
    }
    const sum = (key: string): number => all.reduce((total, open) => total + Number(open.stats()[key]), 0);
    expect(sum('fetchedBytes')).toBe(stored);
    expect(sum('peerServedBytes')).toBe(content.length);
  });

  test.skipIf(cannotMount() || cannotPassThrough())('the kernel reads and writes whole files of it', async () => {
    const volume = await services.volume(OPTIONS);
    const content = mixed();
    const writer = await openTestVolume(volume, 'writer');
    await writeElsewhere(writer, 'file', content);
    const mount = await mountTestVolume(volume, { passthrough: 'full' });
    await makeWhole(mount, 'file');
    const work = `cd $1; sha256sum < file; cp file copy; printf changed | dd of=copy bs=1 seek=70000 conv=notrunc status=none; sha256sum < copy`;
    const { status, stdout } = await run('bash', ['-ec', work, 'bash', mount.mountpoint]);
    const changed = Buffer.from(content);
    changed.write('changed', 70_000);
    expect([status, ...stdout.split('\n').map((line) => line.slice(0, 64))]).toEqual([
      0,
      sha(content),
      sha(changed),
      '',
    ]);
    const info = await infoOf(join(mount.mountpoint, 'file'), { metaUrl: volume.metaUrl });
    expect(info.content?.extents[0]).toMatchObject({ offset: 0, bytes: BLOCK, objectOffset: 0 });
    expect(info.content?.extents[0]?.zstdBytes).toBeLessThan(BLOCK / 8);
    expect(info.content?.savedBytes).toBeGreaterThan(5 * BLOCK);
    await umountVolume(mount.mountpoint);
    expect((await cold(volume, 'copy')).equals(changed)).toBe(true);
  });
});

test('in a store that is a directory, where other objects are read from their own files', async () => {
  const volume = await testVolume(OPTIONS);
  const writer = await openTestVolume(volume, 'writer');
  const content = mixed();
  await writeElsewhere(writer, 'file', content);
  expect(storedBytes(volume)).toBeLessThan(3 * BLOCK);
  expect((await readElsewhere(writer, 'file')).equals(content)).toBe(true);
  expect((await cold(volume)).equals(content)).toBe(true);
});

test('the format says what clients must know: version 2 where blocks may be in zstd, 1 where older ones can go on', async () => {
  const plain = await testVolume({});
  const { metaUrl } = await testVolume({ compression: 'zstd' });
  const version = async (url: string): Promise<number | undefined> => {
    const engine = await openMeta(url, { kind: 'test' });
    try {
      return (await readFormat(engine, 'lake'))?.version;
    } finally {
      await engine.close();
    }
  };
  expect([await version(plain.metaUrl), await version(metaUrl)]).toEqual([1, 2]);
  const engine = await openMeta(metaUrl, { kind: 'test' });
  const key = new VolumeKeys('lake').formatKey;
  const [stored] = await engine.read([key]);
  const text = stored?.value.toString() ?? '';
  const write = (json: string): Promise<unknown> => engine.commit({ write: [{ key, value: Buffer.from(json) }] });
  await write(text.replace('"version":2', '"version":3'));
  await expect(readFormat(engine, 'lake')).rejects.toMatchObject({
    code: 'unsupported',
    message: "volume 'lake' has format version 3; this Penstock knows versions up to 2: upgrade it",
  });
  await write(text.replace('"version":2', '"version":1'));
  await expect(readFormat(engine, 'lake')).rejects.toMatchObject({ code: 'corrupt' });
  await engine.close();
  await expect(
    formatVolume({ metaUrl: `${metaUrl}&volume=x`, storeUrl: 'dir:/nowhere', options: { compression: 'lz4' } }),
  ).rejects.toMatchObject({ code: 'config', message: 'compression=lz4: expected none or zstd' });
});

test('an existing volume: new blocks in zstd, later again as they are, all readable; refused while it is mounted', async () => {
  const volume = await testVolume({ blockSize: '64KiB', inlineBytes: '0' });
  const content = Buffer.alloc(3 * BLOCK, 'again and again ');
  const write = async (name: string): Promise<number> => {
    const before = storedBytes(volume);
    const open = await openTestVolume(volume, name);
    await writeElsewhere(open, name, content);
    await expect(configure({ metaUrl: volume.metaUrl, options: { compression: 'none' } })).rejects.toMatchObject({
      code: 'held',
      message: expect.stringContaining(`/nowhere/${name}`) as string,
    });
    await open.close();
    return storedBytes(volume) - before;
  };
  expect(await write('a')).toBe(content.length);
  const changed = await configure({ metaUrl: volume.metaUrl, options: { compression: 'zstd' } });
  expect(changed).toMatchObject({ version: 2, compression: 'zstd' });
  expect(await write('b')).toBeLessThan(content.length / 8);
  // Version 2 stays: there are compressed blocks.
  expect(await configure({ metaUrl: volume.metaUrl, options: { compression: 'none' } })).toMatchObject({ version: 2 });
  expect(await write('c')).toBe(content.length);
  for (const name of ['a', 'b', 'c']) expect((await cold(volume, name)).equals(content)).toBe(true);
});
