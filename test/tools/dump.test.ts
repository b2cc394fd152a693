import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { expect, onTestFinished, test } from 'vitest';
import { dumpToFile, fsckVolume, gcVolume, loadFromFile } from '../../fs-gateway/tools/main.ts';
import { dumpVolume } from '../../fs-gateway/tools/dump.ts';
import { loadVolume } from '../../fs-gateway/tools/load.ts';
import { systemClock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openMeta, openStore } from '../../lib/registry.ts';
import { prepareListing } from '../../lib/volume/lake-listing.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { loseMetadata, openEngine } from './volume-bench.ts';
import { lookUp, writeFile } from './volume-files.ts';

const OPTIONS = { blockSize: '64KiB', inlineBytes: '100', grace: '1h' };

function target(volume: TestVolume, name = 'restored'): TestVolume {
  return { ...volume, metaUrl: `sqlite:${join(volume.base, `${name}.db`)}` };
}

async function filled(): Promise<{ readonly volume: TestVolume; readonly path: string; readonly data: Buffer }> {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const data = Buffer.alloc(150_000, 'data');
  const { attributes: d } = await open.operations.mkdir(caller(), 1n, 'd\xff\n', 0o750, 0);
  const large = await writeFile(open, 'large', data, d.ino);
  await writeFile(open, 'small', Buffer.from('small'));
  await open.operations.setxattr(caller(), large, 'user.a', Buffer.from([0, 255, 10]), 0, false);
  await open.operations.symlink(caller(), 1n, 'link', Buffer.from('d/large'));
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  const lakeFile = { name: 'p', key: 'empty', bytes: 0, modifiedMs: 0 };
  await engine.commit(await prepareListing(engine, 'lake', 'a', [{ hour: 473_352, add: [lakeFile], remove: [] }], 0));
  await engine.close();
  await open.close();
  return { volume, path: join(volume.base, 'dump'), data };
}

test('a loaded dump is the volume, and gives out no id that was in use', async () => {
  const { volume, path, data } = await filled();
  const dumped = await dumpToFile({ ...volume, path });
  expect(dumped).toMatchObject({ volume: 'lake', consistent: true });
  expect(dumped.records).toBeGreaterThan(20);
  const restored = target(volume);
  const loaded = await loadFromFile({ ...restored, path });
  expect(loaded).toMatchObject({ volume: 'lake', consistent: true });
  expect(loaded.records).toBeGreaterThan(20);
  expect(await fsckVolume(restored)).toMatchObject({ findings: [], inodes: 10 });
  const open = await openTestVolume(restored, 'restored');
  const d = await lookUp(open, 1n, 'd\xff\n');
  expect(d.mode & 0o777).toBe(0o750);
  const large = await lookUp(open, d.ino, 'large');
  expect((await open.operations.read(caller(), large.ino, 0n, 0n, 200_000, 0)).equals(data)).toBe(true);
  expect(await open.operations.getxattr(caller(), large.ino, 'user.a')).toEqual(Buffer.from([0, 255, 10]));
  const small = await lookUp(open, 1n, 'small');
  expect((await open.operations.read(caller(), small.ino, 0n, 0n, 100, 0)).toString()).toBe('small');
  expect(await writeFile(open, 'new', data)).toBeGreaterThan(2n ** 24n);
});

test('a volume is loaded only where it is not, also under another name', async () => {
  const { volume, path } = await filled();
  await dumpToFile({ ...volume, path });
  await expect(loadFromFile({ ...volume, path })).rejects.toMatchObject({ code: 'exists' });
  expect(await loadFromFile({ ...volume, path, name: 'copy' })).toMatchObject({ volume: 'copy' });
  expect(await fsckVolume({ ...volume, name: 'copy' })).toMatchObject({ findings: [], inodes: 10 });
});

test('a volume that was lost under a mount is not loaded while it is mounted', async () => {
  const { volume, path } = await filled();
  await dumpToFile({ ...volume, path });
  const open = await openTestVolume(volume);
  await loseMetadata(await openEngine(volume));
  await expect(loadFromFile({ ...volume, path })).rejects.toMatchObject({
    code: 'held',
    message: expect.stringMatching(/still mounted: .*\/nowhere\/a.*Unmount it with --force and load again/) as string,
  });
  await expect(fsckVolume(volume)).rejects.toMatchObject({ code: 'not-found' });
  await open.close();
  expect(await loadFromFile({ ...volume, path })).toMatchObject({ volume: 'lake' });
});

