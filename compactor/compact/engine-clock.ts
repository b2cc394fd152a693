/**
 * Whether this machine's clock can be believed when something is removed because of its age: one that is a day ahead would end every grace
 * period at once. The metadata engine is the witness.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { LakeContext } from '../../lib/table/table.ts';

const CLOCK_SKEW_MS_MAX = 300_000;

/** Throws `unavailable` when the clocks differ by more than CLOCK_SKEW_MS_MAX. */
export async function assertEngineClock(lake: LakeContext): Promise<void> {
  // The engine renews our session by its own clock, some seconds ago.
  const own = (await lake.engine.sessions()).find((session) => session.id === lake.engine.sessionId);
  const differenceMs = Math.abs(lake.clock.nowMs() - (own?.renewedMs ?? NaN));
  if (differenceMs <= CLOCK_SKEW_MS_MAX) return;
  throw new PenstockError(
    'unavailable',
    `the clock of this machine and that of the metadata engine differ by ${Math.round(differenceMs / 1000)} s: nothing is removed for its age`,
    { retryable: false },
  );
}
