/** 2020-01-01T00:00:00Z, Unix seconds: session ids count from here, see `leastSessionId`. */
export const FIRST_SECOND = 1_577_836_800;

/**
 * The least id that a session opened now may take, from the engine's clock. Ids are counted up, but a failover or a restored file
 * can lose the newest ones; as long as sessions are opened less than once a second on average, the seconds since 2020 keep an id
 * that was lost from being given again. It fits 32 bits until 2156.
 */
export function leastSessionId(engineNowMs: number): number {
  return Math.max(1, Math.floor(engineNowMs / 1000) - FIRST_SECOND);
}
