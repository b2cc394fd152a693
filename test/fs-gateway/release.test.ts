/** The last close of a file whose commit waits, and a kill of the worker meanwhile. */
import { DatabaseSync } from 'node:sqlite';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mountStats } from '../../fs-gateway/main.ts';
import { mountTestVolume, testVolume } from '../support/fs-volume.ts';
import type { MountedVolume } from '../support/fs-volume.ts';
import { until } from '../support/mount-guard.ts';
import { cannotMount } from '../support/services.ts';
import { converse } from './passthrough-volume.ts';

/** What a mapping wrote after close(2) is found by the release. The last word is said when a file that nobody had open would be gone. */
const SCRIPT = `
f = os.open(path, os.O_RDWR | os.O_CREAT); os.write(f, b'a' * 300000)
m = Mapping(f, 300000); os.close(f)
say('closed'); hear()
m.store(0, b'b' * 4096); m.close()
say('released'); hear()
g = os.open(path, os.O_RDWR)
say('open'); hear()
os.unlink(path); time.sleep(1)
os.posix_fadvise(g, 0, 0, os.POSIX_FADV_DONTNEED)
say((os.pread(g, 3, 0) + os.pread(g, 3, 299997)).decode()); hear()`;

describe.skipIf(cannotMount())('a release', () => {
  test('is counted once, though the worker dies before the commit behind it: another handle keeps its file', async () => {
    const volume = await testVolume({ trash: '0s' });
    const mount = await mountTestVolume(volume);
    const program = converse(mount, 'f', SCRIPT);
    expect(await program.hear()).toBe('closed');
    const engine = new DatabaseSync(join(volume.base, 'meta.db'));
    engine.exec('BEGIN IMMEDIATE');
    program.say('go on');
    expect(await program.hear()).toBe('released');
    await until('the release is there', async () => (await releases(mount)) > 0);
    program.say('go on');
    expect(await program.hear()).toBe('open');
    const { workerPid, restarts } = await mountStats(mount.mountpoint);
    process.kill(Number(workerPid), 'SIGKILL');
    engine.exec('ROLLBACK');
    engine.close();
    await until('another worker serves', async () => {
      const stats = await mountStats(mount.mountpoint);
      return stats['restarts'] !== restarts && stats['state'] === 'serving';
    });
    program.say('go on');
    expect(await program.hear()).toBe('bbbaaa');
    program.running.child.kill('SIGKILL');
    await program.running.finished;
  });
});

/** Answered, or waiting for its answer. */
async function releases(mount: MountedVolume): Promise<number> {
  const { worker } = (await mountStats(mount.mountpoint)) as {
    readonly worker?: { readonly inFlight: number; readonly operations: Record<string, { readonly count: number }> };
  };
  return (worker?.inFlight ?? 0) + (worker?.operations['release']?.count ?? 0);
}
