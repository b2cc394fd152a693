/**
 * The life of a session as its own process sees it: renews the lease at a third of it, and aborts `lost` once the session is
 * gone, or may be: a lease that could not be renewed in time is over, whatever the engine says later.
 *
 * Invariants: `lost` aborts at most once, with a `fenced` error; no renewal starts after it or after `stop`.
 * Failure: an engine that does not answer is asked again at the next third until the lease has run out on our monotonic clock,
 * which started before the renewal was sent: `lost` here comes before the expiry there, but for the delay of a timer. Where the
 * event loop stood still for longer, the engine refuses the commit itself.
 */
import { systemClock, type Clock } from '../clock.ts';
import { PenstockError, describeError, isCode } from '../errors.ts';

export const DEFAULT_LEASE_MS = 5000;

export class SessionLease {
  readonly #renew: () => Promise<void>;
  readonly #leaseMs: number;
  readonly #clock: Clock;
  readonly #controller = new AbortController();
  #validUntilMs: number;
  #timer: NodeJS.Timeout | undefined;
  #renewing: Promise<void> | undefined;
  #reason: PenstockError | undefined;
  #stopped = false;

  /** `renew` throws `fenced` when the session is gone; `grantedMs` is the monotonic time before the lease was asked for. */
  constructor(options: {
    readonly renew: () => Promise<void>;
    readonly leaseMs: number;
    readonly grantedMs: number;
    readonly clock?: Clock;
  }) {
    this.#renew = options.renew;
    this.#leaseMs = options.leaseMs;
    this.#clock = options.clock ?? systemClock;
    this.#validUntilMs = options.grantedMs + options.leaseMs;
    this.#timer = setInterval(() => this.#tick(), options.leaseMs / 3).unref();
  }

  get lost(): AbortSignal {
    return this.#controller.signal;
  }

  /** Throws the reason once the session is lost. */
  check(): void {
    if (this.#reason !== undefined) throw this.#reason;
  }

  /** The session or the epoch is gone: nothing is written under it any more. Returns the error to throw. */
  lose(reason: string): PenstockError {
    this.#reason ??= new PenstockError('fenced', reason);
    this.#stopTimer();
    this.#controller.abort(this.#reason);
    return this.#reason;
  }

  /** Waits for a renewal that is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#stopTimer();
    await this.#renewing;
  }

  #stopTimer(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #tick(): void {
    if (this.#clock.monotonicMs() >= this.#validUntilMs) {
      this.lose(`the session's lease of ${this.#leaseMs} ms ran out before it could be renewed`);
      return;
    }
    this.#renewing ??= this.#renewOnce().finally(() => (this.#renewing = undefined));
  }

  async #renewOnce(): Promise<void> {
    const askedMs = this.#clock.monotonicMs();
    try {
      await this.#renew();
      this.#validUntilMs = askedMs + this.#leaseMs;
    } catch (error) {
      if (isCode(error, 'fenced') && !this.#stopped && !this.lost.aborted) this.lose(describeError(error));
      // Anything else is an engine that does not answer: the next tick asks again, and the deadline above ends it.
    }
  }
}
