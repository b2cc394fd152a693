/**
 * Objects that a commit is about to refer to are safe from the removal of orphans because they are young, and their age is a matter of
 * the wall clock. When that is set forward between the put and the commit (a machine that learns the time after its start), they look
 * old at once.
 */
import type { Clock } from '../lib/clock.ts';
import { PenstockError } from '../lib/errors.ts';

/** Far below the grace for orphans, which is an hour at least; far above what a clock is slewed by. */
const JUMP_MS_MAX = 600_000;

/** Begun before the first put; the function is called before the commit and throws `conflict` when the clock was set forward since. */
export function watchClock(clock: Clock): () => void {
  const offsetMs = clock.nowMs() - clock.monotonicMs();
  return () => {
    const jumpedMs = clock.nowMs() - clock.monotonicMs() - offsetMs;
    if (jumpedMs <= JUMP_MS_MAX) return;
    const message = `the clock was set forward by ${Math.round(jumpedMs / 1000)} s while files were written: they are written again`;
    throw new PenstockError('conflict', message);
  };
}
