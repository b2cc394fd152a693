/** Two mounts never take each other for one, whatever they have in common. */
import { cpSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { FIXED_BYTES, FrameKind } from '../../fs-gateway/data/journal-frames.ts';
import { mountIdOf } from '../../fs-gateway/mount-identity.ts';
import { thisProcess } from '../../lib/process-identity.ts';
import { openMeta } from '../../lib/registry.ts';
import { readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { lookUp, writeFile } from '../tools/volume-files.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';

const O_WRONLY = 1;
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

/** A copy of a cache directory in which something is staged of each of these files; then it was committed. Their inodes. */
async function copyWithStaged(volume: TestVolume, names: readonly string[]): Promise<bigint[]> {
  const first = await openTestVolume(volume, 'a', [], 'lake', { ...SAME, mountLife: 'first' });
  const { operations } = first;
  const staged = [];
  for (const name of names) {
    const { ino } = await lookUp(first, 1n, name);
    const { handle } = await operations.open(caller(), ino, O_WRONLY);
    await operations.write(caller(), ino, handle, 0n, Buffer.from('mine'), O_WRONLY, false);
    staged.push({ ino, handle });
  }
  cpSync(join(volume.base, 'cache-a'), join(volume.base, 'cache-copy'), { recursive: true });
  for (const { ino, handle } of staged) {
    await operations.flush(caller(), ino, handle, 0n);
    await operations.release(caller(), ino, handle, undefined);
  }
  await first.close();
  return staged.map(({ ino }) => ino);
}

test('a mount over a copy of a cache directory commits nothing of it over what others have written since', async () => {
  const volume = await testVolume({ inlineBytes: '0' });
  const others = await openTestVolume(volume, 'others');
  const names = ['changed', 'left'];
  for (const name of names) await writeElsewhere(others, name, Buffer.alloc(100_000, 'a'));
  await copyWithStaged(volume, names);
  await writeElsewhere(others, 'changed', Buffer.from('theirs'));
  const copy = await openTestVolume(volume, 'copy', [], 'lake', { ...SAME, mountLife: 'copy' });
  expect((await readElsewhere(copy, 'changed')).toString('latin1', 0, 8)).toBe('theirsaa');
  expect((await readElsewhere(copy, 'left')).toString('latin1', 0, 8)).toBe('mineaaaa');
  // What was written there is no secret: a person may want it.
  expect(copy.stats()).toMatchObject({ stagedFiles: 0, keptAside: 1 });
});

test('what is staged upon a version that was lost with a damaged frame is kept aside, and not written over what others have written', async () => {
  const volume = await testVolume({ inlineBytes: '0' });
  const others = await openTestVolume(volume, 'others');
  await writeElsewhere(others, 'changed', Buffer.alloc(100_000, 'a'));
  const [ino] = await copyWithStaged(volume, ['changed']);
  await writeElsewhere(others, 'changed', Buffer.from('theirs'));
  const [path = ''] = globSync(join(volume.base, 'cache-copy', '**', 'journal'));
  const journal = readFileSync(path);
  const base = Buffer.alloc(9);
  base.writeUInt8(FrameKind.BASE, 0);
  base.writeDoubleLE(Number(ino), 1);
  expect(journal.includes(base)).toBe(true);
  journal.writeUInt8(0xff, journal.indexOf(base) + FIXED_BYTES);
  writeFileSync(path, journal);
  const copy = await openTestVolume(volume, 'copy', [], 'lake', { ...SAME, mountLife: 'copy' });
  expect((await readElsewhere(copy, 'changed')).toString('latin1', 0, 8)).toBe('theirsaa');
  expect(copy.stats()).toMatchObject({ stagedFiles: 0, keptAside: 1 });
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
