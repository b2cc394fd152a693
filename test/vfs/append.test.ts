import { copyFileSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import type { Caller } from '../../fs-gateway/vfs/operations.ts';
import { caller, openTestVolume, testVolume } from '../support/fs-volume.ts';
import type { TestVolume } from '../support/fs-volume.ts';

const O_RDWR_APPEND = 0o2002;

async function append(volume: OpenVolume, ino: bigint, handle: bigint, data: Buffer | string): Promise<void> {
  // The offset is what this mount's kernel takes for the end.
  await volume.operations.write(caller(), ino, handle, 0n, Buffer.from(data), O_RDWR_APPEND, false);
}

async function twoWriters(first: Buffer | string): Promise<{
  readonly a: OpenVolume;
  readonly b: OpenVolume;
  readonly ino: bigint;
  readonly handles: readonly [bigint, bigint];
  readonly content: (volume: OpenVolume) => Promise<Buffer>;
}> {
  const volume = await testVolume();
  const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b')];
  const { entry, open } = await a.operations.create(caller(), 1n, 'log', 0o644, O_RDWR_APPEND, 0);
  const { ino } = entry.attributes;
  await append(a, ino, open.handle, first);
  await a.operations.flush(caller(), ino, open.handle, 0n);
  const there = await b.operations.open(caller(), ino, O_RDWR_APPEND);
  return {
    a,
    b,
    ino,
    handles: [open.handle, there.handle],
    content: async ({ operations }) => Buffer.from(await operations.read(caller(), ino, 0n, 0n, 2 ** 20, 0)),
  };
}

test('what two mounts appended before either committed is in the file twice as long, not one over the other', async () => {
  const { a, b, ino, handles, content } = await twoWriters('start\n');
  await append(a, ino, handles[0], 'from a\n');
  await append(b, ino, handles[1], 'from b\n');
  await b.operations.flush(caller(), ino, handles[1], 0n);
  // Written while the mount still believes in the old end.
  await append(a, ino, handles[0], 'more from a\n');
  await a.operations.flush(caller(), ino, handles[0], 0n);
  expect((await content(a)).toString()).toBe('start\nfrom b\nfrom a\nmore from a\n');
  await expect.poll(async () => (await content(b)).toString()).toBe('start\nfrom b\nfrom a\nmore from a\n');
});

test('also in files of objects, and beside a write that is no append', async () => {
  const base = Buffer.alloc(100_000, 's');
  const { a, b, ino, handles, content } = await twoWriters(base);
  const [fromA, fromB] = [Buffer.alloc(70_000, 'a'), Buffer.alloc(50_000, 'b')];
  await append(a, ino, handles[0], fromA);
  await a.operations.write(caller(), ino, handles[0], 10n, Buffer.from('HERE'), 2, false);
  await append(b, ino, handles[1], fromB);
  await Promise.all([
    a.operations.flush(caller(), ino, handles[0], 0n),
    b.operations.flush(caller(), ino, handles[1], 0n),
  ]);
  const expected = Buffer.from(base);
  expected.write('HERE', 10);
  const orders = [Buffer.concat([expected, fromA, fromB]), Buffer.concat([expected, fromB, fromA])];
  for (const volume of [a, b]) {
    await expect.poll(async () => (await content(volume)).length).toBe(220_000);
    const found = await content(volume);
    expect(orders.some((order) => order.equals(found))).toBe(true);
  }
});

test('an append that a worker staged is committed by the next one, behind what came meanwhile', async () => {
  const volume = await testVolume();
  const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b')];
  const { entry, open } = await a.operations.create(caller(), 1n, 'log', 0o644, O_RDWR_APPEND, 0);
  const { ino } = entry.attributes;
  await append(a, ino, open.handle, 'from a\n');
  await a.close();
  const there = await b.operations.open(caller(), ino, O_RDWR_APPEND);
  await append(b, ino, there.handle, 'from b\n');
  await b.operations.flush(caller(), ino, there.handle, 0n);
  const next = await openTestVolume(volume, 'a');
  expect((await next.operations.read(caller(), ino, 0n, 0n, 100, 0)).toString()).toBe('from b\nfrom a\n');
});

/** A log that `b` appends to, too, while the worker of `a` that staged 'from a' is gone. */
async function afterWorker(): Promise<{ readonly next: OpenVolume; readonly ino: bigint; readonly request: Caller }> {
  const volume = await testVolume();
  const [a, b] = [await openTestVolume(volume, 'a'), await openTestVolume(volume, 'b')];
  const { entry, open } = await a.operations.create(caller(), 1n, 'log', 0o644, O_RDWR_APPEND, 0);
  const { ino } = entry.attributes;
  const request = caller();
  await a.operations.write(request, ino, open.handle, 0n, Buffer.from('from a\n'), O_RDWR_APPEND, false);
  await a.close();
  const there = await b.operations.open(caller(), ino, O_RDWR_APPEND);
  await append(b, ino, there.handle, 'from b\n');
  await b.operations.flush(caller(), ino, there.handle, 0n);
  return { next: await openTestVolume(volume, 'a'), ino, request };
}

async function logOf({ operations }: OpenVolume, ino: bigint): Promise<string> {
  return Buffer.from(await operations.read(caller(), ino, 0n, 0n, 1000, 0)).toString();
}

test('an append to a file that the worker before had appended to goes to the end, not to where the kernel takes the end to be', async () => {
  const { next, ino } = await afterWorker();
  await next.operations.write(caller(), ino, 0n, 7n, Buffer.from('more of a\n'), O_RDWR_APPEND, false);
  await next.operations.flush(caller(), ino, 0n, 0n);
  expect(await logOf(next, ino)).toBe('from b\nfrom a\nmore of a\n');
});

test('an append that the kernel sends again to the next worker is there once, wherever it went meanwhile', async () => {
  const { next, ino, request } = await afterWorker();
  const data = Buffer.from('from a\n');
  expect(await next.operations.write(request, ino, 0n, 0n, data, O_RDWR_APPEND, false)).toBe(data.length);
  await next.operations.flush(caller(), ino, 0n, 0n);
  expect(await logOf(next, ino)).toBe('from b\nfrom a\n');
});

function journalOf(volume: TestVolume): string {
  const [path] = globSync(join(volume.base, 'cache-a', '*', 'mount-*', 'journal'));
  if (path === undefined) throw new Error('there is no journal');
  return path;
}

test('what was appended while a commit was under way is not lost with the worker that ended before it had noted the commit', async () => {
  const volume = await testVolume();
  const a = await openTestVolume(volume, 'a');
  const { entry, open } = await a.operations.create(caller(), 1n, 'log', 0o644, O_RDWR_APPEND, 0);
  const { ino } = entry.attributes;
  await append(a, ino, open.handle, 'one\n');
  const journal = journalOf(volume);
  const committing = Promise.resolve(a.operations.flush(caller(), ino, open.handle, 0n));
  // It begins at the next turn of the promises, and ends only by I/O.
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  await append(a, ino, open.handle, 'two\n');
  copyFileSync(journal, join(volume.base, 'as of then'));
  await committing;
  await a.close();
  // With the word that the first line is committed, and without the zeros behind it.
  expect(readFileSync(join(volume.base, 'as of then')).includes(readFileSync(journal))).toBe(false);
  copyFileSync(join(volume.base, 'as of then'), journal);
  const next = await openTestVolume(volume, 'a');
  await next.operations.flush(caller(), ino, 0n, 0n);
  expect(await logOf(next, ino)).toBe('one\ntwo\n');
});
