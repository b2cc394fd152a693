/** What an open asks the engine for: the inode alone, where its version says that the names are those that led to it. */
import { expect, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { VolumeView } from '../../fs-gateway/meta/view.ts';
import { RENAME_EXCHANGE } from '../../fs-gateway/vfs/operations.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { openEngine } from '../tools/volume-bench.ts';
import { lookUp, walk, writeFile } from '../tools/volume-files.ts';

async function openOnce({ operations }: OpenVolume, ino: bigint): Promise<void> {
  const { handle } = await operations.open(caller(), ino, 0);
  await operations.release(caller(), ino, handle, undefined);
}

/** How many names each question was about, in turn. */
function questions(): number[] {
  const asked: number[] = [];
  replaceMethod(
    VolumeView.prototype,
    'checkedNode',
    (original) =>
      function (this: VolumeView, ino, names) {
        asked.push(names.length);
        return original.call(this, ino, names);
      },
  );
  replaceMethod(
    VolumeView.prototype,
    'isCurrent',
    (original) =>
      function (this: VolumeView, node) {
        asked.push(0);
        return original.call(this, node);
      },
  );
  return asked;
}

test('an open asks for the inode alone until that has another version than when its names were seen to lead there', async () => {
  const open = await openTestVolume(await testVolume());
  const { operations } = open;
  const asked = questions();
  const asks = async (ino: bigint): Promise<number[]> => {
    for (let i = 0; i < 2; i++) await openOnce(open, ino);
    return asked.splice(0);
  };
  const ino = await writeFile(open, 'f', Buffer.from('one'));
  // It was written since it was made.
  expect(await asks(ino)).toEqual([1, 0]);
  await operations.setattr(caller(), ino, { mode: 0o600 });
  expect(await asks(ino)).toEqual([1, 0]);
  await operations.rename(caller(), 1n, 'f', 1n, 'g', 0);
  expect(await asks(ino)).toEqual([0, 0]);
  await operations.link(caller(), ino, 1n, 'h');
  expect(await asks(ino)).toEqual([2, 0]);
});

test('an open behind the look that found the file asks for the inode alone, and for the name once another mount has changed it', async () => {
  const volume = await testVolume();
  const writer = await openTestVolume(volume, 'writer');
  await writeFile(writer, 'f', Buffer.from('one'));
  const reader = await openTestVolume(volume, 'reader');
  const asked = questions();
  const { ino } = await lookUp(reader, 1n, 'f');
  await openOnce(reader, ino);
  expect(asked.splice(0)).toEqual([0]);
  await writer.operations.setattr(caller(), ino, { mode: 0o600 });
  await openOnce(reader, ino);
  // It may have heard of it, or find out.
  expect(asked.at(-1)).toBe(1);
});

test.for([['no trash'], ['a trash', { trash: '1d' }]] as const)(
  'whatever takes a name of a file away, or gives it to another, writes the inode in the same commit (%s)',
  async ([, options]) => {
    const volume = await testVolume(options);
    const { operations } = await openTestVolume(volume);
    const engine = await openEngine(volume);
    const keys = new VolumeKeys('lake');
    const open = { operations } as OpenVolume; // all that writeFile and walk use of it
    const versionOf = async (ino: bigint): Promise<string | undefined> =>
      (await engine.read([keys.inode(Number(ino))]))[0]?.version;
    const rename = (from: string, to: string, flags = 0): unknown =>
      operations.rename(caller(), 1n, from, 1n, to, flags);
    const link = async (): Promise<unknown> => operations.link(caller(), await walk(open, '/f'), 1n, 'second');
    const changes: Readonly<Record<string, () => unknown>> = {
      'a rename': () => rename('f', 'away'),
      'a rename over it': () => rename('other', 'f'),
      'an exchange': () => rename('other', 'f', RENAME_EXCHANGE),
      'an unlink': () => operations.unlink(caller(), 1n, 'f'),
    };
    const cases = Object.entries(changes).flatMap(([what, change]) => [
      { what, change, prepare: undefined },
      { what: `${what}, with a second name`, change, prepare: link },
    ]);
    for (const { what, change, prepare } of cases) {
      const ino = await writeFile(open, 'f', Buffer.from('one'));
      await writeFile(open, 'other', Buffer.from('two'));
      await prepare?.();
      const before = await versionOf(ino);
      await change();
      expect(await versionOf(ino), what).not.toBe(before);
      for (const name of ['f', 'other', 'away', 'second']) {
        await Promise.resolve(operations.unlink(caller(), 1n, name)).catch(() => undefined);
      }
      await operations.drain();
    }
  },
);
