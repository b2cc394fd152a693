/**
 * Ends what hangs, and nothing else: no test takes as long on a machine that only is slow. Shorter than the timeout of a test
 * (vitest.config.ts), so that what was waited for is named.
 */
export const HANG_MS = 120_000;
