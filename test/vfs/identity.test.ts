/** Two mounts never take each other for one, whatever they have in common. */
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { mountIdOf } from '../../fs-gateway/mount-identity.ts';
import { thisProcess } from '../../lib/process-identity.ts';
import { openMeta } from '../../lib/registry.ts';
import { lookUp, writeFile } from '../tools/volume-files.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';

const SAME = { mountpoint: '/nowhere/same' };

test('of two containers with one host name and mount point, neither removes what the other has open', async () => {
  const volume = await testVolume();
  const a = await openTestVolume(volume, 'a', [], 'lake', { ...SAME, mountLife: 'life-a' });
  const b = await openTestVolume(volume, 'b', [], 'lake', { ...SAME, mountLife: 'life-b' });
  await writeFile(a, 'file', Buffer.from('content'));
  const { ino } = await lookUp(b, 1n, 'file');
  const { handle } = await b.operations.open(caller(), ino, 0);
  await a.operations.unlink(caller(), 1n, 'file');
  await a.operations.drain();
  await a.close();
  expect((await b.operations.read(caller(), ino, handle, 0n, 7, 0)).toString()).toBe('content');
  await b.operations.release(caller(), ino, handle, undefined);
});

test('a mount that is mounted again, or over a copy of its cache that nobody uses, has its identity', async () => {
  const volume = await testVolume();
  for (const life of ['first', 'second']) {
    const open = await openTestVolume(volume, 'a', [], 'lake', { ...SAME, mountLife: life });
    await open.close();
  }
  cpSync(join(volume.base, 'cache-a'), join(volume.base, 'cache-copy'), { recursive: true });
  const copy = await openTestVolume(volume, 'copy', [], 'lake', { ...SAME, mountLife: 'copy' });
  await expect(openTestVolume(volume, 'a', [], 'lake', { ...SAME, mountLife: 'third' })).rejects.toMatchObject({
    code: 'held',
    message: expect.stringMatching(/nowhere\/same .* is mounted with the identity of this mount: .*cache-a /) as string,
  });
  await copy.close();
  const original = await openTestVolume(volume, 'a', [], 'lake', { ...SAME, mountLife: 'fourth' });
  await writeFile(original, 'file', Buffer.from('content'));
});

test('a mount that was killed on this machine is followed at once, though its session is still live', async () => {
  const volume = await testVolume();
  const mountId = mountIdOf(join(volume.base, 'cache-a'), SAME.mountpoint);
  // Of a process that had our id before us.
  const detail = {
    volume: 'lake',
    mountpoint: SAME.mountpoint,
    mountId,
    lockOwner: 'killed',
    ...thisProcess,
    born: '1',
  };
  const killed = await openMeta(volume.metaUrl, { kind: 'mount', detail, leaseMs: 600_000 });
  onTestFinished(() => killed.close());
  const next = await openTestVolume(volume, 'a', [], 'lake', { ...SAME, mountLife: 'next' });
  await writeFile(next, 'file', Buffer.from('content'));
  // What it may still have on its way comes to nothing.
  const late = { write: [{ key: { bucket: '{lake}x', field: 'y' }, value: Buffer.from('late') }] };
  await expect(killed.commit(late)).rejects.toMatchObject({ code: 'fenced' });
});
