/**
 * The metadata engine's time, which all machines of a lake share. By it is seen whether this machine's clock can be believed when something is
 * removed because of its age: one that is a day ahead would end every grace period at once.
 */
import { CLOCK_SKEW_MS_MAX } from '../lib/clock.ts';
import { PenstockError } from '../lib/errors.ts';
import type { LakeContext } from '../lib/table/table.ts';

/** By the engine's clock: epoch ms, some seconds late. NaN: it does not know us any more. */
export async function engineTimeMs(lake: LakeContext): Promise<number> {
  // The engine renews our session by its own clock, some seconds ago.
  const own = (await lake.engine.sessions()).find((session) => session.id === lake.engine.sessionId);
  return own?.renewedMs ?? NaN;
}

/** The lake with a clock that tells the engine's time, where this machine's is off: what others will count ages from. */
export async function onEngineTime(lake: LakeContext): Promise<LakeContext> {
  const { clock } = lake;
  const aheadMs = clock.nowMs() - (await engineTimeMs(lake));
  if (!(Math.abs(aheadMs) > CLOCK_SKEW_MS_MAX)) return lake;
  return { ...lake, clock: { nowMs: () => clock.nowMs() - aheadMs, monotonicMs: () => clock.monotonicMs() } };
}

/** Throws `unavailable` when the clocks differ by more than CLOCK_SKEW_MS_MAX. */
export async function assertEngineClock(lake: LakeContext): Promise<void> {
  const differenceMs = Math.abs(lake.clock.nowMs() - (await engineTimeMs(lake)));
  if (differenceMs <= CLOCK_SKEW_MS_MAX) return;
  throw new PenstockError(
    'unavailable',
    `the clock of this machine and that of the metadata engine differ by ${Math.round(differenceMs / 1000)} s: nothing is removed for its age`,
    { retryable: false },
  );
}
