/**
 * Single records. Those that are asked for in one turn of the event loop are one command for each bucket: a command takes 20 us of the client and a write
 * of its own, and programs that open files at the same time ask for inodes of one bucket.
 *
 * Limits: FIELDS_MAX fields in a command, while which Redis serves nobody else.
 */
import type { Key } from '../engine.ts';
import { argument } from './commit-codec.ts';
import type { RedisConnection } from './connection.ts';

const FIELDS_MAX = 256;

interface Waiting {
  readonly field: string;
  readonly resolve: (record: Buffer | null) => void;
  readonly reject: (error: unknown) => void;
}

export class FieldReads {
  readonly #connection: RedisConnection;
  #waiting = new Map<string, Waiting[]>();

  constructor(connection: RedisConnection) {
    this.#connection = connection;
  }

  /** Null: there is no such field. */
  read({ bucket, field }: Key): Promise<Buffer | null> {
    return new Promise((resolve, reject) => {
      if (this.#waiting.size === 0) process.nextTick(this.#send);
      const waiting = this.#waiting.get(bucket);
      if (waiting === undefined) this.#waiting.set(bucket, [{ field, resolve, reject }]);
      else waiting.push({ field, resolve, reject });
    });
  }

  readonly #send = (): void => {
    const byBucket = this.#waiting;
    this.#waiting = new Map();
    for (const [bucket, waiting] of byBucket) {
      for (let at = 0; at < waiting.length; at += FIELDS_MAX) {
        void this.#ask(bucket, waiting.slice(at, at + FIELDS_MAX));
      }
    }
  };

  async #ask(bucket: string, waiting: readonly Waiting[]): Promise<void> {
    try {
      const fields = waiting.map(({ field }) => argument(field));
      const found = await this.#connection.call(fields.length === 1 ? 'hget' : 'hmget', [argument(bucket), ...fields]);
      const records: readonly unknown[] = Array.isArray(found) ? found : [found];
      for (const [index, { resolve }] of waiting.entries()) {
        const record = records[index];
        resolve(Buffer.isBuffer(record) ? record : null);
      }
    } catch (error) {
      for (const { reject } of waiting) reject(error);
    }
  }
}
