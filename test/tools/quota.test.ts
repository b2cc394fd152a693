import { expect, test } from 'vitest';
import { getQuota, listQuotas, setQuota } from '../../fs-gateway/tools/quota.ts';
import { fsckVolume, gcVolume } from '../../fs-gateway/tools/main.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { encodeQuota } from '../../lib/volume/quota.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { errnoOf, lookUp, makeDirectory, writeFile } from './volume-files.ts';
import { onBothServices, openEngine, expectSound } from './volume-bench.ts';
import type { NewVolume } from './volume-bench.ts';

const keys = new VolumeKeys('lake');
const EDQUOT = Errno.EDQUOT;

function suite(newVolume: NewVolume): void {
  test('what is in a directory counts to its quota and to those around it, and no more than fits comes in', async () => {
    const volume = await newVolume();
    const [open, other] = [await openTestVolume(volume), await openTestVolume(volume, 'b')];
    const engine = await openEngine(volume);
    const outer = await makeDirectory(open, 'outer');
    const inner = await makeDirectory(open, 'inner', outer);
    await writeFile(open, 'before', Buffer.alloc(1000), inner);
    expect(await setQuota(engine, 'lake', '/outer/inner', { bytesMax: 5000, inodesMax: 3 })).toMatchObject({
      bytes: 1000,
      inodes: 1,
      counting: false,
    });
    expect(await setQuota(engine, 'lake', '/outer', { bytesMax: 8000 })).toMatchObject({ bytes: 1000, inodes: 2 });
    const tooMuch = setQuota(engine, 'lake', '/outer', { bytesMax: Number.MAX_SAFE_INTEGER });
    await expect(tooMuch).rejects.toMatchObject({ code: 'usage' });
    await writeFile(other, 'second', Buffer.alloc(4000), inner);
    expect(await errnoOf(() => writeFile(open, 'third', Buffer.alloc(1), inner))).toBe(EDQUOT);
    expect(await errnoOf(() => makeDirectory(other, 'fourth', inner))).toBe(EDQUOT);
    await writeFile(open, 'outside', Buffer.alloc(3000), outer);
    const full = await lookUp(open, outer, 'outside');
    expect(await errnoOf(() => open.operations.setattr(caller(), full.ino, { size: 3001n }))).toBe(EDQUOT);
    expect(await errnoOf(() => open.operations.fallocate(caller(), full.ino, 0n, 0, 0n, 4000n))).toBe(EDQUOT);
    // Less is always possible, and makes room on every mount.
    await other.operations.setattr(caller(), full.ino, { size: 1000n });
    await open.operations.setattr(caller(), full.ino, { size: 2000n });
    await other.operations.unlink(caller(), inner, 'second');
    await open.operations.unlink(caller(), inner, 'third');
    await writeFile(open, 'again', Buffer.alloc(3000), inner);
    expect(await listQuotas(engine, 'lake')).toMatchObject([
      { path: '/outer', bytes: 6000, bytesMax: 8000, inodes: 4, inodesMax: null },
      { path: '/outer/inner', bytes: 4000, bytesMax: 5000, inodes: 2, inodesMax: 3 },
    ]);
    expect(await open.operations.statfs(caller(), inner)).toMatchObject({ files: 3n, filesFree: 1n, blocksFree: 0n });
    expect(await open.operations.statfs(caller(), outer)).toMatchObject({ blocks: 2n, blocksFree: 0n });
    await expectSound(volume);
  });

  test('two mounts that fill a quota at once never pass it, and each refusal is EDQUOT', async () => {
    const volume = await newVolume();
    const mounts = await Promise.all(['a', 'b', 'c'].map((name) => openTestVolume(volume, name)));
    const engine = await openEngine(volume);
    const [first] = mounts;
    if (first === undefined) throw new Error('three mounts');
    const directory = await makeDirectory(first, 'd');
    await setQuota(engine, 'lake', '/d', { inodesMax: 50 });
    const outcomes = await Promise.all(
      mounts.flatMap((open, mount) =>
        Array.from({ length: 30 }, (_, n) => errnoOf(() => makeDirectory(open, `${mount}-${n}`, directory))),
      ),
    );
    expect(outcomes.filter((errno) => errno === 0)).toHaveLength(50);
    expect(outcomes.filter((errno) => errno === EDQUOT)).toHaveLength(40);
    expect(await getQuota(engine, 'lake', '/d')).toMatchObject({ inodes: 50 });
    await expectSound(volume);
  });

  test('moves between quotas count a file anew, and are refused for directories and hard links', async () => {
    const volume = await newVolume();
    const open = await openTestVolume(volume);
    const engine = await openEngine(volume);
    const [a, b] = [await makeDirectory(open, 'a'), await makeDirectory(open, 'b')];
    const file = await writeFile(open, 'file', Buffer.alloc(2000), a);
    await makeDirectory(open, 'sub', a);
    await setQuota(engine, 'lake', '/a', { bytesMax: 10_000 });
    await setQuota(engine, 'lake', '/b', { bytesMax: 3000 });
    await open.operations.rename(caller(), a, 'file', b, 'moved', 0);
    expect(await getQuota(engine, 'lake', '/a')).toMatchObject({ bytes: 0, inodes: 1 });
    expect(await getQuota(engine, 'lake', '/b')).toMatchObject({ bytes: 2000, inodes: 1 });
    await writeFile(open, 'large', Buffer.alloc(5000), a);
    expect(await errnoOf(() => open.operations.rename(caller(), a, 'large', b, 'large', 0))).toBe(EDQUOT);
    // Exchanged, what comes and what goes are one.
    await open.operations.setattr(caller(), file, { size: 3000n });
    expect(await errnoOf(() => open.operations.rename(caller(), a, 'large', b, 'moved', 2))).toBe(EDQUOT);
    await open.operations.setattr(caller(), (await lookUp(open, a, 'large')).ino, { size: 2500n });
    await open.operations.rename(caller(), a, 'large', b, 'moved', 2);
    expect(await getQuota(engine, 'lake', '/b')).toMatchObject({ bytes: 2500, inodes: 1 });
    expect(await errnoOf(() => open.operations.rename(caller(), a, 'sub', b, 'sub', 0))).toBe(Errno.EXDEV);
    expect(await errnoOf(() => open.operations.link(caller(), file, 1n, 'link'))).toBe(Errno.EXDEV);
    await open.operations.link(caller(), file, a, 'link');
    expect(await errnoOf(() => open.operations.rename(caller(), a, 'link', b, 'link', 0))).toBe(Errno.EXDEV);
    // A directory with a quota moves wherever it counts to the same.
    await open.operations.rename(caller(), 1n, 'b', 1n, 'c', 0);
    expect(await errnoOf(() => open.operations.rename(caller(), 1n, 'c', a, 'c', 0))).toBe(Errno.EXDEV);
    await expectSound(volume);
  });

  test('a removed file counts to the volume only, until its last close, and a removed directory takes its quota along', async () => {
    const volume = await newVolume();
    const open = await openTestVolume(volume);
    const engine = await openEngine(volume);
    const directory = await makeDirectory(open, 'd');
    await setQuota(engine, 'lake', '/d', { bytesMax: 1e6 });
    const file = await writeFile(open, 'f', Buffer.alloc(100), directory);
    const { handle } = await open.operations.open(caller(), file, 0);
    await open.operations.unlink(caller(), directory, 'f');
    expect(await getQuota(engine, 'lake', '/d')).toMatchObject({ bytes: 0, inodes: 0 });
    expect(await engine.readNumbers([keys.counter('bytes')])).toEqual([100n]);
    await open.operations.rmdir(caller(), 1n, 'd');
    await open.operations.release(caller(), file, handle, undefined);
    await open.operations.drain();
    expect(await engine.readNumbers([keys.usage(Number(directory), 'bytes')])).toEqual([0n]);
    await gcVolume({ ...volume, uploadMs: 0 });
    expect(await engine.read([keys.quota(Number(directory))])).toEqual([null]);
    expect(await engine.readNumbers([keys.usage(Number(directory), 'bytes')])).toEqual([null]);
    expect(await listQuotas(engine, 'lake')).toEqual([]);
    await expectSound(volume);
  });

  test('what a tree has is counted while others work in it', async () => {
    const volume = await newVolume();
    const [open, other] = [await openTestVolume(volume), await openTestVolume(volume, 'b')];
    const engine = await openEngine(volume);
    const top = await makeDirectory(open, 'top');
    const folders: bigint[] = [];
    for (let n = 0; n < 8; n++) folders.push(await makeDirectory(open, `d${n}`, top));
    for (const folder of folders) {
      for (let n = 0; n < 30; n++) await writeFile(open, `f${n}`, Buffer.alloc(n), folder);
    }
    const inner = await makeDirectory(open, 'inner', folders[3]);
    await writeFile(open, 'deep', Buffer.alloc(77), inner);
    await setQuota(engine, 'lake', '/top/d3/inner', {});
    let counting = true;
    const work = async (): Promise<number> => {
      let rounds = 0;
      for (; counting; rounds++) {
        const [from, to] = [folders[rounds % 8] ?? 0n, folders[(rounds * 3 + 1) % 8] ?? 0n];
        await errnoOf(() => other.operations.rename(caller(), from, `f${rounds % 30}`, to, `moved${rounds}`, 0));
        const made = await writeFile(other, `new${rounds}`, Buffer.alloc(rounds), from);
        if (rounds % 3 === 0) await other.operations.setattr(caller(), made, { size: 7n });
        await writeFile(other, `i${rounds}`, Buffer.alloc(5), inner);
      }
      return rounds;
    };
    const [rounds] = await Promise.all([
      work(),
      setQuota(engine, 'lake', '/top', { bytesMax: 1e9 }).finally(() => (counting = false)),
    ]);
    expect(rounds).toBeGreaterThan(0);
    await expectSound(volume);
    const files = await getQuota(engine, 'lake', '/top');
    const all = await engine.readNumbers([keys.counter('inodes'), keys.counter('bytes')]);
    // All of the volume but its root and /top itself.
    expect([BigInt(files.inodes) + 2n, BigInt(files.bytes)]).toEqual(all);
  });

  test('the limit of the whole volume holds for all of it', async () => {
    const volume = await newVolume();
    const open = await openTestVolume(volume);
    const engine = await openEngine(volume);
    await writeFile(open, 'a', Buffer.alloc(4000));
    await setQuota(engine, 'lake', '/', { bytesMax: 10_000 });
    const other = await openTestVolume(volume, 'b');
    expect(await errnoOf(() => writeFile(other, 'b', Buffer.alloc(6001)))).toBe(EDQUOT);
    await other.operations.unlink(caller(), 1n, 'b');
    await writeFile(other, 'c', Buffer.alloc(6000));
    expect(await other.operations.statfs(caller(), 1n)).toMatchObject({ blocks: 3n, blocksFree: 0n });
    expect(await setQuota(engine, 'lake', '/', { bytesMax: null })).toMatchObject({ bytesMax: null, bytes: 10_000 });
    await expectSound(volume);
  });
}

