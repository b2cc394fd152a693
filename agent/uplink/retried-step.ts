/** A step that is taken again and again; after one that failed it rests, longer each time, and nobody else has to wait for it. */
import { describeError, isCode } from '../../lib/errors.ts';
import type { Backoff } from './backoff.ts';

export interface UplinkProblem {
  readonly message: string;
  readonly atMs: number;
  /** The log answered, and will not take it until somebody changes something: it says nothing about other topics. */
  readonly isRefusal: boolean;
}

export function problemOf(error: unknown, atMs: number): UplinkProblem {
  const isRefusal = isCode(error, 'denied', 'config', 'unsupported', 'corrupt');
  return { message: describeError(error), atMs, isRefusal };
}

export interface StepContext {
  readonly backoff: Backoff;
  readonly signal: AbortSignal;
  readonly nowMs: () => number;
  /** Something may be possible that was not before. */
  readonly onProgress: () => void;
}

export class RetriedStep {
  readonly #context: StepContext;
  /** In a row. */
  #failures = 0;
  #isTaken = false;
  #isResting = false;
  #problem: UplinkProblem | null = null;

  constructor(context: StepContext) {
    this.#context = context;
  }

  get failures(): number {
    return this.#failures;
  }

  get isResting(): boolean {
    return this.#isResting;
  }

  get isTaken(): boolean {
    return this.#isTaken;
  }

  /** Why it failed last; null once it did not. */
  get problem(): UplinkProblem | null {
    return this.#problem;
  }

  /** What `move` returns, or false when it failed; false at once while resting, or taken already. The end of the rest is progress. */
  async take(move: () => Promise<boolean>): Promise<boolean> {
    if (this.#isResting || this.#isTaken) return false;
    this.#isTaken = true;
    try {
      const moved = await move();
      this.#failures = 0;
      this.#problem = null;
      return moved;
    } catch (error) {
      const { backoff, signal, onProgress, nowMs } = this.#context;
      // Broken off by the end of the uplink: that is no problem of the log's.
      if (signal.aborted) return false;
      const problem = problemOf(error, nowMs());
      this.#problem = problem;
      this.#isResting = true;
      void backoff.wait(this.#failures++, signal, problem.isRefusal).then(() => {
        this.#isResting = false;
        onProgress();
      });
      return false;
    } finally {
      this.#isTaken = false;
    }
  }
}
