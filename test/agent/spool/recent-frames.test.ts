import { readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { PackedReadings } from '../../../agent/spool/packed-readings.ts';
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

test('memory of frames is used again, but not what somebody still reads', async () => {
  const spool = await spoolIn(tempDir());
  const values = (n: number): string[] =>
    Array.from({ length: 12 }, (_, index) => `${n} ${index} `.padEnd(20_000, `${n}`));
  const memory = new Set<ArrayBufferLike>();
  const append = async (n: number): Promise<void> => {
    const packed = new PackedReadings('t', 5, 250_000);
    for (const value of values(n)) packed.add({ ...readingOf(value), value: Buffer.from(value) });
    for (const { payload } of packed.payloads) memory.add(payload.buffer);
    await spool.append(packed);
  };
  await append(0);
  const held = await spool.read('t', 0n, 10_000_000);
  for (let n = 1; n < 60; n += 1) {
    await append(n);
    const read = await spool.read('t', BigInt(n * 12), 10_000_000);
    expect(read.map((entry) => entry.kind === 'reading' && entry.value.toString())).toEqual(values(n));
    spool.done(read);
  }
  expect(memory.size).toBeLessThan(20);
  expect(contentOf(held)).toEqual(values(0));
  spool.done(held);
  expect(contentOf(await readAll(spool, 't', 1_000_000))).toEqual(
    Array.from({ length: 60 }, (_, n) => values(n)).flat(),
  );
});