test('a damaged, cut, foreign or newer file is refused before anything is written', async () => {
  const { volume, path } = await filled();
  await dumpToFile({ ...volume, path });
  const restored = target(volume);
  const text = zstdDecompressSync(readFileSync(path)).toString();
  const lines = text.trimEnd().split('\n');
  const cases: (readonly [string, Buffer])[] = [
    ['corrupt', readFileSync(path).subarray(0, 200)],
    ['corrupt', Buffer.from('something else')],
    ['corrupt', zstdCompressSync('{"kind":"something"}\n')],
    ['corrupt', zstdCompressSync(lines.slice(0, -1).join('\n') + '\n')],
    ['corrupt', zstdCompressSync(lines.with(3, lines[4] ?? '').join('\n') + '\n')],
    ['corrupt', zstdCompressSync(`${text}[]\n`)],
    ['unsupported', zstdCompressSync(text.replace('"version":1', '"version":2'))],
  ];
  for (const [code, bytes] of cases) {
    writeFileSync(path, bytes);
    await expect(loadFromFile({ ...restored, path })).rejects.toMatchObject({ code });
  }
  rmSync(path);
  await expect(loadFromFile({ ...restored, path })).rejects.toMatchObject({ code: 'not-found' });
  await expect(fsckVolume(restored)).rejects.toMatchObject({ code: 'not-found' });
});

test('a load that was interrupted leaves nothing that can be mounted, and the next one finishes', async () => {
  const { volume, path } = await filled();
  await dumpToFile({ ...volume, path });
  const restored = target(volume);
  for (let call = 0; ; call++) {
    const engine = await openMeta(restored.metaUrl, { kind: 'test' });
    const plan = new FaultPlan({ call, moment: call % 2 === 0 ? 'before' : 'after', operation: 'commit' });
    const loading = loadVolume({ engine: faultyEngine(engine, plan), volume: 'lake', path, openStore });
    const done = await loading.then(
      () => true,
      () => false,
    );
    await engine.close();
    if (done) break;
    // An answer that was lost may have been that of the last commit.
    const mountable = await fsckVolume(restored).then(
      () => true,
      () => false,
    );
    if (mountable) break;
    expect(call).toBeLessThan(50);
  }
  expect(await fsckVolume(restored)).toMatchObject({ findings: [], inodes: 10 });
});

test('a dump beside writers is the state of one instant', async () => {
  const volume = await testVolume(OPTIONS);
  const open = await openTestVolume(volume);
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  const { attributes: d } = await open.operations.mkdir(caller(), 1n, 'd', 0o755, 0);
  for (let n = 0; n < 30; n++) await writeFile(open, `f${n}`, Buffer.alloc(n * 2000, n));
  let rounds = 0;
  // A file is in one of both directories at every instant, and each round makes, fills and removes others.
  const write = async (): Promise<void> => {
    const n = rounds % 30;
    await writeFile(open, `new${rounds}`, Buffer.alloc(90_000, rounds));
    await open.operations.mkdir(caller(), d.ino, `d${rounds}`, 0o755, 0);
    if (rounds > 5) await open.operations.unlink(caller(), 1n, `new${rounds - 5}`);
    const back = Math.floor(rounds / 30) % 2 === 1;
    await open.operations.rename(caller(), back ? d.ino : 1n, `f${n}`, back ? 1n : d.ino, `f${n}`, 0);
    rounds++;
  };
  const busy: MetaEngine = {
    ...faultyEngine(engine, new FaultPlan()),
    // Several rounds before each page that is read, whichever that is, so that no two pages are read at one instant.
    async instant(tag) {
      const instant = await engine.instant(tag);
      return {
        read: (keys) => instant.read(keys),
        readNumbers: (keys) => instant.readNumbers(keys),
        buckets: (prefix) => instant.buckets(prefix),
        numbers: (bucket) => instant.numbers(bucket),
        async scan(bucket, cursor, limit) {
          for (let n = 0; n < 10; n++) await write();
          return instant.scan(bucket, cursor, limit);
        },
        close: () => instant.close(),
      };
    },
  };
  const path = join(volume.base, 'dump');
  const report = await dumpVolume({ engine: busy, volume: 'lake', clock: systemClock, path });
  expect(rounds).toBeGreaterThan(20);
  expect(report).toMatchObject({ consistent: true });
  const restored = target(volume);
  await loadFromFile({ ...restored, path });
  expect((await fsckVolume(restored)).findings).toEqual([]);
  const again = await openTestVolume(restored, 'restored');
  const inner = await lookUp(again, 1n, 'd');
  for (let n = 0; n < 30; n++) {
    const name = `f${n}`;
    const found = await lookUp(again, 1n, name).catch(() => lookUp(again, inner.ino, name));
    expect(found.size).toBe(BigInt(n * 2000));
  }
  expect(await gcVolume({ uploadMs: 0, ...restored, dryRun: true })).toMatchObject({ deletedObjects: 0 });
});
