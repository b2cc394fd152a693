/**
 * Fault plans: the deterministic heart of the fault wrappers of the three ports. A wrapper asks its plan before it performs a
 * call; the plan lets the call pass, or fails it *before* it took effect (nothing happened) or *after* (it happened, the answer
 * was lost). A caller that survives both at every call index survives a crash of the other side at every step.
 */
import { PenstockError } from '../../lib/errors.ts';

export type FaultMoment = 'before' | 'after';

export interface Fault {
  /** The ordinal of the failing call among those that match, from 0. */
  readonly call: number;
  readonly moment: FaultMoment;
  /** Only calls of this operation count (`append`, `put`, `commit`...); every call when absent. */
  readonly operation?: string;
  /** What to throw; default `timeout`: the effect is unknown to the caller, whichever it was. */
  readonly error?: () => Error;
}

export class FaultPlan {
  readonly #faults: readonly Fault[];
  readonly #calls = new Map<string, number>();
  #total = 0;
  #fired = 0;

  constructor(...faults: readonly Fault[]) {
    this.#faults = faults;
  }

  /** Faults that have been thrown: a test asserts on it, so that a plan that never fired does not pass for a survived fault. */
  get fired(): number {
    return this.#fired;
  }

  /** Calls seen so far: run once without faults to learn how many indices there are to fail. */
  get calls(): number {
    return this.#total;
  }

  async run<T>(operation: string, effect: () => Promise<T>): Promise<T> {
    const nth = this.#calls.get(operation) ?? 0;
    const nthOfAll = this.#total++;
    this.#calls.set(operation, nth + 1);
    const fault = this.#faults.find((f) =>
      f.operation === undefined ? f.call === nthOfAll : f.operation === operation && f.call === nth,
    );
    if (fault === undefined) return effect();
    if (fault.moment === 'after') await effect();
    this.#fired++;
    throw (
      fault.error?.() ??
      new PenstockError('timeout', `injected fault ${fault.moment} the effect of ${operation} #${fault.call}`)
    );
  }
}
