/** A dump of the volume is loaded while a node sleeps, after its metadata were lost: an inode number of then may be another file's now. */
import { appendFileSync, existsSync, globSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { OpenVolume, VolumeOptions } from '../../fs-gateway/open-volume.ts';
import { dumpToFile, loadFromFile } from '../../fs-gateway/tools/main.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller, openTestVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';
import { playKernel } from '../support/played-kernel.ts';
import { loseMetadata, onBothServices, openEngine } from '../tools/volume-bench.ts';
import { errnoOf } from '../tools/volume-files.ts';
import { BLOCK, HOUR_MS, sleeper, SMALL } from './sleeper.ts';
import type { Sleeper } from './sleeper.ts';

const CONTENT = Buffer.alloc(3 * BLOCK, 'a');
const NAMES = ['f', 'small', 'new'];

/** The metadata are lost and loaded while the node sleeps, and files are made by others since. */
async function restore({ volume, other, sleep }: Sleeper, path = join(volume.base, 'dump')): Promise<OpenVolume> {
  await other.close();
  await loseMetadata(await openEngine(volume));
  await sleep(HOUR_MS);
  await loadFromFile({ metaUrl: volume.metaUrl, path });
  const anew = await openTestVolume(volume, 'anew');
  for (const name of NAMES) await writeElsewhere(anew, name, CONTENT);
  return anew;
}

/** The mount point is mounted again, by another mount or by another worker of the same. */
async function mountAgain({ volume }: Sleeper, reports: string[], more: Partial<VolumeOptions>): Promise<OpenVolume> {
  const cacheDir = join(volume.base, 'cache-sleeper');
  return openTestVolume(volume, 'sleeper', reports, 'lake', { cacheDir, ...more });
}

function keptIn({ base }: TestVolume): Record<string, string> {
  const paths = globSync(join(base, 'cache-sleeper', '*', 'mount-*', 'aside', '*.json'));
  return Object.fromEntries(
    paths.map((path) => {
      const { inode } = JSON.parse(readFileSync(path, 'utf8')) as { readonly inode: number };
      return [inode, readFileSync(path.slice(0, -'.json'.length), 'latin1').replaceAll('\0', '')];
    }),
  );
}

async function expectUntouched(anew: OpenVolume): Promise<void> {
  for (const name of NAMES) expect((await readElsewhere(anew, name)).equals(CONTENT), name).toBe(true);
}

onBothServices((newVolume) => {
  test('a node that slept meanwhile commits nothing, and the next mount there keeps aside what it had staged', async () => {
    const asleep = await sleeper({ mountLife: 'one' }, await newVolume(SMALL));
    const { volume, open, other, reports, write } = asleep;
    await writeElsewhere(other, 'f', CONTENT);
    await writeElsewhere(other, 'small', Buffer.from('small'));
    await dumpToFile({ metaUrl: volume.metaUrl, path: join(volume.base, 'dump') });
    await writeElsewhere(other, 'late', CONTENT);
    const inos = [
      await write('f', 2 * BLOCK, Buffer.alloc(BLOCK, 'mine')),
      await write('small', 5, Buffer.from(' and staged')),
      await write('late', 0, Buffer.from('of no dump')),
    ];
    const anew = await restore(asleep);
    const flushed = Promise.all(inos.map((ino) => errnoOf(() => open.operations.flush(caller(), ino, 0n, 0n))));
    flushed.catch(() => undefined); // It waits for a session, and fails when none comes.
    await expect
      .poll(() => reports.join('\n'))
      .toMatch(
        /volume 'lake' was loaded from a dump meanwhile, and what is staged here is not committed to it: unmount/,
      );
    await expectUntouched(anew);
    await open.close();

    await expect(mountAgain(asleep, [], { mountLife: 'one' })).rejects.toThrow(
      /a dump of it was loaded since: unmount/,
    );
    expect(keptIn(volume)).toEqual({});
    const told: string[] = [];
    const next = await mountAgain(asleep, told, { mountLife: 'two' });
    await expect.poll(() => next.stats()).toMatchObject({ keptAside: 3, stagedFiles: 0 });
    await next.close();
    const [f, small, late] = inos.map(Number);
    const kept = {
      [`${f}`]: Buffer.alloc(BLOCK, 'mine').toString(),
      [`${small}`]: ' and staged',
      [`${late}`]: 'of no dump',
    };
    expect(keptIn(volume)).toEqual(kept);
    for (const ino of inos)
      expect(told.join('\n')).toMatch(new RegExp(`inode ${ino} was changed here before a dump .* is kept in /`));
    // What could be fetched again of that life is gone.
    expect(existsSync(join(volume.base, 'cache-sleeper', next.format.id, 'blocks'))).toBe(false);
    await expectUntouched(anew);

    const third = await mountAgain(asleep, [], { mountLife: 'three' });
    expect(third.stats()).toMatchObject({ keptAside: 3 });
    await third.close();
    expect(keptIn(volume)).toEqual(kept);
  });

  test('each load is another life of the volume, also one of a dump of what was loaded', async () => {
    const volume = await newVolume(SMALL);
    const engine = await openEngine(volume);
    const lives = new Set<string | undefined>();
    for (const dump of ['one', 'two', 'three']) {
      const format = await readFormat(engine, 'lake');
      lives.add(format?.loaded);
      const path = join(volume.base, dump);
      await dumpToFile({ metaUrl: volume.metaUrl, path });
      await loseMetadata(engine);
      await loadFromFile({ metaUrl: volume.metaUrl, path });
      expect(await readFormat(engine, 'lake')).toEqual({ ...format, loaded: expect.any(String) as string });
    }
    expect(lives.size).toBe(3);
    expect([...lives][0]).toBeUndefined();
  });
});

test('a node that slept while the volume was loaded twice keeps aside what it staged in between', async () => {
  const first = await sleeper();
  await writeElsewhere(first.other, 'f', CONTENT);
  await dumpToFile({ metaUrl: first.volume.metaUrl, path: join(first.volume.base, 'dump') });
  await first.open.close();
  await (await restore(first)).close();
  const second = await sleeper({ mountLife: 'two' }, first.volume);
  const ino = await second.write('new', 0, Buffer.from('mine'));
  const anew = await restore(second, join(first.volume.base, 'dump'));
  await second.open.close();
  const next = await mountAgain(second, [], { mountLife: 'three' });
  await expect.poll(() => next.stats()).toMatchObject({ keptAside: 1, stagedFiles: 0 });
  await next.close();
  expect(keptIn(first.volume)).toEqual({ [String(ino)]: 'mine' });
  await expectUntouched(anew);
});

test('what the kernel wrote by itself before the load (passthrough=full) is kept aside, and files that it only read are not', async () => {
  const kernel = playKernel(false);
  const asleep = await sleeper({ mountLife: 'one', passthrough: 'full', kernel, cacheBytes: 256e6 });
  const { volume, open } = asleep;
  await dumpToFile({ metaUrl: volume.metaUrl, path: join(volume.base, 'dump') });
  const inos: bigint[] = [];
  for (const name of ['written', 'committed']) {
    const { entry, open: file } = await open.operations.create(caller(), 1n, name, 0o644, 2, 0);
    appendFileSync(kernel.backing.get(file.backingId ?? 0) ?? '', CONTENT);
    await open.operations.flush(caller(), entry.attributes.ino, file.handle, 0n);
    inos.push(entry.attributes.ino);
  }
  appendFileSync(kernel.backing.get(1) ?? '', 'by the kernel');
  const anew = await restore(asleep);
  await open.close();
  const next = await mountAgain(asleep, [], { mountLife: 'two' });
  await expect.poll(() => next.stats()).toMatchObject({ keptAside: 1 });
  await next.close();
  expect(keptIn(volume)).toEqual({ [String(inos[0])]: 'by the kernel' });
  await expectUntouched(anew);
});

test('what cannot be kept aside stays staged until a mount can, and the mounts go on', async () => {
  const asleep = await sleeper({ mountLife: 'one' });
  const { volume, open, other, write } = asleep;
  await writeElsewhere(other, 'f', CONTENT);
  await dumpToFile({ metaUrl: volume.metaUrl, path: join(volume.base, 'dump') });
  const ino = await write('f', 0, Buffer.from('mine'));
  const anew = await restore(asleep);
  await open.close();
  const [folder = ''] = globSync(join(volume.base, 'cache-sleeper', '*', 'mount-*'));
  writeFileSync(join(folder, 'aside'), 'a file, and no directory');
  const told: string[] = [];
  const next = await mountAgain(asleep, told, { mountLife: 'two' });
  await expect.poll(() => told.join('\n')).toMatch(/what is left in .* is of the time before a dump .* stays there: /);
  await writeElsewhere(next, 'g', CONTENT);
  await next.close();
  rmSync(join(folder, 'aside'));
  const third = await mountAgain(asleep, told, { mountLife: 'three' });
  await expect.poll(() => third.stats()).toMatchObject({ keptAside: 1 });
  expect(keptIn(volume)).toEqual({ [String(ino)]: 'mine' });
  await expectUntouched(anew);
});
