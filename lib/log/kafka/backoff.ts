/**
 * The one way in which this adapter tries again: with growing, jittered pauses, until a deadline.
 */
import type { Clock } from '../../clock.ts';
import { isPassing } from './broker-errors.ts';

const FIRST_PAUSE_MS = 25;
const PAUSE_MS_MAX = 1000;

/** The pause before attempt `attempt` (1 is the first repeat): doubles, with up to half of it at random so that clients spread. */
export function pauseMs(attempt: number, random: () => number): number {
  return Math.min(PAUSE_MS_MAX, FIRST_PAUSE_MS * 2 ** Math.min(attempt - 1, 10)) * (0.5 + random() / 2);
}

/** Waits; ends early and rejects with the signal's reason when it fires. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal.reason as Error); // Cluster.close gives a PenstockError.
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop);
      resolve();
    }, ms);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
}

export interface Persistence {
  readonly clock: Clock;
  readonly random: () => number;
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
}

/** Runs `attempt` until it succeeds, fails for good, or the next try would begin behind the deadline. */
export async function persist<T>(attempt: () => Promise<T>, how: Persistence): Promise<T> {
  const endMs = how.clock.monotonicMs() + how.deadlineMs;
  for (let tried = 1; ; tried++) {
    how.signal.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      const waitMs = pauseMs(tried, how.random);
      if (!isPassing(error) || how.clock.monotonicMs() + waitMs > endMs) throw error;
      await pause(waitMs, how.signal);
    }
  }
}
