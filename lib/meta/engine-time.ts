/**
 * The metadata engine's time, which all machines share. By it is seen whether this machine's clock can be believed when something is removed because of its age: one
 * that is a day ahead would end every grace period at once.
 */
import { CLOCK_SKEW_MS_MAX, type Clock } from '../clock.ts';
import type { MetaEngine } from './engine.ts';

/** By the engine's clock: epoch ms, some seconds late. NaN: it does not know our session any more. */
export async function engineTimeMs(engine: Pick<MetaEngine, 'sessions' | 'sessionId'>): Promise<number> {
  // The engine renews our session by its own clock, some seconds ago.
  const own = (await engine.sessions()).find((session) => session.id === engine.sessionId);
  return own?.renewedMs ?? NaN;
}

/**
 * A clock that tells the engine's time, where this machine's is off: what others will count ages from. It goes on by the time that passes, so that one
 * that is set right meanwhile does not carry it along.
 */
export async function onEngineTime(engine: Pick<MetaEngine, 'sessions' | 'sessionId'>, clock: Clock): Promise<Clock> {
  const engineMs = await engineTimeMs(engine);
  const startMs = clock.monotonicMs();
  if (!(Math.abs(clock.nowMs() - engineMs) > CLOCK_SKEW_MS_MAX)) return clock;
  return { nowMs: () => Math.floor(engineMs + clock.monotonicMs() - startMs), monotonicMs: () => clock.monotonicMs() };
}
