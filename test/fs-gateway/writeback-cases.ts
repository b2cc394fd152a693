/** `-o writeback`: fsync and close return when the local disk has the bytes; they are committed behind, in order, and never dropped. */
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { mountStats, umountVolume } from '../../fs-gateway/main.ts';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openMeta } from '../../lib/registry.ts';
import { decodeInode } from '../../lib/volume/inode.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { mountTestVolume, openTestVolume } from '../support/fs-volume.ts';
import type { MountedVolume, NewVolume, TestVolume } from '../support/fs-volume.ts';
import { guardMount, isAlive, killIfAlive, run, until } from '../support/mount-guard.ts';
import { python, readElsewhere, sizeElsewhere } from './passthrough-volume.ts';

interface StagedStats {
  readonly writeback?: string;
  readonly stagedFiles: number;
  readonly stagedBytes: number;
  readonly oldestStagedMs?: number;
}

export async function stagedStats({ mountpoint }: MountedVolume): Promise<StagedStats> {
  const stats = await mountStats(mountpoint);
  return (stats.worker as unknown as { readonly volume: StagedStats }).volume;
}

/** The store takes no block of the volume any more, until the function that is returned is called. */
export function loseStore({ storeDir }: TestVolume, { format }: OpenVolume): () => void {
  const blocks = join(storeDir, format.id);
  mkdirSync(blocks, { recursive: true });
  renameSync(blocks, `${blocks}.away`);
  writeFileSync(blocks, 'not a directory');
  return () => {
    rmSync(blocks);
    renameSync(`${blocks}.away`, blocks);
  };
}

/** What is committed at this moment, past every cache: -1 when there is no such name. */
async function committedSize(engine: MetaEngine, name: string): Promise<number> {
  const keys = new VolumeKeys('lake');
  const { target } = await engine.follow(keys.entry(1, name), keys.entryToInode);
  return target === null ? -1 : decodeInode(target.value, 0).size;
}

const WRITE = `data = bytes(range(256)) * 4096
f = open(path, 'wb'); f.write(data); f.flush(); os.fsync(f.fileno()); f.close()
say(hashlib.sha256(open(path, 'rb').read()).hexdigest() == hashlib.sha256(data).hexdigest())`;
const WRITTEN = Buffer.concat(
  Array.from({ length: 4096 }, () => Buffer.from(Array.from({ length: 256 }, (_, n) => n))),
);

/** On volumes of any engine and store. */
export function writebackCases(newVolume: NewVolume): void {
  test('fsync and close return while the store is gone; stats and umount say what is staged; it is committed when the store is back', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { writeback: true });
    expect((await run('touch', [`${mount.mountpoint}/f`])).status).toBe(0);
    const restore = loseStore(volume, other);
    expect(await python(mount, 'f', WRITE)).toBe('True');
    await until('its age is shown', async () => ((await stagedStats(mount)).oldestStagedMs ?? 0) > 0);
    expect(await stagedStats(mount)).toMatchObject({ writeback: 'on', stagedFiles: 1, stagedBytes: WRITTEN.length });
    // Other nodes see what was committed last.
    expect(await sizeElsewhere(other, 'f')).toBe(0);
    await expect(umountVolume(mount.mountpoint)).rejects.toThrow(
      /stays mounted: 1 file with 1\.0 MB not written, staged in the cache directory/,
    );
    restore();
    await until('it is committed', async () => (await sizeElsewhere(other, 'f')) === WRITTEN.length);
    expect((await readElsewhere(other, 'f')).equals(WRITTEN)).toBe(true);
    await until('nothing is staged', async () => (await stagedStats(mount)).stagedFiles === 0);
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
  });

  test('what was synced is found again after a kill -9 of the whole mount, and after a forced umount', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { writeback: true });
    const restore = loseStore(volume, other);
    expect(await python(mount, 'large', WRITE)).toBe('True');
    expect(await python(mount, 'small', `f = open(path, 'w'); f.write('staged'); f.close(); say('ok')`)).toBe('ok');
    const { workerPid } = await mountStats(mount.mountpoint);
    killIfAlive(-mount.supervisorPid);
    await until('all are gone', () => !isAlive(Number(workerPid)) && !isAlive(mount.supervisorPid));
    // The next mount takes the dead one away, serves what is staged, and keeps it while the store is gone.
    const second = await mountTestVolume(volume, { writeback: true, at: mount });
    expect(await python(second, 'small', `say(open(path).read())`)).toBe('staged');
    expect(await umountVolume(second.mountpoint, { force: true })).toMatchObject({ flushed: false });
    restore();
    guardMount(mount.mountpoint);
    const third = await mountTestVolume(volume, { writeback: true, at: mount });
    await until('all is committed', async () => (await stagedStats(third)).stagedFiles === 0);
    expect((await readElsewhere(other, 'large')).equals(WRITTEN)).toBe(true);
    expect((await readElsewhere(other, 'small')).toString()).toBe('staged');
  });

  test('the worker killed under a writer: what was synced is committed, once and in full', async () => {
    const volume = await newVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, { writeback: true });
    const script = `for i in range(200):
    f = open(path + str(i), 'w'); f.write('line %d' % i); f.flush(); os.fsync(f.fileno()); f.close()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND); os.write(fd, b'%03d,' % i); os.fsync(fd); os.close(fd)
say('done')`;
    const writing = python(mount, 'f', script);
    for (let kills = 0; kills < 2; kills++) {
      const before = await mountStats(mount.mountpoint);
      process.kill(Number(before['workerPid']), 'SIGKILL');
      await until('another worker serves', async () => {
        const stats = await mountStats(mount.mountpoint);
        return stats['restarts'] !== before['restarts'] && stats['state'] === 'serving';
      });
    }
    expect(await writing).toBe('done');
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
    const numbers = Array.from({ length: 200 }, (_, i) => i);
    expect((await readElsewhere(other, 'f')).toString()).toBe(
      numbers.map((i) => `${String(i).padStart(3, '0')},`).join(''),
    );
    for (const i of [0, 99, 199]) expect((await readElsewhere(other, `f${i}`)).toString()).toBe(`line ${i}`);
  });

  test('other nodes see commits in the order of the closes, and no name before its content', async () => {
    const volume = await newVolume();
    const mount = await mountTestVolume(volume, { writeback: true });
    const script = `for i in range(100):
    f = open(path + str(i), 'wb'); f.write(bytes(1 + 70000 * (i % 2))); f.close()
f = open(path + 'new', 'w'); f.write('whole'); f.close(); os.rename(path + 'new', path + 'final')
say('done')`;
    let ended = false;
    const writing = python(mount, 'f', script).finally(() => (ended = true));
    const engine = await openMeta(volume.metaUrl, { kind: 'test' });
    let violations = 0;
    let seen = 0;
    while (!ended) {
      // From the last to the first: once one has content, all that are read after it (closed before it) have theirs.
      const sizes: number[] = [];
      for (let i = 99; i >= 0; i--) sizes.push(await committedSize(engine, `f${i}`));
      const first = sizes.findIndex((size) => size > 0);
      if (first > 0) seen++;
      if (first >= 0 && sizes.slice(first).some((size) => size <= 0)) violations++;
      const final = await committedSize(engine, 'ffinal');
      if (final >= 0 && final !== 5) violations++;
      await new Promise((resolve) => setImmediate(resolve));
    }
    await engine.close();
    expect(seen).toBeGreaterThan(0);
    expect(await writing).toBe('done');
    expect(violations).toBe(0);
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
  });
}
