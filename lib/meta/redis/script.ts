import { createHash } from 'node:crypto';
import type { Argument } from './commit-codec.ts';
import { isNoScript, type RedisConnection } from './connection.ts';

/** A script and the digest by which the server knows it. */
export class Script {
  readonly #text: string;
  readonly #digest: string;

  constructor(text: string) {
    this.#text = text;
    this.#digest = createHash('sha1').update(text).digest('hex');
  }

  /** One round trip; two when the server does not hold the script yet. `args` begin with the number of keys. */
  async run(connection: RedisConnection, args: readonly Argument[]): Promise<unknown> {
    try {
      return await connection.call('evalsha', [this.#digest, ...args]);
    } catch (error) {
      // Refused before it ran: running it again is no repeat.
      if (!isNoScript(error)) throw error;
      return await connection.call('eval', [this.#text, ...args]);
    }
  }
}
