/** What is kept aside of a file, and what is left where it cannot be. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { KeptAside } from '../../fs-gateway/data/kept-aside.ts';
import { Segments } from '../../fs-gateway/data/segments.ts';
import { StagedFile } from '../../fs-gateway/data/staged-file.ts';
import { tempDir } from '../support/temp.ts';

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
