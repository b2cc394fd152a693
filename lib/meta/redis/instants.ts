/**
 * Instants on Redis. While one stands, each commit in its tag keeps what it overwrites, once per record and instant (commit-script.ts): the first
 * value that is kept is that of the instant. A read takes what was kept, and the record itself where nothing was.
 *
 * Invariants
 * - Opening is one script, so between two commits. No commit waits for an instant; while none stands, it costs a commit one look.
 * - Each read asks in the same script whether the instant stands. So what was kept is complete when it is read.
 * - Sessions of a Penstock that keeps nothing are refused by name, as their commits would be torn out of the instant. One that is opened later ends it.
 * - Where Redis is full, no instant takes what a commit needs: the commit that finds it so ends those for which more than BEFORE_BYTES_WHEN_FULL was kept.
 * Failure: killed, its lease runs out: the next commit ends it. What was kept is cleared by whoever opens an instant of the tag next, by gc, and by
 * the first commit that finds Redis full.
 * Limits: INSTANTS_MAX in a tag; BEFORE_BYTES_MAX kept for one (commit-script.ts), then it is lost.
 */
import { PenstockError } from '../../errors.ts';
import { INSTANTS_MAX } from '../engine.ts';
import type { Instant, Key, ScanPage, Stored } from '../engine.ts';
import { InstantLostError } from '../instant-lost.ts';
import { SCAN_LIMIT_MAX, assertBucket, assertBucketPrefix, assertKey, tooManyInstants } from '../limits.ts';
import { argument, decodeStored } from './commit-codec.ts';
import type { Argument } from './commit-codec.ts';
import type { RedisConnection } from './connection.ts';
import {
  END_INSTANT_SCRIPT,
  OPEN_INSTANT_SCRIPT,
  READ_INSTANT_SCRIPT,
  RENEW_INSTANT_SCRIPT,
  SCAN_BEFORE_SCRIPT,
  SCAN_INSTANT_SCRIPT,
  SPENT_INSTANTS_SCRIPT,
} from './instant-scripts.ts';
import { KEEPING_KEY, LAST_SESSION_KEY, SESSIONS_KEY, SESSION_PREFIX, beforeKey, instantsKey } from './keys.ts';
import { SCAN_COUNT, flatPairs, scanReply } from './replies.ts';
import { Script } from './script.ts';

/** Of a scan's cursor: the records that are there are done, what was kept of others follows. */
const KEPT = 'k';
const READ_KEYS_MAX = 1000;
/** Some 5,000 changed records: a backup of a full Redis comes to its end beside programs that only try to write. */
const BEFORE_BYTES_WHEN_FULL = 1 << 20;

const openScript = new Script(OPEN_INSTANT_SCRIPT);
const renewScript = new Script(RENEW_INSTANT_SCRIPT);
const readScript = new Script(READ_INSTANT_SCRIPT);
const scanScript = new Script(SCAN_INSTANT_SCRIPT);
const scanBeforeScript = new Script(SCAN_BEFORE_SCRIPT);
const spentScript = new Script(SPENT_INSTANTS_SCRIPT);
const endScript = new Script(END_INSTANT_SCRIPT);

export interface InstantsOptions {
  readonly url: string;
  readonly connection: RedisConnection;
  readonly session: number;
  readonly leaseMs: number;
  /** Throws when the session is lost. */
  check(): void;
  /** All buckets with a prefix that there are now. */
  buckets(prefix: string): AsyncIterable<string>;
}

export class RedisInstants {
  readonly #options: InstantsOptions;
  readonly #open = new Set<RedisInstant>();
  #count = 0;

  constructor(options: InstantsOptions) {
    this.#options = options;
  }

