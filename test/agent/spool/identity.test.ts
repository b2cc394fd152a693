import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { tempDir } from '../../support/temp.ts';
import { contentOf, readAll, readingOf, spoolIn } from './support.ts';

test('a folder copied to another machine gets a new incarnation; its backlog keeps the old one and the count goes on', async () => {
  const dir = tempDir();
  const original = await spoolIn(dir, { machine: 'here' });
  await original.append([readingOf('a'), readingOf('b')]);
  await original.close();
  const copy = join(tempDir(), 'copy');
  cpSync(dir, copy, { recursive: true });
  const clone = await spoolIn(copy, { machine: 'there' });
  await clone.append([readingOf('c')]);
  expect(clone.identity.incarnation).not.toBe(original.identity.incarnation);
  const entries = await readAll(clone);
  expect(contentOf(entries)).toEqual(['a', 'b', 'c']);
  expect(entries.map((entry) => entry.kind === 'reading' && entry.incarnation)).toEqual([
    original.identity.incarnation,
    original.identity.incarnation,
    clone.identity.incarnation,
  ]);
  const again = await spoolIn(dir, { machine: 'here' });
  expect(again.identity).toEqual(original.identity);
});

test('another agent id, or a damaged identity file, renews the incarnation', async () => {
  const dir = tempDir();
  const first = await spoolIn(dir);
  await first.close();
  const renamed = await spoolIn(dir, { agent: 'b' });
  expect(renamed.identity).toMatchObject({ agent: 'b' });
  expect(renamed.identity.incarnation).not.toBe(first.identity.incarnation);
  await renamed.close();
  writeFileSync(join(dir, 'identity.json'), '{"agent":"b","incar');
  const third = await spoolIn(dir, { agent: 'b' });
  expect(third.identity.incarnation).not.toBe(renamed.identity.incarnation);
});
