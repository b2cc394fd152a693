import { expect, test } from 'vitest';
import { placeOf } from './place-of.ts';
import { ReadingEncoder, recordsOf } from '../../../agent/uplink/reading-record.ts';
import { RecordBatchBuilder } from '../../../lib/log/batch-builder.ts';
import { decodeRecords } from '../../../lib/log/batch-reader.ts';
import type { SpooledReading } from '../../../agent/spool/spool-reader.ts';

test('what fits a batch, behind others or alone, fits an empty one when it is packed again', () => {
  const encoder = new ReadingEncoder();
  const identity = { agent: 'edge-ü', incarnation: 'a'.repeat(36) };
  const common = {
    kind: 'reading',
    topic: 't',
    ...identity,
    eventUs: -1,
    arrivalUs: 2,
    priority: 0,
    replayed: false,
  };
  let fitting = 0;
  for (let bytes = 9_400; bytes < 10_000; bytes += 1) {
    for (const others of [0, 1, 200]) {
      const builder = new RecordBatchBuilder(10_000 + others * 200);
      const reading = (seq: bigint, length: number): SpooledReading => {
        const [key, value] = [Buffer.from('k'), Buffer.alloc(length, 'x')];
        return { ...common, seq, key, value, place: placeOf(key, value) } as SpooledReading; // `kind` widened
      };
      for (let n = 0; n < others; n += 1) encoder.add(builder, reading(BigInt(n), 20), 1_000_000 + n, false);
      // The last one, with the longest numbers.
      if (!encoder.add(builder, reading(2n ** 53n, bytes), 9_000_000_000_000, false)) continue;
      fitting += 1;
      const identityOfProducer = { producerId: 1n, producerEpoch: 0, baseSequence: 0 };
      const last = recordsOf(builder.seal(identityOfProducer, 'none'), 't').at(-1);
      expect(last?.addTo(new RecordBatchBuilder(10_000 + others * 200))).toBe(true);
    }
  }
  expect(fitting).toBeGreaterThan(100);
});

test('writes a record of a reading as it lies in memory, with its numbers to the last digit', () => {
  const identity = { producerId: 1n, producerEpoch: 0, baseSequence: 0 };
  const times = [0, -1, 9, 10, -10, 1_790_000_000_000_000, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER];
  for (const key of [null, Buffer.alloc(0), Buffer.from('sensor-ü')]) {
    for (const value of [Buffer.alloc(0), Buffer.from('{"a":1}'), Buffer.alloc(300, 'x')]) {
      const builder = new RecordBatchBuilder(10_000);
      const encoder = new ReadingEncoder();
      for (const [index, eventUs] of times.entries()) {
        const common = {
          kind: 'reading',
          topic: 't',
          agent: 'a',
          incarnation: 'i',
          priority: 0,
          replayed: true,
        } as const;
        const reading = {
          ...common,
          seq: BigInt(index),
          key,
          value,
          place: placeOf(key, value),
          eventUs,
          arrivalUs: 7,
        };
        encoder.add(builder, reading, 1000, false);
      }
      const records = decodeRecords(builder.seal(identity, 'none'), 't');
      const headersOf = (index: number): Record<string, string | undefined> =>
        Object.fromEntries((records[index]?.headers ?? []).map(([name, bytes]) => [name, bytes?.toString()]));
      for (const [index, eventUs] of times.entries()) {
        expect(records[index]).toMatchObject({ key, value });
        expect(headersOf(index)).toEqual({
          agent: 'a',
          incarnation: 'i',
          seq: String(index),
          event: String(eventUs),
          arrival: '7',
          replayed: '0',
        });
      }
    }
  }
});
