/** A live file whose program changes it while it is compared: the comparison happens when the test has made the change. */
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { BlockHashes } from '../../fs-gateway/data/block-hashes.ts';
import { Appends } from '../../fs-gateway/data/appends.ts';
import type { RecoveredAppends } from '../../fs-gateway/data/appends.ts';
import { FileHasher, type FileHashes, type Hole } from '../../fs-gateway/data/file-hasher.ts';
import { LiveFile, type LiveFileOptions } from '../../fs-gateway/data/live-file.ts';
import { Journal } from '../../fs-gateway/data/journal.ts';
import { Staging, type StagingOptions } from '../../fs-gateway/data/staging.ts';
import { WholeFiles, type WholeFilesOptions } from '../../fs-gateway/data/whole-files.ts';
import type { FileContent, WholeRecord } from '../../fs-gateway/data/whole-record.ts';
import { tempDir } from '../support/temp.ts';

const INO = 7;
const INLINE_BYTES = 4096;
const LARGE = 100_000;

class LateHasher extends FileHasher {
  before: () => void = () => undefined;

  override hash(fd: number, holes: readonly Hole[]): Promise<FileHashes> {
    this.before();
    return super.hash(fd, holes);
  }
}

/** As a worker that was killed left it. */
function appendsOf(recovered: Partial<RecoveredAppends>): Appends {
  const none = (): void => undefined;
  const notes = { append: none, appendReserved: none, owe: none };
  return new Appends({ appends: new Map(), moves: new Map(), wrote: new Map(), ...recovered }, notes);
}

function zeros(_content: FileContent, _from: number, target: Buffer): void {
  target.fill(0);
}

function wholeFiles(
  dir = join(tempDir('live'), 'whole'),
  bootId = 'boot',
  more: Pick<Partial<WholeFilesOptions>, 'holder' | 'report'> = {},
): WholeFiles {
  return new WholeFiles({
    dir,
    bytesMax: 1e9,
    freeBytesMin: 0,
    bootId,
    isInUse: () => true,
    report: (message) => {
      throw new Error(message);
    },
    ...more,
  });
}

function openLive(options: Pick<LiveFileOptions, 'base' | 'whole'> & Partial<LiveFileOptions>): LiveFile {
  return new LiveFile({
    ino: INO,
    hasher: new FileHasher(),
    appends: appendsOf({}),
    inlineBytes: INLINE_BYTES,
    isQuiet: () => false,
    isCommitted: () => false,
    holes: () => [],
    read: zeros,
    nowNs: () => 1n,
    ...options,
  });
}

test('a file that becomes small while it is compared is committed, and known, with its bytes', async () => {
  const whole = wholeFiles();
  const empty: FileContent = { size: 0, extents: [], inline: null };
  const base = { content: empty, hashes: BlockHashes.of(Buffer.alloc(0)), bootId: 'boot' };
  whole.createLive(INO, Buffer.alloc(0), (mtimeNs) => ({ ...base, mtimeNs }));
  const path = whole.path(INO);
  const hasher = new LateHasher();
  onTestFinished(() => hasher.close());
  const { mtimeNs } = statSync(path, { bigint: true });
  const file = openLive({
    base: { ...base, mtimeNs },
    whole,
    hasher,
    read: (content, from, target) =>
      content.inline === null ? zeros(content, from, target) : void content.inline.copy(target, 0, from),
  });
  writeFileSync(path, Buffer.alloc(LARGE, 'a'));
  hasher.before = () => truncateSync(path, 1000);
  const change = await file.compare(empty);
  expect(change).toMatchObject({ size: 1000 });
  const bytes = Buffer.alloc(1000);
  file.load(0, bytes, 0, bytes.length);
  file.committingInline(bytes);
  file.committed();
  // The program goes on. What it wrote over must not come back as something that another node committed.
  writeFileSync(path, Buffer.alloc(1000), { flag: 'r+' });
  const next = await file.compare({ size: 1000, extents: [], inline: bytes });
  expect(readFileSync(path).equals(Buffer.alloc(1000))).toBe(true);
  expect(next?.overlay.ranges).toHaveLength(1);
  file.close();
});

