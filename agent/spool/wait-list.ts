/** Those who wait for the same thing: each is woken by `wake`, by its own signal, or after its own time. */
import { PenstockError } from '../../lib/errors.ts';

export class WaitList {
  readonly #waiting = new Set<() => void>();

  get size(): number {
    return this.#waiting.size;
  }

  wake(): void {
    for (const go of [...this.#waiting]) go();
  }

  /** Rejects with `aborted` when the signal fires. */
  async wait(signal: AbortSignal, timeoutMs?: number): Promise<void> {
    const aborted = (): PenstockError => new PenstockError('aborted', 'stopped waiting for the spool');
    if (signal.aborted) throw aborted();
    await new Promise<void>((resolve, reject) => {
      const timer = timeoutMs === undefined ? undefined : setTimeout(() => end(resolve), timeoutMs);
      const onAbort = (): void => end(() => reject(aborted()));
      const woken = (): void => end(resolve);
      const end = (settle: () => void): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        this.#waiting.delete(woken);
        settle();
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiting.add(woken);
    });
  }
}
