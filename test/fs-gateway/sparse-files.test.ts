/** Files that are nearly all holes, of as many bytes as a disk takes: they cost what is in them, in every mode. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { mountStats, umountVolume } from '../../fs-gateway/main.ts';
import { mountTestVolume, openTestVolume, testVolume, type MountedVolume } from '../support/fs-volume.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount } from '../support/services.ts';
import { python, sizeElsewhere } from './passthrough-volume.ts';

/** The largest file of ext4: 16 TiB less a page. */
const BYTES = 2 ** 44 - 4096;
const WRITES = 100;
const MEMORY_BYTES_MAX = 100e6;

const MODES = [
  ['passthrough=full', { passthrough: 'full' }],
  ['passthrough=full with writeback', { passthrough: 'full', writeback: true }],
  ['passthrough=read', { passthrough: 'read' }],
  ['passthrough=off', { passthrough: 'off' }],
] as const;

/** Positions that follow from a seed; each write says where it is. */
const PLACES = `import random
random.seed(7)
places = sorted({random.randrange(0, ${BYTES} - 8) for _ in range(${WRITES})})`;
const READ = `${PLACES}
f = open(path, 'rb')
wrong = 0
for at in places:
    f.seek(at)
    wrong += f.read(8) != at.to_bytes(8, 'big')
for at in [0, ${BYTES} // 2, ${BYTES} - 4096]:
    f.seek(at)
    part = f.read(4096)
    wrong += not any(at <= place < at + 4096 or place < at < place + 8 for place in places) and part != bytes(4096)
say(os.stat(path).st_size, wrong)`;

/** The most that it ever had. */
async function memoryOf(mount: MountedVolume): Promise<number> {
  const { workerPid } = await mountStats(mount.mountpoint);
  const status = readFileSync(`/proc/${String(workerPid)}/status`, 'utf8');
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

describe.skipIf(cannotMount())('a file of 16 TiB', () => {
  test.for(MODES)('with writes all over it costs some megabytes: %s', async ([, mode], { skip }) => {
    if (mode.passthrough !== 'off' && cannotPassThrough()) skip('the kernel passes nothing through');
    const volume = await testVolume();
    const mount = await mountTestVolume(volume, mode);
    // Everything has been used once.
    await python(mount, 'small', "f = open(path, 'wb'); f.write(b'x' * 3000000); f.close(); say('ok')");
    const before = await memoryOf(mount);
    const made = await python(
      mount,
      'f',
      `f = open(path, 'w+b'); f.truncate(${BYTES}); f.close(); say(os.stat(path).st_size)`,
    );
    expect(made).toBe(String(BYTES));
    const wrote = `${PLACES}
f = open(path, 'r+b', buffering=0)
for at in places:
    f.seek(at)
    f.write(at.to_bytes(8, 'big'))
os.fsync(f.fileno())
f.seek(places[0])
f.write(places[0].to_bytes(8, 'big'))
f.close()
say('ok')`;
    expect(await python(mount, 'f', wrote)).toBe('ok');
    expect(await python(mount, 'f', READ)).toBe(`${BYTES} 0`);
    expect((await memoryOf(mount)) - before).toBeLessThan(MEMORY_BYTES_MAX);
    expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });

    const elsewhere = await mountTestVolume(volume, mode);
    expect(await python(elsewhere, 'f', READ)).toBe(`${BYTES} 0`);
    const other = await openTestVolume(volume, 'other');
    expect(await sizeElsewhere(other, 'f')).toBe(BYTES);
    // Cut and made long again: the rest reads as zeros.
    const cut = `f = open(path, 'r+b'); f.truncate(10); f.truncate(${BYTES}); f.seek(${BYTES} - 4096); rest = f.read(4096); f.close(); say(rest == bytes(4096))`;
    expect(await python(elsewhere, 'f', cut)).toBe('True');
    expect(await umountVolume(elsewhere.mountpoint)).toMatchObject({ flushed: true });
    expect(await sizeElsewhere(await openTestVolume(volume, 'last'), 'f')).toBe(BYTES);
  });
});
