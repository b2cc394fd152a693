import { expect, test } from 'vitest';
import { RecordBatchBuilder } from '../../lib/log/batch-builder.ts';
import type { TestRecord } from '../support/log-batches.ts';
import { deadLetters } from './dead-letters.ts';
import {
  compactAll,
  expectAccounts,
  foreignRecord,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  readRows,
  recordOf,
  TestProducer,
} from './pipeline.ts';

const good = { sensor: 's', ts: HOUR_MS, rms: 1.5, ok: true, place: { x: 1 } };
const withHeader = (name: string, value: string): TestRecord => {
  const record = recordOf({ seq: 1, value: good });
  return { ...record, headers: [...record.headers.filter(([other]) => other !== name), [name, Buffer.from(value)]] };
};
const bytes = (value: Uint8Array): TestRecord => ({ ...foreignRecord(''), value });
const deep = '['.repeat(200) + ']'.repeat(200);

const cases: readonly (readonly [name: string, record: TestRecord, reason: string])[] = [
  ['malformed JSON', foreignRecord('{"sensor": "s"'), 'not JSON'],
  ['an array', foreignRecord('[1]'), 'not a JSON object'],
  ['no value', { ...foreignRecord(''), value: null }, 'no value'],
  ['bytes that are no UTF-8', bytes(Buffer.from([0x7b, 0xff, 0x7d])), 'not UTF-8'],
  ['a text where numbers were', foreignRecord({ ...good, rms: 'high' }), 'field rms: expected double, got "high"'],
  ['a number that is too large', foreignRecord('{"sensor":"s","rms":1e999}'), 'field rms'],
  ['a text without UTF-8', foreignRecord('{"sensor":"\\ud800"}'), 'field sensor'],
  ['nesting without end', foreignRecord(`{"place":${deep}}`), 'nested deeper than 64'],
  ['an event time that is none', foreignRecord({ ...good, ts: 'yesterday' }), 'field ts'],
  ['an event time before 1970', foreignRecord({ ...good, ts: -5 }), 'field ts: -5 is no time from 1970 to 9999'],
  ['a seq that is no number', withHeader('seq', '12x'), 'seq is not a whole number'],
  ['half an identity', { ...foreignRecord(good), headers: [['agent', Buffer.from('e')]] }, 'not all there'],
  ['a name of the lander', foreignRecord({ ...good, _seq: 4 }), '_seq has the name of a column'],
  ['the name of the hidden column', foreignRecord({ ...good, _hour: 4 }), '_hour has the name of a column'],
  ['an integer beyond 64 bits', foreignRecord('{"sensor":"s","ts":1e20}'), 'not exact in 64 bits'],
  ['a name that differs in case', foreignRecord({ ...good, RMS: 4 }), 'field RMS'],
];

test('each bad record goes to quarantine with its reason and its bytes, and its neighbours land', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  // A good record before and after each bad one, in one batch, so that nothing of a bad one stays behind in a row.
  const neighbour = (n: number): TestRecord =>
    recordOf({ seq: n, value: { ...good, sensor: `neighbour number ${n}` } });
  const records = cases.flatMap(([, bad], n) => [neighbour(n), bad]);
  await producer.append(0, [...records, neighbour(cases.length)]);
  const result = await landOnce(pipeline);
  expect(result.summary).toMatchObject({ rows: cases.length + 1, quarantined: cases.length });
  const rows = await readRows(pipeline.lake);
  expect(rows.map((row) => row['sensor'])).toEqual(rows.map((_, n) => `neighbour number ${n}`));
  expect(rows.every((row) => row['place'] === '{"x":1}' && row['rms'] === 1.5)).toBe(true);
  const letters = await deadLetters(pipeline);
  for (const [n, [name, bad, reason]] of cases.entries()) {
    const letter = letters.find((row) => row['offset'] === BigInt(2 * n + 1));
    expect(letter?.['reason'], name).toContain(reason);
    const raw = letter?.['value'];
    expect(raw instanceof Uint8Array ? Buffer.from(raw) : raw, name).toEqual(
      bad.value === null ? null : Buffer.from(bad.value),
    );
    expect(letter).toMatchObject({ topic: 'vibration', partition: 0 });
  }
  await compactAll(pipeline);
  await expectAccounts(pipeline.lake, { quarantined: cases.length, liveRows: cases.length + 1 });
});

test('a value above 1 MiB and a fraction among integers are refused', async () => {
  const pipeline = await openTestPipeline();
  const producer = new TestProducer(pipeline.log);
  await producer.append(0, [recordOf({ seq: 0, value: good })]);
  await landOnce(pipeline);
  await producer.append(0, [foreignRecord({ ...good, ts: HOUR_MS + 0.5 })]);
  const builder = new RecordBatchBuilder(3 << 20);
  builder.add(HOUR_MS, null, Buffer.from(JSON.stringify({ ...good, note: 'x'.repeat(1 << 20) })));
  const large = await pipeline.log.producer();
  const identity = { producerId: large.producerId, producerEpoch: large.producerEpoch, baseSequence: 0 };
  await large.append('vibration', 0, builder.seal(identity, 'zstd'));
  expect((await landOnce(pipeline)).summary).toMatchObject({ rows: 0, quarantined: 2 });
  const reasons = (await deadLetters(pipeline)).map((row) => row['reason']);
  expect(reasons[0]).toContain('field ts: expected long, got');
  expect(reasons[1]).toContain('more than 1 MiB');
});

test('a topic of nothing but bad records moves on without a table', async () => {
  const pipeline = await openTestPipeline();
  await new TestProducer(pipeline.log).append(0, [foreignRecord('?'), foreignRecord('!')]);
  expect((await landOnce(pipeline)).summary).toEqual({ records: 2, rows: 0, quarantined: 2, lost: 0, files: 0 });
  expect((await landOnce(pipeline)).summary.records).toBe(0);
  await expectAccounts(pipeline.lake, { landed: 2, quarantined: 2, liveRows: 0 });
});

test('thousands of bad records in one commit', async () => {
  const pipeline = await openTestPipeline();
  const mixed = Array.from({ length: 9000 }, (_, n) =>
    n % 3 === 0
      ? recordOf({ seq: n, value: { ...good, note: `a text that is long enough ${n}` } })
      : foreignRecord(`bad ${n}`),
  );
  await new TestProducer(pipeline.log).append(0, mixed);
  expect((await landOnce(pipeline)).summary).toMatchObject({ records: 9000, rows: 3000, quarantined: 6000 });
  const rows = await readRows(pipeline.lake);
  expect(rows.every((row) => row['note'] === `a text that is long enough ${String(row['_seq'])}`)).toBe(true);
  expect(await deadLetters(pipeline)).toHaveLength(6000);
});
