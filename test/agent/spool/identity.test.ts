import { cpSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { tempDir } from '../../support/temp.ts';
import { contentOf, readAll, readingOf, spoolIn } from './support.ts';

const segmentsIn = (dir: string): string[] =>
  readdirSync(dir)
    .filter((name) => name.endsWith('.seg'))
    .toSorted()
    .map((name) => join(dir, name));

/** What each stored reading is called, in the order of the sequences. */
async function namesIn(dir: string): Promise<string[]> {
  const spool = await spoolIn(dir);
  const entries = await readAll(spool);
  await spool.close();
  return entries.map((entry) => (entry.kind === 'reading' ? `${entry.incarnation}/${entry.seq}` : 'gap'));
}

async function storeIn(dir: string, ...values: string[]): Promise<void> {
  const spool = await spoolIn(dir);
  for (const value of values) await spool.append([readingOf(value)]);
  await spool.close();
}

test('a copied folder and its original never name two readings alike; a backlog keeps its names and the count goes on', async () => {
  const dir = tempDir();
  await storeIn(dir, 'a', 'b');
  const copy = join(tempDir(), 'copy');
  cpSync(dir, copy, { recursive: true });
  await storeIn(dir, 'c of the original');
  await storeIn(copy, 'c of the copy');
  const [original, copied] = [await namesIn(dir), await namesIn(copy)];
  expect(copied.slice(0, 2)).toEqual(original.slice(0, 2));
  expect(copied[2]).not.toBe(original[2]);
  const spool = await spoolIn(copy);
  expect(contentOf(await readAll(spool))).toEqual(['a', 'b', 'c of the copy']);
});

test('a spool that is put back from a backup, over the newer one or in its place, gives no name out twice', async () => {
  const [dir, backup] = [tempDir(), join(tempDir(), 'backup')];
  const spool = await spoolIn(dir);
  await spool.append([readingOf('a')]);
  // Of the running agent, as a backup at night is.
  cpSync(dir, backup, { recursive: true });
  await spool.append([readingOf('b')]);
  await spool.close();
  const sent = new Set(await namesIn(dir));
  cpSync(backup, dir, { recursive: true, preserveTimestamps: true });
  await storeIn(dir, 'c');
  expect((await namesIn(dir)).slice(1).filter((name) => sent.has(name))).toEqual([]);
  for (const name of await namesIn(dir)) sent.add(name);
  rmSync(dir, { recursive: true });
  cpSync(backup, dir, { recursive: true, preserveTimestamps: true });
  await storeIn(dir, 'd');
  expect((await namesIn(dir)).slice(1).filter((name) => sent.has(name))).toEqual([]);
});

test('where somebody deleted all segments, or the newest, no name is given out twice', async () => {
  const dir = tempDir();
  await storeIn(dir, 'a');
  await storeIn(dir, 'b');
  const sent = new Set(await namesIn(dir));
  const remove = (names: string[]): void => names.forEach((name) => rmSync(name));
  remove(segmentsIn(dir).slice(1));
  await storeIn(dir, 'c');
  expect((await namesIn(dir)).slice(1).filter((name) => sent.has(name))).toEqual([]);
  remove(segmentsIn(dir));
  await storeIn(dir, 'd');
  expect((await namesIn(dir)).filter((name) => sent.has(name))).toEqual([]);
});

test('the record of a gap names the incarnation whose readings it were, over several starts', async () => {
  const dir = tempDir();
  const small = { maxBytes: 1_048_576, whenFull: 'dropOldest' as const };
  const owners: string[] = [];
  const stored = new Map<number, string>();
  for (const count of [60, 120, 0, 160]) {
    const spool = await spoolIn(dir, small);
    const { incarnation } = spool.identity;
    owners.push(incarnation);
    for (let n = 0; n < count; n += 1) {
      await spool.append([readingOf('.'.repeat(10_000))]);
      stored.set(Number(spool.lastSeq('t')), incarnation);
    }
    await spool.close();
  }
  const spool = await spoolIn(dir, small);
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
  const again = await spoolIn(dir, small);
  await again.recordGap({ kind: 'gap', topic: 't', fromSeq: 1n, toSeq: 1n, reason: 'r' });
  const last = (await readAll(again, 'penstock.gaps')).at(-1);
  expect(last?.kind === 'reading' ? JSON.parse(last.value.toString()) : null).toMatchObject({ incarnation: null });
});
