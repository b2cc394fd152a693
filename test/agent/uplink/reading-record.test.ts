import { expect, test } from 'vitest';
import { ReadingEncoder, recordsOf } from '../../../agent/uplink/reading-record.ts';
import { RecordBatchBuilder } from '../../../lib/log/batch-builder.ts';
import type { SpooledReading } from '../../../agent/spool/spool-reader.ts';

test('what fits a batch, behind others or alone, fits an empty one when it is packed again', () => {
  const encoder = new ReadingEncoder();
  const identity = { agent: 'edge-ü', incarnation: 'a'.repeat(36) };
  const common = {
    kind: 'reading',
    topic: 't',
    ...identity,
    eventUs: -1n,
    arrivalUs: 2n,
    priority: 0,
    replayed: false,
  };
  let fitting = 0;
  for (let bytes = 9_400; bytes < 10_000; bytes += 1) {
    for (const others of [0, 1, 200]) {
      const builder = new RecordBatchBuilder(10_000 + others * 200);
      const reading = (seq: bigint, length: number): SpooledReading =>
        ({ ...common, seq, key: Buffer.from('k'), value: Buffer.alloc(length, 'x') }) as SpooledReading; // `kind` widened
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
