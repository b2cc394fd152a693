/**
 * Bounds of what all tenants use together, so that none of them takes all of it.
 *
 * Invariants: never more than `total` is taken, and by one party never more than its share: half, where there are several parties. Who waits in a `Turns` waits
 * behind its own party only: a place that gets free goes round the parties.
 * Limits: `total`, and `waiting` of a party; there are as many parties as `serve.tenants` names, and the platform.
 */
import { PenstockError } from '../lib/errors.ts';

/** null: the platform. */
export type Party = string | null;

export interface Bound {
  readonly total: number;
  /** How many parties may ask. */
  readonly parties: number;
}

/** Of what all use together, the most that one may have. */
export const shareOf = ({ total, parties }: Bound): number => (parties > 1 ? Math.ceil(total / 2) : total);

export class Shares {
  readonly #total: number;
  readonly #each: number;
  readonly #taken = new Map<Party, number>();
  #sum = 0;

  constructor(bound: Bound) {
    this.#total = bound.total;
    this.#each = shareOf(bound);
  }

  /** false: there is not so much left. */
  take(party: Party, amount = 1): boolean {
    const own = (this.#taken.get(party) ?? 0) + amount;
    if (own > this.#each || this.#sum + amount > this.#total) return false;
    this.#taken.set(party, own);
    this.#sum += amount;
    return true;
  }

  give(party: Party, amount = 1): void {
    const own = (this.#taken.get(party) ?? 0) - amount;
    if (own > 0) this.#taken.set(party, own);
    else this.#taken.delete(party);
    this.#sum -= amount;
  }
}

/** Work of which only so much goes on at a time; the rest waits. */
export class Turns {
  readonly #running: Shares;
  readonly #waitingMax: number;
  /** In the order in which their turn comes. */
  readonly #waiting = new Map<Party, (() => void)[]>();

  constructor(running: Bound, waiting: number) {
    this.#running = new Shares(running);
    this.#waitingMax = waiting;
  }

  /** Throws `unavailable` when too much of this party waits already, and the reason of `signal` while it waits. */
  async run<T>(party: Party, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if ((this.#waiting.get(party)?.length ?? 0) > 0 || !this.#running.take(party)) await this.#wait(party, signal);
    try {
      return await work();
    } finally {
      this.#running.give(party);
      this.#next();
    }
  }

  #wait(party: Party, signal: AbortSignal | undefined): Promise<void> {
    const queue = this.#waiting.get(party) ?? [];
    if (queue.length >= this.#waitingMax) {
      throw new PenstockError('unavailable', `${this.#waitingMax} requests are waiting already`);
    }
    this.#waiting.set(party, queue);
    const { promise, resolve: begin, reject } = Promise.withResolvers<undefined>();
    const turn = (): void => {
      signal?.removeEventListener('abort', leave);
      begin(undefined);
    };
    const leave = (): void => {
      queue.splice(queue.indexOf(turn), 1);
      if (queue.length === 0) this.#waiting.delete(party);
      reject(signal?.reason as Error); // of `abort`, which is given one
    };
    queue.push(turn);
    signal?.addEventListener('abort', leave, { once: true });
    return promise;
  }

  /** To the first party in the round that may take it; that goes to the end of the round. */
  #next(): void {
    for (const [party, queue] of [...this.#waiting]) {
      if (!this.#running.take(party)) continue;
      const begin = queue.shift();
      this.#waiting.delete(party);
      if (queue.length > 0) this.#waiting.set(party, queue);
      begin?.();
      return;
    }
  }
}
