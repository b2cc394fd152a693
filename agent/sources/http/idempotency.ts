/**
 * `Idempotency-Key`: a repeat of a request that was accepted gets the first answer, and nothing is accepted again, also when the agent was
 * killed before it could answer.
 *
 * A key is a receipt of the spool: id = hash of the key, content = `<hash of the body>:<accepted>`, stored in the group of the readings.
 * Invariants: a key counts as used exactly when its readings are in the spool.
 * Limits: the newest `keysMax` keys; an older one is forgotten, and a repeat of it would be accepted as new.
 */
import { createHash } from 'node:crypto';
import type { Receipt } from '../../spool/spool-state.ts';
import { Refusal } from './refusal.ts';

export interface Accepted {
  readonly accepted: number;
  readonly isRepeat: boolean;
}

interface Running {
  readonly body: string;
  readonly result: Promise<number>;
}

/** Catching up after `keysMax` was lowered goes in steps, so that no single group becomes huge. */
const FORGET_MAX = 100;
const KEY_LENGTH_MAX = 255;

export class IdempotencyKeys {
  readonly #source: string;
  readonly #keysMax: number;
  readonly #stored: () => ReadonlyMap<string, string>;
  readonly #running = new Map<string, Running>();

  constructor(source: string, keysMax: number, stored: () => ReadonlyMap<string, string>) {
    this.#source = source;
    this.#keysMax = keysMax;
    this.#stored = stored;
  }

  /**
   * `accept` stores the readings together with the receipts for their number, and returns that number. Throws a Refusal (422: the key was
   * used for another body), or its error.
   */
  async once(
    key: string,
    body: Buffer,
    accept: (receiptsFor: (accepted: number) => readonly Receipt[]) => Promise<number>,
  ): Promise<Accepted> {
    const id = digest(key, 22);
    const hash = digest(body, 16);
    for (let running = this.#running.get(id); running !== undefined; running = this.#running.get(id)) {
      assertSame(hash, running.body);
      // Where the first one failed, this one is tried by itself.
      const accepted = await running.result.catch(() => undefined);
      if (accepted !== undefined) return { accepted, isRepeat: true };
    }
    const stored = this.#stored().get(id);
    if (stored !== undefined) {
      const [storedHash = '', accepted = ''] = stored.split(':');
      assertSame(hash, storedHash);
      return { accepted: Number(accepted), isRepeat: true };
    }
    const result = accept((accepted) => [
      ...this.#forgetOldest(id),
      { source: this.#source, id, content: `${hash}:${accepted}` },
    ]);
    this.#running.set(id, { body: hash, result });
    try {
      return { accepted: await result, isRepeat: false };
    } finally {
      this.#running.delete(id);
    }
  }

  /** So that there is room for `newId` and those that are being accepted. */
  *#forgetOldest(newId: string): Iterable<Receipt> {
    const stored = this.#stored();
    const coming = new Set(this.#running.keys()).add(newId).size;
    let excess = Math.min(FORGET_MAX, stored.size + coming - this.#keysMax);
    for (const id of stored.keys()) {
      if (excess <= 0) return;
      excess -= 1;
      yield { source: this.#source, id, content: null };
    }
  }
}

/** `headers`: all of that name, as Node would join them to one key that the client never chose. Throws a Refusal. */
export function idempotencyKey(headers: readonly string[] | undefined): string | undefined {
  if (headers === undefined) return undefined;
  const [header = ''] = headers;
  if (headers.length !== 1 || header === '' || header.length > KEY_LENGTH_MAX) {
    throw new Refusal(400, `Idempotency-Key: expected one key of 1 to ${KEY_LENGTH_MAX} characters`);
  }
  return header;
}

function assertSame(hash: string, stored: string): void {
  if (hash !== stored) {
    throw new Refusal(422, 'this Idempotency-Key was used with another body: a new request needs a new key');
  }
}

function digest(input: string | Buffer, length: number): string {
  return createHash('sha256').update(input).digest('base64url').slice(0, length);
}
