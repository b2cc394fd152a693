/**
 * One operation per volume at a time, as the specification asks: a second call meanwhile is answered ABORTED and comes again. An operation
 * goes on after its caller's deadline, and is in flight until it has really ended.
 */
import { CsiError, Status } from './status.ts';

export class InFlight {
  readonly #keys = new Set<string>();

  async run<T>(key: string, work: () => Promise<T>): Promise<T> {
    if (this.#keys.has(key)) throw new CsiError(Status.ABORTED, `another operation on ${key} is under way`);
    this.#keys.add(key);
    try {
      return await work();
    } finally {
      this.#keys.delete(key);
    }
  }
}
