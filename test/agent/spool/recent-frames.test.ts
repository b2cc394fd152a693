import { readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { tempDir } from '../../support/temp.ts';
import { contentOf, readAll, readingOf, spoolIn } from './support.ts';

test('what was written last is read from memory, what came before from the disk, in one order', async () => {
  const dir = tempDir();
  const spool = await spoolIn(dir, { segmentBytes: 1024 * 1024 });
  const values = Array.from({ length: 60 }, (_, index) => `${index}`.padEnd(50_000, 'x'));
  // Some groups of one reading, some of several, in several segments: more than is kept.
  for (let at = 0; at < values.length; at += 1 + (at % 4)) {
    await spool.append(values.slice(at, at + 1 + (at % 4)).map((value) => readingOf(value)));
  }
  for (const maxBytes of [1, 120_000, 10_000_000]) {
    expect(contentOf(await readAll(spool, 't', maxBytes))).toEqual(values);
  }
  const segment = join(
    dir,
    readdirSync(dir)
      .filter((name) => name.endsWith('.seg'))
      .sort()
      .at(-1) ?? '',
  );
  await spool.append([readingOf('last')]);
  renameSync(segment, `${segment}.away`);
  const [entry] = await spool.read('t', 60n, 1);
  expect(entry).toMatchObject({ kind: 'reading', seq: 61n, value: Buffer.from('last') });
  renameSync(`${segment}.away`, segment);
});
