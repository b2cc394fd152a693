/** What is kept aside of a file, and what is left where it cannot be. */
import { globSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { FrameKind, HEAD_BYTES, readJournal } from '../../fs-gateway/data/journal-frames.ts';
import { KeptAside } from '../../fs-gateway/data/kept-aside.ts';
import { Segments } from '../../fs-gateway/data/segments.ts';
import { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { isRoot, LoopDisk, memoryFolder } from '../support/loop-disk.ts';
import { openStaging } from '../support/staging.ts';
import { tempDir } from '../support/temp.ts';

const MIB = 2 ** 20;
const SEGMENT = Buffer.alloc(MIB, 'a');

test('what cannot be kept whole leaves nothing, however often it is tried: a full disk would stay full', async () => {
  const dir = join(tempDir('aside'), 'aside');
  const file = new StagedFile(7, 0, new Segments(tempDir('staging')));
  file.spill();
  file.store(0, Buffer.alloc(3_000_000, 'a'));
  const aside = new KeptAside(dir);
  for (let n = 0; n < 3; n++)
    await expect(aside.keep(file, 4_000_000, [{ start: 0, end: 4_000_000, kind: 'data' }], n)).rejects.toThrow(
      'ends at',
    );
  expect(readdirSync(dir)).toEqual([]);
  const path = await aside.keep(file, 4_000_000, [{ start: 1, end: 3_000_000, kind: 'data' }], 4);
  expect(readFileSync(path).equals(Buffer.alloc(3_000_000, 'a').fill(0, 0, 1))).toBe(true);
  file.discard(false);
});

test('a file that is longer than the local disk allows is kept: its size stands beside it', async () => {
  const file = new StagedFile(7, 2 ** 50, new Segments(tempDir('staging')));
  file.store(0, Buffer.from('first'));
  const aside = new KeptAside(join(tempDir('aside'), 'aside'));
  const ranges = [
    { start: 0, end: 5, kind: 'data' },
    { start: 2 ** 30, end: 2 ** 50, kind: 'hole' },
  ] as const;
  const path = await aside.keep(file, 2 ** 50, ranges, 1);
  expect(readFileSync(path, 'utf8')).toBe('first');
  expect(JSON.parse(readFileSync(`${path}.json`, 'utf8'))).toEqual({ inode: 7, size: 2 ** 50, ranges });
});

/** A staging area with a segment of inode 7. */
function stage(dir: string): void {
  const first = openStaging(dir, 'boot');
  first.write(first.begin(7, 0), 0, SEGMENT, 1n);
  first.close();
}

/** What the journal says of the segment is damaged, and says that it is of inode 8. */
function makeDoubtful(dir: string): void {
  stage(dir);
  const path = join(dir, 'journal');
  const journal = readFileSync(path);
  const begun = readJournal(journal, path).frames.find(({ kind }) => kind === FrameKind.SEGMENT);
  journal.writeDoubleLE(8, (begun?.at ?? NaN) + HEAD_BYTES + 1);
  writeFileSync(path, journal);
}

/** Two workers begin and end; returns what the first of them reports. */
function startTwice(dir: string): string {
  const reports: string[] = [];
  openStaging(dir, 'boot', 'one', () => false, reports).close();
  openStaging(dir, 'boot').close();
  return reports.join('\n');
}

test('the handles of an inode with a doubtful segment hear of it also where the damaged frame names another inode', () => {
  const dir = tempDir('staging');
  makeDoubtful(dir);
  const next = openStaging(dir, 'boot');
  expect(next.losses).toMatchObject([
    { ino: 7, message: expect.stringContaining(`inode 7, bytes 0 to ${MIB}: kept in `) as string },
    { ino: 8, message: expect.stringContaining('journal is damaged') as string },
  ]);
  next.close();
});

test.skipIf(!isRoot)('a doubtful segment is kept also where a full disk has no room for its record', () => {
  const dir = memoryFolder('4m');
  makeDoubtful(dir);
  expect(() => writeFileSync(join(dir, 'others'), Buffer.alloc(4 * MIB))).toThrow('ENOSPC');
  const told = startTwice(dir);
  const [kept = '', ...more] = globSync(join(dir, 'aside', '*'));
  expect([readFileSync(kept).equals(SEGMENT), more]).toEqual([true, []]);
  expect(told).toContain(`kept in ${kept}, without its .json (ENOSPC`);
});

test('a doubtful segment that cannot be moved is not removed by the next worker, whose journal is whole', () => {
  const dir = tempDir('staging');
  makeDoubtful(dir);
  writeFileSync(join(dir, 'aside'), 'in the way');
  const told = startTwice(dir);
  const path = join(dir, 'doubtful.7.0.1');
  expect(readFileSync(path).equals(SEGMENT)).toBe(true);
  expect(readFileSync(`${path}.json`, 'utf8')).toContain('"inode":7');
  expect(told).toContain(`inode 7, bytes 0 to ${MIB}: kept in ${path}`);
});

test.skipIf(!isRoot)(
  'a doubtful segment that was kept survives a power cut, as the journal does not speak of it',
  () => {
    const disk = LoopDisk.make(tempDir('loop'));
    const dir = join(disk.mountpoint, 'mount');
    makeDoubtful(dir);
    startTwice(dir);
    const [kept = ''] = globSync(join(disk.afterPowerCut().mountpoint, 'mount', 'aside', '*.0'));
    expect(readFileSync(kept).equals(SEGMENT)).toBe(true);
    expect(readFileSync(`${kept}.json`, 'utf8')).toContain('"inode":7');
  },
);

test('a segment of a staged file that a whole journal does not know is kept, and not removed', () => {
  const dir = tempDir('staging');
  stage(dir);
  renameSync(join(dir, '7.0.1'), join(dir, '7.0.9'));
  const told = startTwice(dir);
  const [kept = ''] = globSync(join(dir, 'aside', '*-7.0'));
  expect(readFileSync(kept).equals(SEGMENT)).toBe(true);
  expect(told).toContain(`inode 7, bytes 0 to ${MIB}: kept in ${kept}`);
});
