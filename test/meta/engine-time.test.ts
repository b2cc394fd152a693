import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { CLOCK_SKEW_MS_MAX, systemClock } from '../../lib/clock.ts';
import { onEngineTime } from '../../lib/meta/engine-time.ts';
import { openMeta } from '../../lib/registry.ts';
import { tempDir } from '../support/temp.ts';
import { later } from '../tools/volume-bench.ts';

test('ages are counted by the time of the engine where the clock of this machine is off', async () => {
  const engine = await openMeta(`sqlite:${join(tempDir('engine-time'), 'meta.db')}`, { kind: 'test' });
  onTestFinished(() => engine.close());
  for (const days of [-400, 30]) {
    const clock = await onEngineTime(engine, later(days * 86_400_000));
    expect(Math.abs(clock.nowMs() - Date.now())).toBeLessThan(CLOCK_SKEW_MS_MAX);
  }
  // Set right while it is used, as by NTP.
  let aheadMs = 10 * 365 * 86_400_000;
  const set = await onEngineTime(engine, { ...systemClock, nowMs: () => Date.now() + aheadMs });
  aheadMs = 0;
  expect(Math.abs(set.nowMs() - Date.now())).toBeLessThan(CLOCK_SKEW_MS_MAX);
  expect(Number.isInteger(set.nowMs())).toBe(true);
  // One that is right stays: the engine's is some seconds late.
  expect(await onEngineTime(engine, systemClock)).toBe(systemClock);
});