onBothServices(suite);

test('setting a quota that is interrupted at any commit enforces nothing until it is given again, and then all', async () => {
  const counted = new FaultPlan();
  for (let call = 0, calls = 1; call < calls; call++) {
    const volume = await testVolume();
    const open = await openTestVolume(volume, `w${call}`);
    const engine = await openEngine(volume);
    const top = await makeDirectory(open, 'top');
    const inner = await makeDirectory(open, 'inner', await makeDirectory(open, 'mid', top));
    for (let n = 0; n < 3; n++) await writeFile(open, `f${n}`, Buffer.alloc(100), n === 0 ? top : inner);
    await setQuota(engine, 'lake', '/top/mid/inner', { bytesMax: 1000 });
    const moment = call % 2 === 0 ? 'before' : 'after';
    const plan = call === 0 ? counted : new FaultPlan({ call: call - 1, moment, operation: 'commit' });
    const outcome = setQuota(faultyEngine(engine, plan), 'lake', '/top', { bytesMax: 350 });
    if (call === 0) {
      await outcome;
      calls = plan.calls;
      await open.close();
      continue;
    }
    const failed = await outcome.then(
      () => false,
      () => true,
    );
    if (failed) await writeFile(open, 'meanwhile', Buffer.alloc(20), inner);
    expect(await setQuota(engine, 'lake', '/top', { bytesMax: 350 })).toMatchObject({
      bytes: failed ? 320 : 300,
      inodes: failed ? 6 : 5,
      counting: false,
    });
    expect(await errnoOf(() => writeFile(open, 'more', Buffer.alloc(51), inner))).toBe(EDQUOT);
    await open.operations.unlink(caller(), inner, 'more');
    await expectSound(volume);
    await open.close();
  }
  expect(counted.calls).toBeGreaterThan(4);
});

