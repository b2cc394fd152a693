/** A node that sleeps for an hour while programs have files open that the kernel writes by itself (`passthrough=full`). */
import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { LiveFile } from '../../fs-gateway/data/live-file.ts';
import type { VolumeOptions } from '../../fs-gateway/open-volume.ts';
import { Flusher } from '../../fs-gateway/vfs/flusher.ts';
import { Errno } from '../../fs-gateway/vfs/operations.ts';
import { appendElsewhere, readElsewhere, writeElsewhere } from '../fs-gateway/passthrough-volume.ts';
import { caller } from '../support/fs-volume.ts';
import { HANG_MS } from '../support/hang.ts';
import { playKernel } from '../support/played-kernel.ts';
import { replaceMethod } from '../support/replace-method.ts';
import { errnoOf } from '../tools/volume-files.ts';
import { BLOCK, HOUR_MS, sleeper } from './sleeper.ts';
import type { Sleeper } from './sleeper.ts';

const O_RDWR = 2;
const O_CREAT = 0o100;
const PAGE = 4096;

interface Live extends Omit<Sleeper, 'sleep'> {
  /** Programs write, the node sleeps for an hour before it has committed anything of it, and others work on meanwhile. */
  readonly sleep: (writes: () => unknown, others: () => Promise<unknown>) => Promise<void>;
  readonly ino: bigint;
  readonly handle: bigint;
  /** As the kernel writes. */
  readonly kernelWrites: (offset: number, text: string) => void;
  readonly backing: () => Buffer;
  readonly path: string;
  readonly fsync: (handle?: bigint) => Promise<number>;
  readonly asides: () => string[];
}

/** A live file is compared and committed at any moment, also when its node hears that its session is over. Returns what lets that go on. */
function holdFlushes(): () => void {
  const gate: PromiseWithResolvers<void> = Promise.withResolvers();
  const restore = replaceMethod(
    Flusher.prototype,
    'flush',
    (flush) =>
      async function (this: Flusher, file) {
        if (file instanceof LiveFile) await gate.promise;
        return flush.call(this, file);
      },
  );
  return () => {
    restore();
    gate.resolve();
  };
}

/** With a live file of `content`, which is committed. */
async function liveSleeper(content: Buffer, more: Partial<VolumeOptions> = {}): Promise<Live> {
  const kernel = playKernel(true);
  const node = await sleeper({ passthrough: 'full', kernel, cacheBytes: 256e6, ...more });
  const { operations } = node.open;
  const { entry, open: opened } = await operations.create(caller(), 1n, 'f', 0o644, O_RDWR | O_CREAT, 0o022);
  const { ino } = entry.attributes;
  const path = kernel.backing.get(opened.backingId ?? 0) ?? '';
  writeFileSync(path, content, { flag: 'r+' });
  const fsync = (handle = opened.handle): Promise<number> =>
    errnoOf(() => operations.fsync(caller(), ino, handle, false));
  expect(await fsync()).toBe(0);
  return {
    ...node,
    ino,
    handle: opened.handle,
    async sleep(writes, others) {
      await operations.drain();
      const letGo = holdFlushes();
      await writes();
      await node.sleep(HOUR_MS);
      await others();
      letGo();
    },
    path,
    fsync,
    kernelWrites(offset, text) {
      const now = readFileSync(path);
      const bytes = Buffer.alloc(Math.max(now.length, offset + text.length));
      now.copy(bytes);
      bytes.write(text, offset);
      writeFileSync(path, bytes, { flag: 'r+' });
    },
    backing: () => readFileSync(path),
    asides: () => globSync(`${node.volume.base}/cache-sleeper/*/mount-*/aside/*.json`),
  };
}

test('what the kernel wrote before an absence, to pages that others have changed meanwhile, is kept aside by name: nothing of it is committed, and each handle is told once', async () => {
  const content = Buffer.alloc(5 * BLOCK, 'a');
  const { open, other, reports, sleep, ino, handle, kernelWrites, backing, fsync, asides } = await liveSleeper(content);
  const { handle: second } = await open.operations.open(caller(), ino, O_RDWR);
  await sleep(
    () => {
      kernelWrites(10, 'sleeper');
      kernelWrites(3 * BLOCK, 'elsewhere');
    },
    async () => {
      await writeElsewhere(other, 'f', Buffer.from('others'), 12);
      await writeElsewhere(other, 'f', Buffer.from('others'), 2 * BLOCK);
    },
  );
  content.write('others', 12);
  content.write('others', 2 * BLOCK);
  expect(await fsync()).toBe(Errno.EIO);
  expect(await fsync()).toBe(0);
  expect(await fsync(second)).toBe(Errno.EIO);
  expect(await fsync(second)).toBe(0);
  expect((await readElsewhere(other, 'f')).equals(content)).toBe(true);
  // The programs here see it, too.
  expect(backing().equals(content)).toBe(true);
  const told = reports.filter((line) => line.includes('changed elsewhere while this node was away'));
  expect(told.join('\n')).not.toContain('stays staged');
  expect(asides()).toHaveLength(1);
  const [json = ''] = asides();
  expect(told[0]).toContain(json.slice(0, -'.json'.length));
  const kept = readFileSync(json.slice(0, -'.json'.length), 'latin1');
  expect([kept.slice(8, 18), kept.slice(3 * BLOCK, 3 * BLOCK + 9)]).toEqual(['aasleepera', 'elsewhere']);
  expect(JSON.parse(readFileSync(json, 'utf8'))).toEqual({
    inode: Number(ino),
    size: 5 * BLOCK,
    ranges: [
      { start: 0, end: BLOCK, kind: 'data' },
      { start: 3 * BLOCK, end: 4 * BLOCK, kind: 'data' },
    ],
  });
  // It goes on as any other node.
  kernelWrites(10, 'awake');
  expect(await fsync(handle)).toBe(0);
  content.write('awake', 10);
  await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
  expect(open.stats()).toMatchObject({ keptAside: 1 });
});

