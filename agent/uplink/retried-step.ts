/** A step that is taken again and again; after one that failed it rests, longer each time, and nobody else has to wait for it. */
import { describeError } from '../../lib/errors.ts';
import type { LaneContext } from './lane.ts';

export interface UplinkProblem {
  readonly message: string;
  readonly atMs: number;
}

export class RetriedStep {
  readonly #context: Pick<LaneContext, 'backoff' | 'signal' | 'onProgress' | 'nowMs'>;
  /** In a row. */
  #failures = 0;
  #isResting = false;
  #problem: UplinkProblem | null = null;

  constructor(context: Pick<LaneContext, 'backoff' | 'signal' | 'onProgress' | 'nowMs'>) {
    this.#context = context;
  }

  get isResting(): boolean {
    return this.#isResting;
  }

  /** Why it failed last; null once it did not. */
  get problem(): UplinkProblem | null {
    return this.#problem;
  }

  /** What `move` returns, or false when it failed; false at once while resting. The end of the rest is progress. */
  async take(move: () => Promise<boolean>): Promise<boolean> {
    if (this.#isResting) return false;
    try {
      const moved = await move();
      this.#failures = 0;
      this.#problem = null;
      return moved;
    } catch (error) {
      const { backoff, signal, onProgress, nowMs } = this.#context;
      this.#problem = { message: describeError(error), atMs: nowMs() };
      this.#isResting = true;
      void backoff.wait(this.#failures++, signal).then(() => {
        this.#isResting = false;
        onProgress();
      });
      return false;
    }
  }
}