test('how long it takes to compare a file is what the thread read, not what it waited for others', async () => {
  const whole = wholeFiles();
  const empty: FileContent = { size: 0, extents: [], inline: null };
  const base = { content: empty, hashes: BlockHashes.of(Buffer.alloc(0)), bootId: 'boot' };
  whole.createLive(INO, Buffer.alloc(0), (mtimeNs) => ({ ...base, mtimeNs }));
  const other = join(tempDir('other'), 'other');
  writeFileSync(other, Buffer.alloc(2 ** 26));
  const fd = openSync(other, 'r');
  const hasher = new FileHasher();
  onTestFinished(() => hasher.close());
  const { mtimeNs } = statSync(whole.path(INO), { bigint: true });
  const file = openLive({
    base: { ...base, mtimeNs },
    whole,
    hasher,
  });
  writeFileSync(whole.path(INO), Buffer.alloc(LARGE, 'a'));
  // The thread is not started yet, and has a larger file to do first.
  const startedMs = performance.now();
  const larger = hasher.hash(fd);
  await file.compare(empty);
  const { ms } = await larger;
  expect(file.compareMs).toBeGreaterThan(0);
  expect(ms).toBeGreaterThan(0);
  // It does one after the other: what the second waited for the first would be in both.
  expect(file.compareMs + ms).toBeLessThanOrEqual(performance.now() - startedMs);
  closeSync(fd);
  file.close();
});

test.each([
  {
    what: 'an append that was torn is cut off: the kernel sends it again',
    left: 'base,appended,to',
    recovered: { wrote: new Map([[INO, { request: 'torn', start: 14, end: 18 }]]) },
    expected: 'base,appended,',
  },
  {
    what: 'an append that is whole stays',
    left: 'base,appended,torn',
    recovered: { wrote: new Map([[INO, { request: 'whole', start: 14, end: 18 }]]) },
    expected: 'base,appended,torn',
  },
  {
    what: 'a file that was cut since has what it was cut to',
    left: 'base',
    recovered: { wrote: new Map([[INO, { request: 'older', start: 0, end: 0 }]]) },
    expected: 'base',
  },
  {
    what: 'appended bytes that were being moved are moved, however far that came',
    left: 'base,\0\0\0\0\0\0apended,',
    recovered: { moves: new Map([[INO, { from: 5, to: 11, bytes: Buffer.from('appended,') }]]) },
    expected: 'base,\0\0\0\0\0\0appended,',
  },
])('after the death of the worker: $what', ({ left, recovered, expected }) => {
  const whole = wholeFiles();
  const content: FileContent = { size: 5, extents: [], inline: Buffer.from('base,') };
  const base = { content, hashes: BlockHashes.of(Buffer.from('base,')), bootId: 'boot', mtimeNs: 1n };
  whole.createLive(INO, Buffer.from(left), () => base);
  const file = openLive({
    base,
    whole,
    appends: appendsOf(recovered),
  });
  expect(readFileSync(whole.path(INO)).toString()).toBe(expected);
  file.close();
});

