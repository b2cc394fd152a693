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

test('the record of a gap names the incarnation whose readings it were, over several that were renewed', async () => {
  const dir = tempDir();
  const small = { maxBytes: 1_048_576, whenFull: 'dropOldest' as const };
  const owners: string[] = [];
  const stored = new Map<number, string>();
  for (const machine of ['first', 'second', 'second', 'third', 'fourth']) {
    const spool = await spoolIn(dir, { ...small, machine });
    const count = { third: 0, fourth: 160 }[machine] ?? 60;
    const { incarnation } = spool.identity;
    if (!owners.includes(incarnation)) owners.push(incarnation);
    for (let n = 0; n < count; n += 1) {
      await spool.append([readingOf('.'.repeat(10_000))]);
      stored.set(Number(spool.lastSeq('t')), incarnation);
    }
    await spool.close();
  }
  const spool = await spoolIn(dir, { ...small, machine: 'fourth' });
  const gaps = (await readAll(spool)).filter((entry) => entry.kind === 'gap');
  for (const gap of gaps) await spool.recordGap(gap);
  const told = (await readAll(spool, 'penstock.gaps')).flatMap((entry) =>
    entry.kind === 'reading'
      ? [JSON.parse(entry.value.toString()) as { incarnation: string; fromSeq: number; toSeq: number }]
      : [],
  );
  // One record for each of the first two, which are gone whole, and one for the beginning of the last.
  expect(told.map(({ incarnation }) => incarnation)).toEqual([owners[0], owners[1], owners[3]]);
  for (const { incarnation, fromSeq, toSeq } of told) {
    for (let seq = fromSeq; seq <= toSeq; seq += 1) expect(stored.get(seq)).toBe(incarnation);
  }
  expect(told[0]).toMatchObject({ fromSeq: 1, toSeq: 60 });
  expect(told[2]?.toSeq).toBe(Number(gaps.at(-1)?.toSeq));
  // What is acknowledged is nobody's any more.
  spool.acknowledge('t', 180n);
  await spool.sync();
  await spool.close();
  const again = await spoolIn(dir, { ...small, machine: 'fourth' });
  await again.recordGap({ kind: 'gap', topic: 't', fromSeq: 1n, toSeq: 1n, reason: 'r' });
  const last = (await readAll(again, 'penstock.gaps')).at(-1);
  expect(last?.kind === 'reading' ? JSON.parse(last.value.toString()) : null).toMatchObject({ incarnation: null });
});