/** Sets a quota by a process that dies when a part is counted. */
async function interruptedQuota(volume: TestVolume, path: string): Promise<void> {
  const worker = await openEngine(volume);
  const plan = new FaultPlan({ call: 2, moment: 'before', operation: 'commit' });
  await expect(setQuota(faultyEngine(worker, plan), 'lake', path, { bytesMax: 1e9 })).rejects.toThrow('injected');
}

test('nested quotas that are set at once, or of which one was interrupted, count all in the end', async () => {
  const volume = await testVolume();
  const open = await openTestVolume(volume);
  const engine = await openEngine(volume);
  const outer = await makeDirectory(open, 'outer');
  const inner = await makeDirectory(open, 'inner', outer);
  const deep = await makeDirectory(open, 'deep', inner);
  for (let n = 0; n < 150; n++) await writeFile(open, `f${n}`, Buffer.alloc(10), inner);
  await writeFile(open, 'deep', Buffer.alloc(1000), deep);
  const count = (path: string): Promise<unknown> => setQuota(engine, 'lake', path, { bytesMax: 1e9 });
  await interruptedQuota(volume, '/outer/inner');
  expect(await getQuota(engine, 'lake', '/outer/inner')).toMatchObject({ counting: true });
  await expect(count('/outer')).rejects.toMatchObject({
    code: 'conflict',
    message: expect.stringContaining("'/outer/inner'") as unknown,
  });
  expect(await getQuota(engine, 'lake', '/outer')).toMatchObject({ counting: true });
  // In the outer one everything but the inner one counts by now.
  const other = await makeDirectory(open, 'other', outer);
  await writeFile(open, 'file', Buffer.alloc(500), other);
  await expect(count('/outer/other')).rejects.toMatchObject({
    code: 'conflict',
    message: expect.stringContaining("'/outer'") as unknown,
  });
  await count('/outer/inner');
  await count('/outer');
  await count('/outer/other');
  expect(await listQuotas(engine, 'lake')).toMatchObject([
    { path: '/outer', bytes: 3000, inodes: 155, counting: false },
    { path: '/outer/inner', bytes: 2500, inodes: 152, counting: false },
    { path: '/outer/other', bytes: 500, inodes: 1, counting: false },
  ]);
  await expectSound(volume);
});

