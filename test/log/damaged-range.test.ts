/** Stepping over what is damaged in a `file:` log: exactly the damaged batch, with a copy of its bytes, and everything behind it readable. */
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { openFileLogAt } from '../../lib/log/file/file-log.ts';
import type { Log } from '../../lib/log/log.ts';
import { encodeBatch, readValues, textBatch } from '../support/log-batches.ts';
import { tempDir } from '../support/temp.ts';

const BATCHES = 12;
const ROWS = 3;
/** Batch 4, with offsets 12 to 14, is the one that is damaged. */
const HIT = 4;

interface Written {
  readonly directory: string;
  readonly partition: string;
  readonly segment: string;
  /** Where each batch begins, and the end. */
  readonly at: readonly number[];
  readonly values: readonly string[];
}

async function openLog(directory: string): Promise<Log> {
  const log = await openFileLogAt(directory, { segmentBytes: 1 << 20, clock: systemClock });
  onTestFinished(() => log.close());
  return log;
}

/** Batches of three records; the values of batch HIT hold a whole batch themselves, as a mirror of a log would store them. */
async function write(): Promise<Written> {
  const directory = tempDir('damaged');
  const log = await openLog(directory);
  await log.ensureTopic('t', { partitions: 1, retentionMs: 3_600_000 });
  const producer = await log.producer();
  const values = Array.from({ length: BATCHES * ROWS }, (_, n) => `value ${n} ${'x'.repeat(50)}`);
  const at = [0];
  for (let n = 0; n < BATCHES; n++) {
    const own = values.slice(n * ROWS, (n + 1) * ROWS);
    const batch = n === HIT ? mirrored(own, producer, n * ROWS) : textBatch(own, producer, n * ROWS);
    await producer.append('t', 0, batch);
    at.push((at.at(-1) ?? 0) + batch.length);
  }
  await log.close();
  const partition = join(directory, 'topics/t/0');
  return { directory, partition, segment: join(partition, '00000000000000000000.log'), at, values };
}

function mirrored(
  values: readonly string[],
  { producerId, producerEpoch }: { readonly producerId: bigint; readonly producerEpoch: number },
  baseSequence: number,
): Buffer {
  const inner = encodeBatch([{ timestampMs: 1, key: null, value: Buffer.from('inner'), headers: [] }]);
  inner.writeBigInt64BE(20n, 0); // Not covered by its checksum, and an offset that this log has further on.
  return encodeBatch(
    values.map((value) => ({ timestampMs: 1, key: inner, value: Buffer.from(value), headers: [] })),
    { producerId, producerEpoch, baseSequence },
  );
}

/** Changes the bytes of batch HIT. */
function damage({ segment, at }: Written, change: (batch: Buffer) => void): void {
  const bytes = readFileSync(segment);
  change(bytes.subarray(at[HIT], at[HIT + 1]));
  writeFileSync(segment, bytes);
}

const flip = (offset: number) => (batch: Buffer) => batch.writeUInt8(batch.readUInt8(offset) ^ 1, offset);

test.each<readonly [string, (batch: Buffer) => void]>([
  ['a bit of a record', flip(300)],
  ['its length, too large', (batch) => batch.writeInt32BE(batch.length + 40, 8)],
  ['its length, too small', (batch) => batch.writeInt32BE(70, 8)],
  ['its length, beyond the file', (batch) => batch.writeInt32BE(1 << 29, 8)],
  ['its length, negative', (batch) => batch.writeInt32BE(-5, 8)],
  ['its version', flip(16)],
  ['its checksum', flip(18)],
  ['its offset', flip(3)],
  ['its last offset, too large', (batch) => batch.writeInt32BE(9, 23)],
  ['its last offset, too small', (batch) => batch.writeInt32BE(0, 23)],
  ['all of it, zeros', (batch) => batch.fill(0)],
])('a batch in the middle that is damaged in %s costs that batch alone', async (_what, change) => {
  const written = await write();
  damage(written, change);
  const first = BigInt(HIT * ROWS);
  const behind = BigInt((HIT + 1) * ROWS);
  const log = await openLog(written.directory);
  await expect(readValues(log, 't', 0)).rejects.toMatchObject({ code: 'corrupt' });
  // What stands behind it can be read, though nobody has said how to get there.
  expect(await readValues(log, 't', 0, behind)).toEqual(written.values.slice(Number(behind)));
  expect(await readValues(log, 't', 0, behind + 10n)).toEqual(written.values.slice(Number(behind) + 10));
  expect(await log.damagedRange?.('t', 0, first - 1n)).toBeNull();
  expect(await log.damagedRange?.('t', 0, behind)).toBeNull();

  const before = readFileSync(written.segment);
  const copy = join(written.partition, '00000000000000000012.damaged');
  const range = await log.damagedRange?.('t', 0, first);
  const [from = 0, to = 0] = [written.at[HIT], written.at[HIT + 1]];
  expect(range).toEqual({
    nextOffset: behind,
    description: `${written.segment} at byte ${from}: ${to - from} bytes are damaged, kept in ${copy}`,
  });
  expect(readFileSync(copy)).toEqual(before.subarray(from, to));
  expect(readFileSync(written.segment)).toEqual(before);
  await expect(log.fetch({ topic: 't', partition: 0, offset: first, maxBytes: 1, maxWaitMs: 0 })).rejects.toMatchObject(
    { code: 'corrupt' },
  );
});

test('two damaged batches with a good one between them are two ranges', async () => {
  const written = await write();
  damage(written, flip(300));
  const bytes = readFileSync(written.segment);
  bytes.writeInt32BE(7, (written.at[HIT + 2] ?? 0) + 8);
  writeFileSync(written.segment, bytes);
  const log = await openLog(written.directory);
  expect((await log.damagedRange?.('t', 0, 12n))?.nextOffset).toBe(15n);
  expect((await log.damagedRange?.('t', 0, 18n))?.nextOffset).toBe(21n);
  expect(await readValues(log, 't', 0, 21n)).toEqual(written.values.slice(21));
});

test('a segment that was cut short is read to where it was cut; the rest, up to the end of the log, is the range', async () => {
  const written = await write();
  const size = (written.at[9] ?? 0) + 70;
  truncateSync(written.segment, size);
  const log = await openLog(written.directory);
  expect((await log.fetch({ topic: 't', partition: 0, offset: 0n, maxBytes: 1 << 20, maxWaitMs: 0 })).nextOffset).toBe(
    27n,
  );
  await expect(readValues(log, 't', 0, 27n)).rejects.toThrow(`${written.segment} ends at byte ${size}, `);
  const range = await log.damagedRange?.('t', 0, 27n);
  expect(range?.nextOffset).toBe(BigInt(BATCHES * ROWS));
  expect(statSync(join(written.partition, '00000000000000000027.damaged')).size).toBe(70);
});
