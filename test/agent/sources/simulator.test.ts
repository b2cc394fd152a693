import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makeReadings, simulatorSource } from '../../../agent/sources/simulator.ts';
import { tempDir } from '../../support/temp.ts';
import { contentOf, readAll, spoolIn } from '../spool/support.ts';
import { runSource, sourceConfig } from './support.ts';

const config = sourceConfig({ type: 'simulator', rate: 100_000, sensors: 7, seed: 42, to: 't', count: 5000 });

test('the values depend on seed and number only', () => {
  const whole = makeReadings(config, 0, 1000, 1_700_000_000_000);
  const parts = [
    ...makeReadings(config, 0, 300, 1_700_000_000_000),
    ...makeReadings(config, 300, 700, 1_700_000_000_000),
  ];
  expect(parts).toEqual(whole);
  expect(makeReadings({ ...config, seed: 43 }, 0, 1000, 1_700_000_000_000)).not.toEqual(whole);
  const values = whole.map(({ value }) => JSON.parse(String(value)) as Record<string, number | string>);
  expect(new Set(values.map(({ sensor }) => sensor)).size).toBe(7);
  for (const value of values) {
    expect(value['rms']).toBeGreaterThan(0.3);
    expect(value['peak']).toBeGreaterThan(Number(value['rms']));
    expect(value['temperature']).toBeGreaterThan(37);
    expect(value['temperature']).toBeLessThan(73);
  }
});

test('after a restart the numbers go on; the count ends it', async () => {
  const dir = tempDir();
  const first = await spoolIn(join(dir, 'spool'));
  const running = runSource(simulatorSource({ ...config, rate: 5000 }, 0), first, dir);
  await expect.poll(() => first.lastSeq('t')).toBeGreaterThan(100n);
  await running.stop();
  await first.close();
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(simulatorSource(config, 0), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBe(5000n);
  const numbers = contentOf(await readAll(spool)).map((value) => (JSON.parse(String(value)) as { n: number }).n);
  expect(numbers).toEqual(Array.from({ length: 5000 }, (_, index) => index));
});