describe('the base that a later boot finds', () => {
  function liveFile(whole: WholeFiles): LiveFile {
    const base = whole.records.base(INO);
    if (base === null) throw new Error('the file has a base');
    return openLive({ base, whole });
  }

  function contentOf(text: string): FileContent {
    const inline = Buffer.from(text);
    return { size: inline.length, extents: [], inline };
  }

  async function commit(file: LiveFile, text: string): Promise<void> {
    await file.compare({ size: 0, extents: [], inline: null });
    file.committingInline(Buffer.from(text));
    file.committed();
  }

  function recordOf(text: string): (mtimeNs: bigint) => WholeRecord {
    return (mtimeNs) => ({
      content: contentOf(text),
      hashes: BlockHashes.of(Buffer.from(text)),
      bootId: 'boot',
      mtimeNs,
    });
  }

  test('is as of the last commit also when the worker died between that and keeping it', async () => {
    const dir = join(tempDir('live'), 'whole');
    const whole = wholeFiles(dir);
    whole.createLive(INO, Buffer.from('first'), recordOf('first'));
    const first = liveFile(whole);
    await first.promise();
    first.close();
    whole.records.saveBase(INO, recordOf('second')(1n));
    const second = liveFile(whole);
    await second.kept();
    second.close();
    expect(wholeFiles(dir, 'next boot').records.base(INO)?.content).toEqual(contentOf('second'));
  });

  test('that could not be kept fails the next promise, and leaves nothing behind', async () => {
    const whole = wholeFiles();
    const path = whole.path(INO);
    whole.createLive(INO, Buffer.alloc(0), recordOf(''));
    const file = liveFile(whole);
    await file.promise();
    rmSync(`${path}.kept`);
    mkdirSync(join(`${path}.kept`, 'in the way'), { recursive: true });
    writeFileSync(path, 'committed');
    await commit(file, 'committed');
    await file.kept();
    await expect(file.promise()).rejects.toThrow(/EISDIR|ENOTEMPTY/);
    expect(readdirSync(dirname(path)).filter((name) => name.includes('.tmp'))).toEqual([]);
    rmSync(`${path}.kept`, { recursive: true });
    await file.promise();
    expect(whole.records.isKept(INO)).toBe(true);
    file.close();
  });
});

test('an append for a part of which the disk had room is not in the file', () => {
  class FullDisk extends LiveFile {
    override store(offset: number, data: Uint8Array): void {
      super.store(offset, data.subarray(0, 3));
      throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    }
  }
  const staging = new Staging({
    dir: tempDir('staging'),
    life: 'life',
    bootId: 'boot',
    promises: false,
    isCommitted: () => false,
  });
  onTestFinished(() => staging.close());
  const whole = wholeFiles();
  const content: FileContent = { size: 5, extents: [], inline: Buffer.from('base,') };
  const base = { content, hashes: BlockHashes.of(Buffer.from('base,')), bootId: 'boot', mtimeNs: 1n };
  whole.createLive(INO, Buffer.from('base,'), () => base);
  const file = new FullDisk({
    ino: INO,
    base,
    whole,
    hasher: new FileHasher(),
    appends: staging.appends,
    inlineBytes: INLINE_BYTES,
    isQuiet: () => false,
    isCommitted: () => false,
    holes: () => [],
    read: zeros,
    nowNs: () => 1n,
  });
  staging.adopt(file);
  expect(() => staging.append(file, Buffer.from('record'), 1n, 'request')).toThrow(/no space/);
  expect(readFileSync(whole.path(INO)).toString()).toBe('base,');
  file.close();
});

test('a journal that is rewritten while a flush is under way knows how far that commits appended bytes', async () => {
  const dir = tempDir('staging');
  const open = (isCommitted: StagingOptions['isCommitted']): Staging =>
    new Staging({ dir, life: 'life', bootId: 'boot', promises: false, isCommitted });
  const staging = open(() => false);
  const whole = wholeFiles();
  const content: FileContent = { size: 5, extents: [], inline: Buffer.from('base,') };
  const base = { content, hashes: BlockHashes.of(Buffer.from('base,')), bootId: 'boot', mtimeNs: 1n };
  whole.createLive(INO, Buffer.from('base,'), () => base);
  const file = openLive({ base, whole, appends: staging.appends });
  staging.adopt(file);
  staging.append(file, Buffer.from('record'), 1n, 'request');
  const change = await file.compare(content);
  const overgrown = vi.spyOn(Journal.prototype, 'overgrown', 'get').mockReturnValue(true);
  staging.begin(INO + 1, 0);
  overgrown.mockRestore();
  file.close();
  staging.close();
  const next = open((ino, id) => ino === INO && id === change?.promiseId);
  expect(next.appends.takeUp(INO, 11).append?.from).toBe(11);
  next.close();
});

