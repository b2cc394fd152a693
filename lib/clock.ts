/** Time as a constructor argument, so that a test or a seed replays a run. */
export interface Clock {
  /** Wall clock, milliseconds since the epoch. May jump either way. */
  nowMs(): number;
  /** Monotonic milliseconds from an arbitrary start. Never goes back; use it for every duration and deadline. */
  monotonicMs(): number;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};

/** By as much the clocks of two machines may differ; more is one that is off. */
export const CLOCK_SKEW_MS_MAX = 300_000;