test('fsck finds and repairs what counts wrongly', async () => {
  const volume = await testVolume();
  const open = await openTestVolume(volume);
  const engine = await openEngine(volume);
  const top = await makeDirectory(open, 'top');
  const mid = await makeDirectory(open, 'mid', top);
  await writeFile(open, 'f', Buffer.alloc(100), mid);
  await setQuota(engine, 'lake', '/top/mid', { bytesMax: 1000 });
  await open.operations.drain();
  await open.close();
  await engine.commit({
    write: [
      {
        key: keys.quota(Number(top)),
        value: encodeQuota({ outer: 0, bytesMax: 500, inodesMax: null, counting: false }),
      },
    ],
    patch: [{ number: keys.usage(Number(mid), 'bytes'), add: 55n }],
  });
  const { findings } = await fsckVolume({ ...volume, repair: true });
  const kinds = findings.map(({ kind, repaired }) => `${kind} ${String(repaired)}`);
  expect(new Set(kinds)).toEqual(new Set(['wrong-quota true', 'wrong-usage true']));
  expect(findings.map(({ text }) => text).join('\n')).toContain('/top/mid');
  await expectSound(volume);
  expect(await listQuotas(engine, 'lake')).toMatchObject([
    { path: '/top', bytes: 100, inodes: 2 },
    { path: '/top/mid', bytes: 100, inodes: 1 },
  ]);
});

test('the lake and what is no directory can have no quota', async () => {
  const volume = await testVolume();
  const open = await openTestVolume(volume);
  const engine = await openEngine(volume);
  await writeFile(open, 'file', Buffer.alloc(1));
  for (const path of ['/lake', '/lake/a', '/file', '/a/../b']) {
    await expect(setQuota(engine, 'lake', path, { bytesMax: 1 }), path).rejects.toMatchObject({ code: 'usage' });
  }
  await expect(setQuota(engine, 'lake', '/none', { bytesMax: 1 })).rejects.toMatchObject({ code: 'not-found' });
  await expect(getQuota(engine, 'lake', '/')).rejects.toMatchObject({ code: 'not-found' });
});
