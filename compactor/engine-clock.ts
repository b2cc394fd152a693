/** Whether this machine's clock can be believed when something is removed because of its age (lib/meta/engine-time.ts). */
import { CLOCK_SKEW_MS_MAX } from '../lib/clock.ts';
import { PenstockError } from '../lib/errors.ts';
import { engineTimeMs } from '../lib/meta/engine-time.ts';
import type { LakeContext } from '../lib/table/table.ts';

/** Throws `unavailable` when the clocks differ by more than CLOCK_SKEW_MS_MAX. */
export async function assertEngineClock(lake: LakeContext): Promise<void> {
  const differenceMs = Math.abs(lake.clock.nowMs() - (await engineTimeMs(lake.engine)));
  if (differenceMs <= CLOCK_SKEW_MS_MAX) return;
  throw new PenstockError(
    'unavailable',
    `the clock of this machine and that of the metadata engine differ by ${Math.round(differenceMs / 1000)} s: nothing is removed for its age`,
    { retryable: false },
  );
}
