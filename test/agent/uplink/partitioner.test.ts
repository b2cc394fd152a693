import { expect, test } from 'vitest';
import { murmur2, partitionOf } from '../../../agent/uplink/partitioner.ts';

test('murmur2 gives what Kafka gives', () => {
  // org.apache.kafka.common.utils.UtilsTest.testMurmur2
  const cases: [string, number][] = [
    ['21', -973932308],
    ['foobar', -790332482],
    ['a-little-bit-long-string', -985981536],
    ['a-little-bit-longer-string', -1486304829],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
    ['abc', 479470107],
  ];
  for (const [text, hash] of cases) expect(murmur2(Buffer.from(text)), text).toBe(hash);
});

test('readings of a sensor stay together, those without a key are spread in blocks', () => {
  expect(partitionOf(Buffer.from('s'), 1n, 5)).toBe(partitionOf(Buffer.from('s'), 999_999n, 5));
  const spread = new Set(Array.from({ length: 20_000 }, (_, seq) => partitionOf(null, BigInt(seq), 3)));
  expect([...spread].sort()).toEqual([0, 1, 2]);
  expect(partitionOf(null, 4096n, 3)).toBe(partitionOf(null, 4097n, 3));
});
