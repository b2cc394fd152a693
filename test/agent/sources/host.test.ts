import { totalmem } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { HostMetrics, hostSource } from '../../../agent/sources/host.ts';
import { tempDir } from '../../support/temp.ts';
import { readAll, spoolIn } from '../spool/support.ts';
import { runSource, sourceConfig } from './support.ts';

test.skipIf(process.platform !== 'linux')('the metrics are those of this machine', async () => {
  const host = new HostMetrics();
  const first = new Map((await host.sample(1000)).map((metric) => [metric.sensor, metric]));
  expect(first.get('memory.total')).toEqual({ sensor: 'memory.total', value: totalmem(), unit: 'bytes' });
  expect(first.get('disk.root.free')?.value).toBeGreaterThan(0);
  // Rates need a second sample; the clock says that a second passed.
  expect(first.has('cpu.usage')).toBe(false);
  const second = new Map((await host.sample(2000)).map((metric) => [metric.sensor, metric]));
  expect(second.get('cpu.usage')).toMatchObject({ unit: '%' });
  expect(second.get('net.lo.receive')?.value).toBeGreaterThanOrEqual(0);
  for (const metric of second.values()) expect(Number.isFinite(metric.value)).toBe(true);
});

test('each metric is a reading of its own, with the sensor as its key', async () => {
  const dir = tempDir();
  const spool = await spoolIn(join(dir, 'spool'));
  runSource(hostSource(sourceConfig({ type: 'host', interval: '100ms', to: 't' }), 0), spool, dir);
  await expect.poll(() => spool.lastSeq('t')).toBeGreaterThan(10n);
  for (const entry of await readAll(spool)) {
    if (entry.kind !== 'reading') throw new Error('a gap');
    const value = JSON.parse(entry.value.toString()) as { sensor: string; ts: number; value: number; unit: string };
    expect(value.sensor).toBe(entry.key?.toString());
    expect(value.ts * 1000).toBe(entry.eventUs);
    expect(typeof value.value).toBe('number');
  }
});