test('a commit for whose record the local disk has no room is made all the same, and known when there is room', async () => {
  const whole = wholeFiles();
  const content: FileContent = { size: 5, extents: [], inline: Buffer.from('base,') };
  const base = { content, hashes: BlockHashes.of(Buffer.from('base,')), bootId: 'boot', mtimeNs: 1n };
  whole.createLive(INO, Buffer.from('base,'), () => base);
  const file = openLive({ base, whole });
  const bytes = Buffer.from('committed');
  writeFileSync(whole.path(INO), bytes);
  await file.compare(content);
  // Where the record is written first.
  symlinkSync('/dev/full', `${whole.path(INO)}.tmp`);
  file.committingInline(bytes);
  rmSync(`${whole.path(INO)}.tmp`);
  file.committed();
  expect(wholeFiles(join(dirname(whole.path(INO)), '..')).records.base(INO)?.content).toEqual({
    size: 9,
    extents: [],
    inline: bytes,
  });
  file.close();
});

test('the record of a flush under way is that of its backing file, and of no later one of the same inode', () => {
  const dir = join(tempDir('live'), 'whole');
  const whole = wholeFiles(dir);
  const content: FileContent = { size: 5, extents: [], inline: Buffer.from('base,') };
  const base = { content, hashes: BlockHashes.of(Buffer.from('base,')), bootId: 'boot', mtimeNs: 1n };
  whole.createLive(INO, Buffer.from('base,'), () => base);
  whole.saveNext(INO, { id: 3n, record: base }, statSync(whole.path(INO), { bigint: true }));
  expect(wholeFiles(dir).records.next(INO)?.id).toBe(3n);
  const later = `${whole.path(INO)}.later`;
  writeFileSync(later, 'later');
  renameSync(later, whole.path(INO));
  expect(wholeFiles(dir).records.next(INO)).toBeUndefined();
  expect(readdirSync(dirname(whole.path(INO))).sort()).toEqual([String(INO), `${INO}.base`]);
});

describe('a removed file', () => {
  const bytes = Buffer.from('base,');
  const content: FileContent = { size: bytes.length, extents: [], inline: bytes };
  const base = { content, hashes: BlockHashes.of(bytes), bootId: 'boot', mtimeNs: 1n };

  test('that has ended is not found by a descriptor that is another file’s by now', () => {
    const held: number[] = [];
    const holder = { held: new Map(), hold: (ino: number) => held.push(ino), letGo: () => undefined };
    const whole = wholeFiles(undefined, 'boot', { holder });
    whole.createLive(INO, bytes, () => base);
    const file = openLive({ base, whole });
    file.close();
    whole.drop(INO);
    expect(file.isRemoved()).toBe(false);
    const other = join(tempDir('other'), 'other');
    writeFileSync(other, 'other');
    const fd = openSync(other, 'r');
    onTestFinished(() => closeSync(fd));
    expect(whole.lookFor(INO, fd, base)).toBe(false);
    expect([held, whole.path(INO)]).toEqual([[], whole.place(INO)]);
    whole.createLive(INO, bytes, () => base);
    expect([readFileSync(whole.place(INO)), readFileSync(other)]).toEqual([bytes, Buffer.from('other')]);
  });

  test('is committed also where nothing takes its records, which is told once, and they are put back when something does', async () => {
    const reports: string[] = [];
    const whole = wholeFiles(undefined, 'boot', { report: (message) => reports.push(message) });
    whole.createLive(INO, bytes, () => base);
    const place = whole.place(INO);
    const file = openLive({ base, whole });
    const program = openSync(place, 'r+');
    onTestFinished(() => closeSync(program));
    for (const path of [place, `${place}.base`]) rmSync(path);
    const commit = async (text: string): Promise<void> => {
      // What is written first goes there.
      mkdirSync(`${place}.tmp`);
      writeSync(program, text, 0);
      await file.compare(file.record.content);
      file.committingInline(Buffer.from(text));
      expect(file.isRemoved()).toBe(true);
      file.committed();
      rmSync(`${place}.tmp`, { recursive: true });
    };
    await commit('first');
    await commit('second');
    expect(reports).toEqual([expect.stringMatching(/the next worker will not know inode 7: .*EISDIR/)]);
    expect(file.isRemoved()).toBe(true);
    expect(whole.records.base(INO)?.content.inline?.toString()).toBe('second');
    // One that is there is not of that commit.
    await commit('third');
    expect(file.isRemoved()).toBe(true);
    expect(whole.records.base(INO)?.content.inline?.toString()).toBe('third');
    file.close();
  });
});