  async open(tag: string): Promise<Instant> {
    const { connection, leaseMs, url, session } = this.#options;
    assertBucketPrefix(tag);
    await this.clear(tag);
    const id = `${session}-${++this.#count}`;
    const limits = [String(Math.ceil(leaseMs)), SESSION_PREFIX, String(INSTANTS_MAX)];
    const answer = String(await openScript.run(connection, ['4', ...instantKeys(tag), SESSIONS_KEY, id, ...limits]));
    if (answer === 'F') throw tooManyInstants(url, tag);
    if (answer.startsWith('O')) {
      const why = `session ${answer.slice(1)} is of an older Penstock, whose commits no instant can see: upgrade its program`;
      throw new PenstockError('unsupported', `${url}: ${why}`);
    }
    const instant: RedisInstant = new RedisInstant(this.#options, tag, { id, older: answer.slice(1) }, () =>
      this.#open.delete(instant),
    );
    this.#open.add(instant);
    return instant;
  }

  /** Those that are over. */
  async clear(tag: string): Promise<void> {
    await sweepSpent(this.#options.connection, tag, Number.MAX_SAFE_INTEGER);
  }

  /** Redis is full: true when something was freed. */
  async makeRoom(tag: string): Promise<boolean> {
    return sweepSpent(this.#options.connection, tag, BEFORE_BYTES_WHEN_FULL);
  }

  async close(): Promise<void> {
    for (const instant of this.#open) await instant.close();
  }
}

interface Opened {
  readonly id: string;
  readonly older: string;
}

class RedisInstant implements Instant {
  readonly #options: InstantsOptions;
  readonly #tag: string;
  readonly #id: string;
  /** How many sessions of an older Penstock had been counted. */
  readonly #older: string;
  readonly #keys: readonly Argument[];
  readonly #before: string;
  readonly #onClose: () => void;
  readonly #timer: NodeJS.Timeout;
  #closed = false;

  constructor(options: InstantsOptions, tag: string, { id, older }: Opened, onClose: () => void) {
    this.#options = options;
    this.#tag = tag;
    this.#id = id;
    this.#older = older;
    this.#keys = instantKeys(tag);
    this.#before = beforeKey(tag, id);
    this.#onClose = onClose;
    const renew = ['3', ...this.#keys, id, older, String(Math.ceil(options.leaseMs))];
    this.#timer = setInterval(() => {
      // Whether it stands is asked by every read; a renewal that failed is made again at the next third.
      renewScript.run(options.connection, renew).catch(() => undefined);
    }, options.leaseMs / 3).unref();
  }

  async read(keys: readonly Key[]): Promise<readonly (Stored | null)[]> {
    return (await this.#fields(keys)).map((record) => (record === null ? null : decodeStored(record)));
  }

  async readNumbers(keys: readonly Key[]): Promise<readonly (bigint | null)[]> {
    return (await this.#fields(keys)).map((record) => (record === null ? null : BigInt(record.toString('latin1'))));
  }

  async scan(bucket: string, cursor: string, limit: number): Promise<ScanPage> {
    assertBucket(bucket);
    const page = await this.#page(bucket, cursor, Math.min(Math.max(limit, 1), SCAN_LIMIT_MAX));
    const entries = page.found.map(([field, record]): [string, Stored] => [field, decodeStored(record)]);
    return { entries, cursor: page.cursor };
  }

  async *buckets(prefix: string): AsyncIterable<string> {
    yield* this.#options.buckets(prefix);
    // Those of which nothing may be left.
    for (let cursor = '0'; ;) {
      const [next, found] = scanReply(
        await this.#ask(scanBeforeScript, [argument(this.#before)], [cursor, String(SCAN_COUNT)]),
      );
      for (const [bucket] of flatPairs(found)) if (bucket.startsWith(prefix)) yield bucket;
      if (next === '0') return;
      cursor = next;
    }
  }

  async numbers(bucket: string): Promise<readonly (readonly [string, bigint])[]> {
    assertBucket(bucket);
    const numbers = new Map<string, bigint>();
    for (let cursor: string | null = ''; cursor !== null;) {
      const page = await this.#page(bucket, cursor, SCAN_COUNT);
      for (const [field, record] of page.found) numbers.set(field, BigInt(record.toString('latin1')));
      cursor = page.cursor;
    }
    return [...numbers];
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    this.#onClose();
    await sweep(this.#options.connection, this.#tag, this.#id);
  }

  async #page(
    bucket: string,
    cursor: string,
    limit: number,
  ): Promise<{ readonly found: readonly (readonly [string, Buffer])[]; readonly cursor: string | null }> {
    const count = String(limit);
    if (cursor.startsWith(KEPT)) {
      const key = argument(`${this.#before}:${bucket}`);
      const answer = await this.#ask(scanBeforeScript, [key], [cursor.slice(KEPT.length), count]);
      const [next, flat] = scanReply(answer);
      const found = flatPairs(flat).filter(([, record]) => record.length > 0);
      return { found, cursor: next === '0' ? null : KEPT + next };
    }
    const from = cursor === '' ? '0' : cursor;
    const answer = await this.#ask(scanScript, [argument(bucket)], [this.#before, from, count]);
    const [next, kept, flat] = Array.isArray(answer) ? (answer as unknown[]) : [];
    const [position, found] = scanReply([next, flat]);
    // What was there at the instant and went before the scan came to it is among what was kept by now.
    const end = kept === 1 ? `${KEPT}0` : null;
    return { found: flatPairs(found), cursor: position === '0' ? end : position };
  }

  async #fields(keys: readonly Key[]): Promise<(Buffer | null)[]> {
    keys.forEach(assertKey);
    const records: (Buffer | null)[] = [];
    for (let at = 0; at < keys.length; at += READ_KEYS_MAX) {
      const portion = keys.slice(at, at + READ_KEYS_MAX);
      const buckets = new Map<string, number>();
      const addresses = portion.flatMap(({ bucket, field }) => {
        const index = buckets.get(bucket) ?? this.#keys.length + buckets.size + 1;
        buckets.set(bucket, index);
        return [String(index), argument(field)];
      });
      const names = [...buckets.keys()].map(argument);
      const answer = await this.#ask(readScript, names, [argument(this.#before), ...addresses]);
      const found: unknown[] = Array.isArray(answer) ? answer : [];
      records.push(...portion.map((_, index) => asRecord(found[index])));
    }
    return records;
  }

  /** Throws InstantLostError. */
  async #ask(script: Script, keys: readonly Argument[], args: readonly Argument[]): Promise<unknown> {
    const { url, connection } = this.#options;
    if (this.#closed) throw new PenstockError('closed', `${url}: the instant was closed`);
    this.#options.check();
    const all = [...this.#keys, ...keys];
    const answer = await script.run(connection, [String(all.length), ...all, this.#id, this.#older, ...args]);
    if (!Buffer.isBuffer(answer)) return answer;
    throw new InstantLostError(
      url,
      'too much was changed meanwhile, Redis was full, a session of an older Penstock was opened, or this process stood still for longer than its lease',
    );
  }
}

function instantKeys(tag: string): readonly Argument[] {
  return [argument(instantsKey(tag)), LAST_SESSION_KEY, KEEPING_KEY];
}

function asRecord(found: unknown): Buffer | null {
  return Buffer.isBuffer(found) ? found : null;
}

/** Clears what was kept for an instant, and ends it where it stands. Killed in between, the next opening goes on. */
async function sweep(connection: RedisConnection, tag: string, id: string): Promise<void> {
  const [instants, index] = [argument(instantsKey(tag)), argument(beforeKey(tag, id))];
  await endScript.run(connection, ['1', instants, id]);
  for (let cursor = '0'; ;) {
    const [next, found] = scanReply(await connection.call('hscan', [index, cursor, 'COUNT', String(SCAN_COUNT)]));
    const kept = flatPairs(found).map(([bucket]) => argument(`${beforeKey(tag, id)}:${bucket}`));
    if (kept.length > 0) await connection.call('unlink', kept);
    if (next === '0') break;
    cursor = next;
  }
  await connection.call('unlink', [index]);
  await connection.call('hdel', [instants, id, `${id}b`]);
}

/** True when there was one. */
async function sweepSpent(connection: RedisConnection, tag: string, bytesMax: number): Promise<boolean> {
  const answer = await spentScript.run(connection, ['1', argument(instantsKey(tag)), String(bytesMax)]);
  const spent: unknown[] = Array.isArray(answer) ? answer : [];
  for (const id of spent) await sweep(connection, tag, String(id));
  return spent.length > 0;
}
