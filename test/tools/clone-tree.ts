/** A tree with all kinds of content, to be cloned. */
import { expect } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import type { CloneOptions } from '../../fs-gateway/tools/clone.ts';
import { systemClock } from '../../lib/clock.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { contentAt, makeDirectory, namesIn, walk, writeFile } from './volume-files.ts';
import { openBench } from './volume-bench.ts';
import type { VolumeBench } from './volume-bench.ts';

export const keys = new VolumeKeys('lake');
export const OPTIONS = { blockSize: '64KiB', inlineBytes: '100', grace: '0s' };
export const LARGE = Buffer.alloc(200_000, 'large ');

export interface Bench extends VolumeBench {
  readonly options: CloneOptions;
}

export async function bench(volume: TestVolume): Promise<Bench> {
  const all = await openBench(volume);
  return { ...all, options: { engine: all.engine, volume: 'lake', clock: systemClock } };
}

let readers = 0;

export async function reader({ volume }: Bench): Promise<OpenVolume> {
  return openTestVolume(volume, `reader${readers++}`);
}

/** A tree with all kinds of content. */
export async function makeTree({ open, engine }: Bench): Promise<bigint> {
  const top = await makeDirectory(open, 'top');
  const deep = await makeDirectory(open, 'deep', top);
  await writeFile(open, 'small', Buffer.from('small'), top);
  const large = await writeFile(open, 'large', LARGE, deep);
  await open.operations.link(caller(), large, top, 'link');
  await open.operations.symlink(caller(), deep, 'symlink', Buffer.from('../small'));
  await open.operations.setxattr(caller(), large, 'user.color', Buffer.from('red'), 0, false);
  await open.operations.setxattr(caller(), deep, 'user.of', Buffer.from('deep'), 0, false);
  await open.operations.setattr(caller(), deep, { mode: 0o2750, uid: 7, gid: 8, mtimeNs: 12_345n });
  // A file with pages of extents.
  const paged = await writeFile(open, 'paged', Buffer.from('x'), deep);
  for (let n = 0; n < 70; n++) {
    await open.operations.write(caller(), paged, 0n, BigInt(n * 200_000), Buffer.from(`piece ${n}`), 2, false);
    if (n % 10 === 9) await open.operations.fsync(caller(), paged, 0n, false);
  }
  await open.operations.fsync(caller(), paged, 0n, false);
  expect(await engine.count(keys.pages(Number(paged)))).toBeGreaterThan(0);
  return top;
}

export async function expectTree(open: OpenVolume, path: string): Promise<void> {
  const top = await walk(open, path);
  expect(await namesIn(open, top)).toEqual(['deep', 'link', 'small']);
  expect((await contentAt(open, `${path}/small`)).toString()).toBe('small');
  expect((await contentAt(open, `${path}/deep/large`)).equals(LARGE)).toBe(true);
  const paged = await contentAt(open, `${path}/deep/paged`);
  expect(paged.length).toBe(69 * 200_000 + 8);
  expect(paged.toString('latin1', 13_800_000)).toBe('piece 69');
  const [large, link] = [await walk(open, `${path}/deep/large`), await walk(open, `${path}/link`)];
  expect(large).toBe(link);
  expect((await open.operations.getattr(caller(), large, undefined)).attributes.nlink).toBe(2);
  expect((await open.operations.getxattr(caller(), large, 'user.color')).toString()).toBe('red');
  const deep = await walk(open, `${path}/deep`);
  expect((await open.operations.getattr(caller(), deep, undefined)).attributes).toMatchObject({
    mode: 0o042750,
    uid: 7,
    gid: 8,
  });
  expect((await open.operations.getxattr(caller(), deep, 'user.of')).toString()).toBe('deep');
  expect((await open.operations.readlink(caller(), await walk(open, `${path}/deep/symlink`))).toString()).toBe(
    '../small',
  );
}
