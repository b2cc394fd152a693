/** `-o passthrough=full,writeback`: the kernel writes the local file, fsync and close promise what it has then, and commits follow. */
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mountStats, umountVolume } from '../../fs-gateway/main.ts';
import { decodeWhole, encodeWhole } from '../../fs-gateway/data/whole-record.ts';
import { mountTestVolume, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { guardMount, isAlive, killIfAlive, until } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount } from '../support/services.ts';
import {
  appendElsewhere,
  converse,
  killWorker,
  python,
  readElsewhere,
  sha,
  sizeElsewhere,
  writeElsewhere,
} from './passthrough-volume.ts';
import { random } from './passthrough-random.ts';
import { loseStore, stagedStats } from './writeback-cases.ts';

const MODE = { passthrough: 'full', writeback: true } as const;
const WRITTEN = Buffer.alloc(3_000_000, 'w');
const WRITE = `f = open(path, 'wb'); f.write(b'w' * 3000000); f.flush(); os.fsync(f.fileno()); say('synced')`;

describe.skipIf(cannotMount() || cannotPassThrough())('passthrough=full with writeback', () => {
  test('fsync and close return while the store is gone, and others have the content when it is back', async () => {
    const volume = await testVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, MODE);
    const restore = loseStore(volume, other);
    expect(await python(mount, 'f', WRITE)).toBe('synced');
    expect(await sizeElsewhere(other, 'f')).toBe(0);
    restore();
    await until('it is committed', async () => (await sizeElsewhere(other, 'f')) === WRITTEN.length);
    expect((await readElsewhere(other, 'f')).equals(WRITTEN)).toBe(true);
    await until('nothing is staged', async () => (await stagedStats(mount)).stagedFiles === 0);
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
  });

  test('what fsync answered is found again after a power cut, behind what others have appended; what it had not answered is not guessed', async () => {
    const volume = await testVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, MODE);
    expect(await python(mount, 'log', `f = open(path, 'w'); f.write('first,'); f.close(); say('ok')`)).toBe('ok');
    await until('it is committed', async () => (await sizeElsewhere(other, 'log')) === 6);
    const restore = loseStore(volume, other);
    expect(await python(mount, 'f', WRITE)).toBe('synced');
    const program = converse(
      mount,
      'log',
      `plain = os.open(path, os.O_RDWR); log = os.open(path, os.O_WRONLY | os.O_APPEND)
os.write(log, b'appended,'); os.fsync(log)
never = os.open(path + '-never', os.O_RDWR | os.O_CREAT); os.write(never, bytes(1000)); say('written'); hear()`,
    );
    expect(await program.hear()).toBe('written');
    const { workerPid } = await mountStats(mount.mountpoint);
    killIfAlive(-mount.supervisorPid);
    await until('all are gone', () => !isAlive(Number(workerPid)) && !isAlive(mount.supervisorPid));
    program.running.child.kill('SIGKILL');
    await program.running.finished;
    afterBoot(mount.base, 3);
    restore();
    await appendElsewhere(other, 'log', 'theirs,');
    const next = await mountTestVolume(volume, { ...MODE, at: mount });
    await until('all is committed', async () => (await stagedStats(next)).stagedFiles === 0);
    await until('it is heard of', async () => (await sizeElsewhere(other, 'log')) === 22);
    expect((await readElsewhere(other, 'log')).toString()).toBe('first,theirs,appended,');
    expect((await readElsewhere(other, 'f')).equals(WRITTEN)).toBe(true);
    expect(await sizeElsewhere(other, 'log-never')).toBe(0);
  });

  test('what was committed before an orderly umount is not committed again by a mount after the next boot, over what others have written', async () => {
    const volume = await testVolume();
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, MODE);
    const restore = loseStore(volume, other);
    expect(await python(mount, 'f', WRITE)).toBe('synced');
    await expect(umountVolume(mount.mountpoint)).rejects.toThrow(/stays mounted: 1 file with/);
    restore();
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
    const theirs = Buffer.alloc(WRITTEN.length, 't');
    await writeElsewhere(other, 'f', theirs);
    afterBoot(mount.base, 1);
    guardMount(mount.mountpoint);
    const next = await mountTestVolume(volume, { ...MODE, at: mount });
    await until('nothing is staged', async () => (await stagedStats(next)).stagedFiles === 0);
    expect(await umountVolume(next.mountpoint)).toMatchObject({ flushed: true });
    expect((await readElsewhere(other, 'f')).equals(theirs)).toBe(true);
  });

  test('random writes, mappings, cuts and syncs under kills of the worker give what a local disk gives, and are committed', async () => {
    const volume = await testVolume({ blockSize: '256KiB' });
    const other = await openTestVolume(volume, 'other');
    const mount = await mountTestVolume(volume, MODE);
    const seed = Date.now() % 1_000_000;
    let running = 1;
    const writing = random(mount, 'f', seed, 150).finally(() => running--);
    for (let kills = 0; kills < 2 && running > 0; kills++) await killWorker(mount);
    expect(await writing, `seed ${seed}`).toBe('equal');
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
    const expected = sha(readFileSync(join(mount.base, 'oracle-f')));
    await until(`seed ${seed} is heard of`, async () => sha(await readElsewhere(other, 'f')) === expected);
  });
});

/** The machine was started since: nothing but the boot id tells. */
function afterBoot(base: string, liveFiles: number): void {
  const lives = globSync(join(base, 'cache', '*', 'mount-*', 'life'));
  for (const path of lives) writeFileSync(path, readFileSync(path, 'utf8').replace(/\n.*\n/, '\nearlier boot\n'));
  const records = globSync(join(base, 'cache', '*', 'mount-*', 'whole', '*', '*.base'));
  expect([lives.length, records.length]).toEqual([1, liveFiles]);
  for (const path of records) {
    const record = decodeWhole(readFileSync(path), path);
    writeFileSync(path, encodeWhole({ ...record, bootId: 'earlier boot' }));
  }
}
