/**
 * Hedged requests (Dean and Barroso, "The tail at scale", 2013): when a request has no answer after a delay, it is sent once more,
 * and the first answer counts. For reads only.
 */

/** `hedgeMs` null: one request. The loser is aborted; when both fail, the first one's error is thrown. */
export async function firstAnswer<T>(
  hedgeMs: number | null,
  signal: AbortSignal,
  send: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  if (hedgeMs === null) return send(signal);
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  let hedge: Promise<T> | undefined;
  let timer: NodeJS.Timeout | undefined;
  try {
    const first = send(either);
    const second = new Promise<T>((resolve, reject) => {
      timer = setTimeout(() => {
        hedge = send(either);
        hedge.then(resolve, reject);
      }, hedgeMs);
      // Failing before the hedge is sent is a failure; afterwards the hedge may still win.
      first.catch((error: unknown) => {
        if (hedge === undefined) reject(error instanceof Error ? error : new Error(String(error)));
      });
    });
    return await Promise.any([first, second]);
  } catch (error) {
    throw error instanceof AggregateError ? error.errors[0] : error;
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}
