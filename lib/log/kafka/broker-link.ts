/**
 * One connection to one broker: requests in the order of their calls, with deadlines, throttling and re-authentication.
 *
 * Invariants
 * - The order of calls is the order on the wire. A call that has to wait (the broker asked for a pause, the session is being renewed) makes
 *   all later ones wait behind it.
 * - Every call ends: with its answer, or when the connection breaks, or at its deadline (own-timeout.ts), which breaks the connection, because
 *   answers come in order and none will pass the missing one.
 * Failure: `unavailable` when the connection broke, `timeout` at the deadline: the effect is unknown in both. `corrupt` for an answer
 * that cannot be read; the connection is given up then, too.
 * Limits: calls that wait are bounded by the callers (IN_FLIGHT_MAX a partition, one fetch a link). A pause is cut at
 * THROTTLE_MS_MAX: a broker cannot silence us for longer by one wrong number.
 */
import type { Clock } from '../../clock.ts';
import { PenstockError, describeError } from '../../errors.ts';
import { OwnTimeout } from '../../own-timeout.ts';
import type { HostPort } from '../../urls.ts';
import type { ApiRequest } from './request.ts';
import type { Transport, Wire } from './transport.ts';
import { WireReader } from './wire.ts';

/** Kafka's largest pause is its quota window, 1 s by default and seldom above 30. */
const THROTTLE_MS_MAX = 60_000;

export class BrokerLink {
  readonly #address: string;
  readonly #clock: Clock;
  readonly #waiting: (() => void)[] = [];
  #wire: Wire | undefined;
  #throttledUntilMs = 0;
  #isHeld = false;
  #isClosed = false;

  private constructor(address: HostPort, clock: Clock) {
    this.#address = `${address.host}:${address.port}`;
    this.#clock = clock;
  }

  static async connect(transport: Transport, address: HostPort, clock: Clock): Promise<BrokerLink> {
    const link = new BrokerLink(address, clock);
    link.#wire = await transport.connect(address, link.#throttle);
    return link;
  }

  get isOpen(): boolean {
    return !this.#isClosed && this.#wire?.isOpen === true;
  }

  call<T>(request: ApiRequest<T>, timeoutMs: number): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const start = (): void => {
        this.#send(request, timeoutMs).then(resolve, reject);
      };
      this.#hold();
      if (this.#isHeld) this.#waiting.push(start);
      else start();
    });
  }

  close(): void {
    this.#isClosed = true;
    this.#wire?.destroy();
    this.#release();
  }

  readonly #throttle = (ms: number): void => {
    if (ms <= 0) return;
    const untilMs = this.#clock.monotonicMs() + Math.min(ms, THROTTLE_MS_MAX);
    this.#throttledUntilMs = Math.max(this.#throttledUntilMs, untilMs);
  };

  /** Begins to hold calls back if there is a reason to. */
  #hold(): void {
    if (this.#isHeld || this.#isClosed) return;
    const pauseMs = this.#throttledUntilMs - this.#clock.monotonicMs();
    const reason =
      pauseMs > 0 ? new Promise<void>((resolve) => setTimeout(resolve, pauseMs).unref()) : this.#wire?.renewal();
    if (reason === undefined) return;
    this.#isHeld = true;
    reason.then(
      () => this.#release(),
      () => {
        // A session that cannot be renewed is over.
        this.close();
      },
    );
  }

  /** Those that wait behind a closed connection find it closed. */
  #release(): void {
    this.#isHeld = false;
    this.#hold();
    while (!this.#isHeld) {
      const start = this.#waiting.shift();
      if (start === undefined) return;
      start();
    }
  }

  async #send<T>(request: ApiRequest<T>, timeoutMs: number): Promise<T> {
    const { api, body } = request;
    const what = `${api.name} at ${this.#address}`;
    const wire = this.#wire;
    if (wire === undefined || !this.isOpen) throw new PenstockError('unavailable', `${what}: the connection is closed`);
    const late = new PenstockError('timeout', `${what}: no answer within ${timeoutMs} ms`);
    const expired = Promise.withResolvers<never>();
    const timeout = new OwnTimeout(timeoutMs, () => {
      expired.reject(late);
      this.close();
    });
    let answer: Buffer;
    try {
      answer = await Promise.race([wire.send(api, body), expired.promise]);
    } catch (error) {
      this.close();
      if (error === late) throw late;
      throw new PenstockError('unavailable', `${what}: ${describeError(error)}`, { cause: error });
    } finally {
      timeout.clear();
    }
    try {
      const reader = new WireReader(answer, `the answer of ${this.#address} to ${api.name}`);
      if (api.isFlexible) reader.taggedFields();
      return request.decode(reader, this.#throttle);
    } catch (error) {
      this.close();
      throw error;
    }
  }
}
