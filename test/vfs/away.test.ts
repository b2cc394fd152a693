/** A node that sleeps for an hour: its clock jumps, and its session is over. */
import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller } from '../support/fs-volume.ts';
import { openEngine } from '../tools/volume-bench.ts';
import { errnoOf, lookUp } from '../tools/volume-files.ts';
import { BLOCK, HOUR_MS, sleeper } from './sleeper.ts';

const O_WRONLY = 1;
const O_RDWR = 2;
const O_APPEND = 0o2000;
const PAGE = 64 * 2 ** 20;
/** More than one commit takes. */
const PAGES = 800;

test('a node that slept for an hour writes nothing over what others committed: its bytes are kept aside by name, and the program is told once', async () => {
  const { open, other, reports, sleep, write } = await sleeper();
  const content = Buffer.alloc(3 * BLOCK, 'a');
  await writeElsewhere(other, 'f', content);
  const ino = await write('f', 10, Buffer.from('sleeper'));
  await sleep(HOUR_MS);
  await writeElsewhere(other, 'f', Buffer.from('others'), 12);
  content.write('others', 12);
  expect(await errnoOf(() => open.operations.flush(caller(), ino, 0n, 0n))).toBe(Errno.EIO);
  // Neither a later close nor the retry in the background has something left to commit.
  expect(await errnoOf(() => open.operations.flush(caller(), ino, 0n, 0n))).toBe(0);
  expect((await readElsewhere(other, 'f')).equals(content)).toBe(true);
  expect((await readElsewhere(open, 'f')).equals(content)).toBe(true);
  const told = reports.filter((line) => line.includes('while this node was away'));
  expect(told.length).toBeGreaterThan(0);
  const path = /kept in (\S+),/.exec(told[0] ?? '')?.[1] ?? '';
  const kept = readFileSync(path);
  expect(kept.equals(Buffer.concat([Buffer.alloc(10), Buffer.from('sleeper')]))).toBe(true);
  expect(JSON.parse(readFileSync(`${path}.json`, 'utf8'))).toEqual({
    inode: Number(ino),
    size: 3 * BLOCK,
    ranges: [{ start: 10, end: 17, kind: 'data' }],
  });
  expect(open.stats()).toMatchObject({ keptAside: 1, stagedFiles: 0 });
  // It goes on as any other node.
  await write('f', 0, Buffer.from('awake'));
  expect(await errnoOf(() => open.operations.flush(caller(), ino, 0n, 0n))).toBe(0);
  content.write('awake', 0);
  await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
});

test('what nobody else has changed is committed: other bytes, other files, appends, and after a short absence all', async () => {
  const { open, other, sleep, write } = await sleeper();
  const content = Buffer.alloc(3 * BLOCK, 'a');
  for (const name of ['parts', 'alone', 'log', 'short']) await writeElsewhere(other, name, content);
  await writeElsewhere(other, 'small', Buffer.from('small'));
  const [parts, alone] = [
    await write('parts', 2 * BLOCK, Buffer.from('mine')),
    await write('alone', 0, Buffer.from('mine')),
  ];
  const log = await write('log', 0, Buffer.from('mine'), O_WRONLY | O_APPEND);
  const small = await write('small', 0, Buffer.from('S'));
  await sleep(HOUR_MS);
  await writeElsewhere(other, 'parts', Buffer.from('theirs'), 0);
  await writeElsewhere(other, 'log', Buffer.from('theirs'), content.length);
  for (const ino of [parts, alone, log, small]) await open.operations.flush(caller(), ino, 0n, 0n);
  const both = Buffer.from(content);
  both.write('theirs', 0);
  both.write('mine', 2 * BLOCK);
  const seen = async (name: string): Promise<string> => (await readElsewhere(other, name)).toString('latin1');
  await expect.poll(() => seen('parts')).toBe(both.toString('latin1'));
  await expect.poll(async () => (await seen('alone')).slice(0, 4)).toBe('mine');
  await expect.poll(async () => (await seen('log')).slice(content.length)).toBe('theirsmine');
  await expect.poll(() => seen('small')).toBe('Small');

  const short = await write('short', 0, Buffer.from('mine'));
  await sleep(10_000);
  await writeElsewhere(other, 'short', Buffer.from('theirs'), 0);
  await open.operations.flush(caller(), short, 0n, 0n);
  await expect.poll(async () => (await seen('short')).slice(0, 6)).toBe('miners');
  expect(open.stats()).toMatchObject({ keptAside: 0 });
});