test('what the kernel wrote before an absence to other pages than others is committed beside theirs', async () => {
  const content = Buffer.alloc(3 * BLOCK, 'a');
  const { open, other, sleep, kernelWrites, backing, fsync } = await liveSleeper(content);
  await sleep(
    () => kernelWrites(PAGE, 'mine'),
    () => writeElsewhere(other, 'f', Buffer.from('theirs'), 0),
  );
  content.write('mine', PAGE);
  content.write('theirs', 0);
  expect(await fsync()).toBe(0);
  await expect.poll(async () => (await readElsewhere(other, 'f')).equals(content)).toBe(true);
  expect(backing().equals(content)).toBe(true);
  expect(open.stats()).toMatchObject({ keptAside: 0 });
});

test('of a file that the kernel made longer before an absence, and others too, theirs is in the volume', async () => {
  const content = Buffer.alloc(BLOCK, 'a');
  const { open, other, sleep, kernelWrites, backing, fsync } = await liveSleeper(content);
  await sleep(
    () => kernelWrites(BLOCK, 'a longer end of this node'),
    () => writeElsewhere(other, 'f', Buffer.from('another'), BLOCK),
  );
  expect(await fsync()).toBe(Errno.EIO);
  const grown = Buffer.concat([content, Buffer.from('another')]);
  expect(backing().equals(grown)).toBe(true);
  expect((await readElsewhere(other, 'f')).equals(grown)).toBe(true);
  expect(open.stats()).toMatchObject({ keptAside: 1 });
});

test('a file that was cut before an absence, and grew again, meets every change that others made', async () => {
  const content = Buffer.alloc(BLOCK, 'a');
  const { open, other, sleep, ino, kernelWrites, backing, fsync } = await liveSleeper(content);
  await sleep(
    async () => {
      await open.operations.setattr(caller(), ino, { size: 0n });
      kernelWrites(0, 'b'.repeat(2 * BLOCK));
    },
    () => appendElsewhere(other, 'f', 'appended'),
  );
  expect(await fsync()).toBe(Errno.EIO);
  const appended = Buffer.concat([content, Buffer.from('appended')]);
  expect(backing().equals(appended)).toBe(true);
  expect((await readElsewhere(other, 'f')).equals(appended)).toBe(true);
  expect(open.stats()).toMatchObject({ keptAside: 1 });
});

test('a small file that the kernel wrote before an absence, and others rewrote, is as the others have it', async () => {
  const { other, sleep, kernelWrites, backing, fsync, asides } = await liveSleeper(Buffer.from('{"a": 1, "b": 2}'));
  await sleep(
    () => kernelWrites(6, '5'),
    () => writeElsewhere(other, 'f', Buffer.from('{"a": 1, "b": 7}')),
  );
  expect(await fsync()).toBe(Errno.EIO);
  expect(backing().toString()).toBe('{"a": 1, "b": 7}');
  expect((await readElsewhere(other, 'f')).toString()).toBe('{"a": 1, "b": 7}');
  expect(readFileSync(asides()[0]?.slice(0, -'.json'.length) ?? '', 'utf8')).toBe('{"a": 5, "b": 2}');
});

test('what the kernel wrote before an absence to a file that others removed meanwhile is kept aside', async () => {
  const { open, other, reports, sleep, ino, handle, path, kernelWrites, fsync, asides } = await liveSleeper(
    Buffer.alloc(3 * BLOCK, 'a'),
  );
  await sleep(
    () => kernelWrites(BLOCK, 'mine'),
    async () => {
      await other.operations.unlink(caller(), 1n, 'f');
      await other.operations.drain();
    },
  );
  expect([0, Errno.EIO]).toContain(await fsync());
  expect([0, Errno.EIO]).toContain(await errnoOf(() => open.operations.flush(caller(), ino, handle, 0n)));
  await open.operations.release(caller(), ino, handle, undefined);
  await expect.poll(() => open.stats()).toMatchObject({ stagedFiles: 0, keptAside: 1 });
  expect(reports.join('\n')).toContain('removed elsewhere while this node was away');
  expect(readFileSync(asides()[0]?.slice(0, -'.json'.length) ?? '', 'latin1').slice(BLOCK, BLOCK + 4)).toBe('mine');
  expect(existsSync(path)).toBe(false);
});

test('with writeback, what fsync had answered before an absence is kept aside behind its answer, and the next fsync says so', async () => {
  const content = Buffer.alloc(3 * BLOCK, 'a');
  const { open, other, sleep, kernelWrites, backing, fsync } = await liveSleeper(content, { writeback: true });
  await sleep(
    () => kernelWrites(10, 'sleeper'),
    () => writeElsewhere(other, 'f', Buffer.from('others'), 12),
  );
  content.write('others', 12);
  await fsync();
  await expect.poll(() => open.stats(), { timeout: HANG_MS }).toMatchObject({ keptAside: 1 });
  await expect.poll(() => backing().equals(content), { timeout: HANG_MS }).toBe(true);
  await expect.poll(() => fsync(), { timeout: HANG_MS }).toBe(Errno.EIO);
  expect(await fsync()).toBe(0);
  expect((await readElsewhere(other, 'f')).equals(content)).toBe(true);
});
