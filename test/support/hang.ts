/**
 * Ends what hangs, and nothing else: no test takes as long on a machine that only is slow. Shorter than the timeout of a test
 * (vitest.config.ts), so that what was waited for is named.
 */
export const HANG_MS = 120_000;

/** Ends a program that runs beside a test, which waits for one thing after the other meanwhile; shorter than the test's timeout, too. */
export const BESIDE_MS = 2 * HANG_MS;

/** Of tests that take minutes where others take seconds. */
export const LONG_MS = 600_000;