test('what was written to a file that others removed meanwhile is kept aside', async () => {
  const { open, other, reports, volume, sleep, write } = await sleeper();
  await writeElsewhere(other, 'f', Buffer.alloc(3 * BLOCK, 'a'));
  const ino = await write('f', 0, Buffer.alloc(2 * BLOCK, 'm'));
  // Full blocks are uploaded at once; behind the absence, that would tell it of its session's end.
  await expect.poll(() => Number(open.stats()['uploadedBytes'])).toBe(2 * BLOCK);
  await sleep(HOUR_MS);
  await other.operations.unlink(caller(), 1n, 'f');
  await other.operations.drain();
  // It hears that its session is over.
  await open.operations.mkdir(caller(), 1n, 'awake', 0o755, 0);
  const engine = await openEngine(volume);
  const key = new VolumeKeys('lake').inode(Number(ino));
  await expect.poll(async () => engine.read([key])).toEqual([null]);
  // Until it hears of that, it takes the file for one that has lost its names and is open.
  expect([0, Errno.EIO]).toContain(await errnoOf(() => open.operations.flush(caller(), ino, 0n, 0n)));
  await open.operations.release(caller(), ino, 0n, undefined);
  await expect.poll(() => open.stats()).toMatchObject({ stagedFiles: 0, keptAside: 1 });
  const path = /removed elsewhere.*kept in (\S+),/.exec(reports.join('\n'))?.[1] ?? '';
  expect(existsSync(`${path}.json`)).toBe(true);
  expect(
    readFileSync(path)
      .subarray(0, 2 * BLOCK)
      .equals(Buffer.alloc(2 * BLOCK, 'm')),
  ).toBe(true);
  expect(open.stats()).toMatchObject({ stagedFiles: 0, keptAside: 1 });
});

test('a large file that nobody else has changed is committed in its parts', async () => {
  const { open, other, sleep } = await sleeper();
  const { operations } = open;
  await writeElsewhere(other, 'f', Buffer.from('a'));
  const { ino } = await lookUp(open, 1n, 'f');
  const { handle } = await operations.open(caller(), ino, O_RDWR);
  const write = async (text: string): Promise<void> => {
    for (let page = 0; page < PAGES; page++)
      await operations.write(caller(), ino, handle, BigInt(page * PAGE + 5), Buffer.from(text), O_RDWR, false);
  };
  await write('b');
  await operations.flush(caller(), ino, handle, 0n);
  await write('c');
  await sleep(HOUR_MS);
  await operations.flush(caller(), ino, handle, 0n);
  expect(open.stats()).toMatchObject({ keptAside: 0 });
  const byte = async (page: number): Promise<string> => {
    const { handle: reader } = await other.operations.open(caller(), ino, 0);
    const bytes = await other.operations.read(caller(), ino, reader, BigInt(page * PAGE + 5), 1, 0);
    return bytes.toString();
  };
  for (const page of [0, PAGES - 1]) await expect.poll(() => byte(page)).toBe('c');
  await operations.setattr(caller(), ino, { size: 3n });
  await sleep(HOUR_MS);
  await operations.flush(caller(), ino, handle, 0n);
  expect(open.stats()).toMatchObject({ keptAside: 0 });
  await expect.poll(async () => (await lookUp(other, 1n, 'f')).size).toBe(3n);
});

test('what was written to a file that others unlinked meanwhile, and that is still open here, is kept aside at its last close; a temporary file of this node is not', async () => {
  const { open, other, reports, sleep } = await sleeper();
  const { operations } = open;
  const content = Buffer.alloc(BLOCK, 'm');
  const handles = new Map<string, { readonly ino: bigint; readonly handle: bigint }>();
  for (const name of ['f', 'temporary']) {
    await writeElsewhere(other, name, Buffer.alloc(3 * BLOCK, 'a'));
    const { ino } = await lookUp(open, 1n, name);
    const { handle } = await operations.open(caller(), ino, O_RDWR);
    handles.set(name, { ino, handle });
    await operations.write(caller(), ino, handle, 0n, content, O_RDWR, false);
  }
  await operations.unlink(caller(), 1n, 'temporary');
  await sleep(HOUR_MS);
  await other.operations.unlink(caller(), 1n, 'f');
  // It hears that its session is over.
  await operations.mkdir(caller(), 1n, 'awake', 0o755, 0);
  await expect.poll(async () => 'attributes' in (await operations.lookup(caller(), 1n, 'f'))).toBe(false);
  for (const { ino, handle } of handles.values()) {
    // EIO where it is removed already.
    expect([0, Errno.EIO]).toContain(await errnoOf(() => operations.flush(caller(), ino, handle, 0n)));
    await operations.release(caller(), ino, handle, undefined);
  }
  await expect.poll(() => open.stats()).toMatchObject({ stagedFiles: 0, keptAside: 1 });
  const path = /removed elsewhere.*kept in (\S+),/.exec(reports.join('\n'))?.[1] ?? '';
  expect(readFileSync(path).equals(content)).toBe(true);
});
