/**
 * Inputs that wait to be delivered, in their order, batch by batch: one batch is being written while the next one collects, so the more
 * inputs are under way, the more share one sync.
 *
 * Failure: a batch that fails ends the queue: what waits is given up (nobody was told that it is accepted), and `onFailure` is called.
 * Limits: above BYTES_WAITING_MAX the queue is full, and its owner stops reading until `onRoom`; BATCH_MAX inputs in a group.
 */
const BYTES_WAITING_MAX = 8 * 1024 * 1024;
const BATCH_MAX = 10_000;
/** Without it, a million empty inputs would count as nothing. */
const BYTES_OF_INPUT = 200;

export interface DeliveryQueueOptions<T> {
  readonly deliver: (batch: readonly T[]) => Promise<void>;
  readonly onRoom: () => void;
  readonly onFailure: (error: Error) => void;
}

export class DeliveryQueue<T> {
  readonly #options: DeliveryQueueOptions<T>;
  #waiting: { readonly input: T; readonly bytes: number }[] = [];
  /** Of what waits and of the batch that is being written. */
  #bytes = 0;
  #isFull = false;
  #running: Promise<void> | undefined;

  constructor(options: DeliveryQueueOptions<T>) {
    this.#options = options;
  }

  /** Full again from the next input on, until half of it is delivered. */
  get isFull(): boolean {
    return this.#isFull;
  }

  push(input: T, bytes: number): void {
    this.#waiting.push({ input, bytes: bytes + BYTES_OF_INPUT });
    this.#bytes += bytes + BYTES_OF_INPUT;
    this.#isFull ||= this.#bytes > BYTES_WAITING_MAX;
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  /** Resolves when nothing waits. Never rejects. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  async #run(): Promise<void> {
    try {
      while (this.#waiting.length > 0) {
        const batch = this.#waiting.splice(0, BATCH_MAX);
        await this.#options.deliver(batch.map(({ input }) => input));
        this.#bytes -= batch.reduce((sum, { bytes }) => sum + bytes, 0);
        if (!this.#isFull || this.#bytes > BYTES_WAITING_MAX / 2) continue;
        this.#isFull = false;
        this.#options.onRoom();
      }
    } catch (error) {
      this.#waiting = [];
      this.#options.onFailure(error instanceof Error ? error : new Error(String(error)));
    }
  }
}
