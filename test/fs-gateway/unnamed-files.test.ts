/** Files that are made without a name (O_TMPFILE), written, mapped and named, while the worker is killed again and again. */
import { describe, expect, test } from 'vitest';
import { umountVolume } from '../../fs-gateway/main.ts';
import { fsckVolume } from '../../fs-gateway/tools/main.ts';
import { mountTestVolume, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount } from '../support/services.ts';
import { killWorker, python, readElsewhere, sha } from './passthrough-volume.ts';

const FILES = 20;

const PROGRAM = `where = os.path.dirname(path)
for n in range(${FILES}):
    fd = os.open(where, os.O_TMPFILE | os.O_RDWR, 0o644)
    assert os.fstat(fd).st_nlink == 0
    os.write(fd, bytes([65 + n % 26]) * 100000)
    m = Mapping(fd, 100000); m.store(50000, b'stored %03d' % n); m.close()
    if n % 3 == 0: os.fsync(fd)
    # linkat(2) with AT_SYMLINK_FOLLOW; Python's os.link does not give it.
    if n % 2 == 0: assert libc.linkat(-100, b'/proc/self/fd/%d' % fd, -100, f'{where}/named-{n}'.encode(), 0x400) == 0, os.strerror(ctypes.get_errno())
    os.pwrite(fd, b'behind its name', 99000)
    os.close(fd)
say('done')`;

describe.skipIf(cannotMount())('files without names, under kills of the worker', () => {
  test.for(['off', 'full'] as const)(
    'are named whole or go with their last close (passthrough=%s)',
    async (mode, context) => {
      context.skip(mode !== 'off' && cannotPassThrough(), 'no passthrough here');
      const volume = await testVolume();
      const mount = await mountTestVolume(volume, { passthrough: mode });
      let running = 1;
      const program = python(mount, 'any', PROGRAM).finally(() => running--);
      program.catch(() => undefined); // Awaited behind the kills.
      let kills = 0;
      for (; kills < 4 && running > 0; kills++) await killWorker(mount);
      expect(await program).toBe('done');
      expect(kills).toBeGreaterThan(0);
      const other = await openTestVolume(volume, 'other');
      for (let n = 0; n < FILES; n += 2) {
        const expected = Buffer.alloc(100_000, 65 + (n % 26));
        expected.write(`stored ${String(n).padStart(3, '0')}`, 50_000);
        expected.write('behind its name', 99_000);
        const name = `named-${n}`;
        await until(`${name} is heard of`, async () => sha(await readElsewhere(other, name)) === sha(expected));
      }
      expect(await umountVolume(mount.mountpoint)).toMatchObject({ flushed: true });
      await other.close();
      expect((await fsckVolume(volume)).findings).toEqual([]);
    },
  );
});
