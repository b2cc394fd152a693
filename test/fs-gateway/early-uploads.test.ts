/** `-o passthrough=full`: what a program writes through the kernel is uploaded while the file grows, also over a worker that is killed. */
import { describe, expect, test } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import { mountTestVolume, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { MountedVolume } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount } from '../support/services.ts';
import { converse, killWorker, readElsewhere, sha, sizeElsewhere } from './passthrough-volume.ts';

const BLOCK = 262_144;

async function uploadedBytes({ mountpoint }: MountedVolume): Promise<number> {
  const stats = await mountStats(mountpoint);
  return (
    (stats['worker'] as { readonly volume?: { readonly uploadedBytes: number } } | undefined)?.volume?.uploadedBytes ??
    0
  );
}

describe.skipIf(cannotMount() || cannotPassThrough())('a file that grows, with passthrough=full', () => {
  test.each([false, true])(
    'is in the store before it is closed, also over kill -9 (writeback %s)',
    async (writeback) => {
      const volume = await testVolume({ blockSize: '256KiB' });
      const other = await openTestVolume(volume, 'other');
      const mount = await mountTestVolume(volume, { passthrough: 'full', writeback });
      const program = converse(
        mount,
        'f',
        `f = open(path, 'wb'); h = hashlib.sha256()
for part in range(2):
    data = os.urandom(8 * ${BLOCK}); h.update(data); f.write(data); f.flush(); say('written'); hear()
f.write(b'end'); h.update(b'end'); f.close(); say(h.hexdigest())`,
      );
      expect(await program.hear()).toBe('written');
      await until('the first half is uploaded', async () => (await uploadedBytes(mount)) === 8 * BLOCK);
      expect(await sizeElsewhere(other, 'f')).toBe(0);
      await killWorker(mount);
      program.say('go on');
      expect(await program.hear()).toBe('written');
      // The next worker knows of none of it.
      await until('all is uploaded', async () => (await uploadedBytes(mount)) === 16 * BLOCK);
      program.say('go on');
      const expected = await program.hear();
      await until('it is committed', async () => (await sizeElsewhere(other, 'f')) === 16 * BLOCK + 3);
      expect(await uploadedBytes(mount)).toBe(16 * BLOCK + 3);
      expect(sha(await readElsewhere(other, 'f'))).toBe(expected);
    },
  );
});
