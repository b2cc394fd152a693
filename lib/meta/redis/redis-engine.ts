/**
 * MetaEngine over Redis 7.0 or newer: `redis://`, `rediss://`, `redis+sentinel://` (options.ts). The storage layout is in keys.ts.
 *
 * Invariants
 * - A commit is one EVALSHA of one script (commit-script.ts), a read one round trip. Nothing is sent twice by itself.
 * - The epoch is Redis's replication id. It is compared in every commit, in every renewal, and before a new connection is used; when
 *   it is another, the engine is `lost`: the server may have forgotten commits that it acknowledged.
 * Failure: connection.ts says what becomes of calls; feed.ts what subscribers hear. Redis killed between any two commits holds
 * whole commits only: a script is one unit in the append-only file and for replicas.
 * Limits: WAITING_MAX calls under way. How durable a commit is, is Redis's configuration (`appendfsync`) and `?durability`.
 */
import { hostname } from 'node:os';
import { systemClock } from '../../clock.ts';
import { PenstockError, isCode } from '../../errors.ts';
import {
  RING_SIZE,
  type CommitResult,
  type FeedHandlers,
  type Instant,
  type Key,
  type Link,
  type MetaEngine,
  type Minitransaction,
  type ScanPage,
  type SessionInfo,
  type SessionOptions,
  type Stored,
  type Subscription,
} from '../engine.ts';
import { SCAN_LIMIT_MAX, assertBucket, assertBucketPrefix, assertKey, checkMinitransaction } from '../limits.ts';
import { linkTarget } from '../link.ts';
import { DEFAULT_LEASE_MS, SessionLease } from '../session-lease.ts';
import {
  argument,
  decodeCommit,
  decodeStored,
  encodeCommit,
  encodeVersion,
  freesMemory,
  refusal,
  tagOf,
} from './commit-codec.ts';
import type { Argument } from './commit-codec.ts';
import { COMMIT_SCRIPT, COMMIT_SCRIPT_WHEN_FULL } from './commit-script.ts';
import { RedisConnection } from './connection.ts';
import { RedisFeed } from './feed.ts';
import { FieldReads } from './field-reads.ts';
import { RedisInstants } from './instants.ts';
import { FLUSH_KEY } from './keys.ts';
import { parseOptions, type EngineOptions } from './options.ts';
import { SCAN_COUNT, flatPairs, scanReply } from './replies.ts';
import { Script } from './script.ts';
import { FOLLOW_SCRIPT } from './small-scripts.ts';
import { checkServer, epochOf } from './server-check.ts';
import { RedisSessions } from './sessions.ts';

/** Operations leave the ring in steps: one HDEL for so many commits. */
const RING_STEP = 256;

const commitScript = new Script(COMMIT_SCRIPT);
const commitScriptWhenFull = new Script(COMMIT_SCRIPT_WHEN_FULL);
const followScript = new Script(FOLLOW_SCRIPT);

/** Throws `config`, `denied`, `unavailable` at the deadline, and `unsupported` with the name of what does not fit. */
export async function openRedisEngine(url: URL, session: SessionOptions): Promise<MetaEngine> {
  const options = parseOptions(url);
  const leaseMs = session.leaseMs ?? DEFAULT_LEASE_MS;
  let engine: RedisEngine | undefined;
  const connection: RedisConnection = new RedisConnection(options, leaseMs, {
    onReady: async () => {
      const info = String(await connection.send('info', []));
      const { epoch } = checkServer(info, options);
      engine?.checkEpoch(epoch);
    },
    onDown: () => undefined,
  });
  try {
    await connection.connect();
    const sessions = new RedisSessions(connection);
    const grantedMs = systemClock.monotonicMs();
    const { id, epoch } = await sessions.open({ ...session, host: hostname(), pid: process.pid, leaseMs });
    engine = new RedisEngine({ options, connection, sessions, id, epoch, leaseMs, grantedMs });
    return engine;
  } catch (error) {
    connection.close();
    throw error;
  }
}

class RedisEngine implements MetaEngine {
  readonly url: string;
  readonly sessionId: number;
  readonly #options: EngineOptions;
  readonly #connection: RedisConnection;
  readonly #sessions: RedisSessions;
  readonly #lease: SessionLease;
  readonly #feed: RedisFeed;
  readonly #fields: FieldReads;
  readonly #instants: RedisInstants;
  readonly epoch: string;
  /** A connection of its own: WAIT blocks the one that it is sent on. */
  #flushing: Promise<RedisConnection> | undefined;
  #counter = 0;
  /** The operations in the ring, oldest first. */
  #operations = new Set<string>();
  #closed = false;

  constructor(opened: {
    readonly options: EngineOptions;
    readonly connection: RedisConnection;
    readonly sessions: RedisSessions;
    readonly id: number;
    readonly epoch: string;
    readonly leaseMs: number;
    readonly grantedMs: number;
  }) {
    this.url = opened.options.url;
    this.sessionId = opened.id;
    this.#options = opened.options;
    this.#connection = opened.connection;
    this.#sessions = opened.sessions;
    this.epoch = opened.epoch;
    this.#feed = new RedisFeed(opened.options, opened.leaseMs / 3, opened.connection);
    this.#fields = new FieldReads(this.#connection);
    this.#instants = new RedisInstants({
      url: this.url,
      connection: this.#connection,
      session: this.sessionId,
      leaseMs: opened.leaseMs,
      check: () => this.#lease.check(),
      buckets: (prefix) => this.buckets(prefix),
    });
    this.#lease = new SessionLease({
      renew: () => this.#sessions.renew(this.sessionId, this.epoch, opened.leaseMs),
      leaseMs: opened.leaseMs,
      grantedMs: opened.grantedMs,
    });
  }

  get lost(): AbortSignal {
    return this.#lease.lost;
  }

  /** For a new connection: throws `fenced` when it reaches another epoch. */
  checkEpoch(epoch: string): void {
    if (epoch !== this.epoch) throw this.#lease.lose(`${this.url}: ${refusal('E')}`);
  }

  async read(keys: readonly Key[]): Promise<readonly (Stored | null)[]> {
    const records = await this.#readFields(keys);
    return records.map((record) => (record === null ? null : decodeStored(record)));
  }

  async readNumbers(keys: readonly Key[]): Promise<readonly (bigint | null)[]> {
    const records = await this.#readFields(keys);
    return records.map((record) => (record === null ? null : BigInt(record.toString('latin1'))));
  }

  async follow(key: Key, link: Link): Promise<{ record: Stored | null; target: Stored | null }> {
    this.#assertOpen();
    assertKey(key);
    const args = [argument(key.field), argument(link.bucketPrefix), String(2 ** link.shift)];
    const answer = await followScript.run(this.#connection, ['1', argument(key.bucket), ...args]);
    const [found, linked] = Array.isArray(answer) ? (answer as unknown[]) : [];
    const record = Buffer.isBuffer(found) ? decodeStored(found) : null;
    if (record === null || linked === null) return { record, target: null };
    if (Buffer.isBuffer(linked)) return { record, target: decodeStored(linked) };
    const target = linkTarget(record.value, link);
    return { record, target: target === null ? null : ((await this.read([target]))[0] ?? null) };
  }

  async scan(bucket: string, cursor: string, limit: number): Promise<ScanPage> {
    this.#assertOpen();
    assertBucket(bucket);
    const count = String(Math.min(Math.max(limit, 1), SCAN_LIMIT_MAX));
    const answer = await this.#connection.call('hscan', [
      argument(bucket),
      cursor === '' ? '0' : cursor,
      'COUNT',
      count,
    ]);
    const [next, flat] = scanReply(answer);
    const entries = flatPairs(flat).map(([field, record]): [string, Stored] => [field, decodeStored(record)]);
    return { entries, cursor: next === '0' ? null : next };
  }

  async count(bucket: string): Promise<number> {
    this.#assertOpen();
    assertBucket(bucket);
    return Number(await this.#connection.call('hlen', [argument(bucket)]));
  }

  async *buckets(prefix: string): AsyncIterable<string> {
    assertBucketPrefix(prefix);
    const pattern = argument(`${prefix.replace(/[\\*?[\]]/g, '\\$&')}*`);
    let cursor = '0';
    do {
      this.#assertOpen();
      const args = [cursor, 'MATCH', pattern, 'COUNT', String(SCAN_COUNT), 'TYPE', 'hash'];
      const [next, keys] = scanReply(await this.#connection.call('scan', args));
      for (const key of keys) yield key.toString('latin1');
      cursor = next;
    } while (cursor !== '0');
  }

  async numbers(bucket: string): Promise<readonly (readonly [string, bigint])[]> {
    this.#assertOpen();
    assertBucket(bucket);
    // By pages, as this is one long command otherwise; a page may repeat a field.
    const numbers = new Map<string, bigint>();
    let cursor = '0';
    do {
      const args = [argument(bucket), cursor, 'COUNT', String(SCAN_COUNT)];
      const [next, flat] = scanReply(await this.#connection.call('hscan', args));
      for (const [field, number] of flatPairs(flat)) numbers.set(field, BigInt(number.toString('latin1')));
      cursor = next;
    } while (cursor !== '0');
    return [...numbers];
  }

  async commit(transaction: Minitransaction): Promise<CommitResult> {
    checkMinitransaction(transaction);
    this.#assertOpen();
    this.#lease.check();
    const version = encodeVersion(this.sessionId, ++this.#counter);
    const dropped = transaction.operation === undefined ? [] : this.#noteOperation(transaction.operation);
    const header = { session: this.sessionId, epoch: this.epoch, database: this.#options.database, version, dropped };
    try {
      return decodeCommit(await this.#runCommit(transaction, encodeCommit(header, transaction)), transaction);
    } catch (error) {
      if (isCode(error, 'fenced')) throw this.#lease.lose(`${this.url}: ${error.message}`);
      throw error;
    }
  }

  /** A full Redis refuses it before anything is changed, so running it again is no repeat. */
  async #runCommit(transaction: Minitransaction, args: readonly Argument[]): Promise<unknown> {
    try {
      return await commitScript.run(this.#connection, args);
    } catch (error) {
      if (!isCode(error, 'full')) throw error;
      const hasRoom = await this.#instants.makeRoom(tagOf(transaction));
      if (freesMemory(transaction)) return commitScriptWhenFull.run(this.#connection, args);
      if (hasRoom) return commitScript.run(this.#connection, args);
      throw error;
    }
  }

  async instant(tag: string): Promise<Instant> {
    this.#assertOpen();
    this.#lease.check();
    return this.#instants.open(tag);
  }

  async clearInstants(tag: string): Promise<void> {
    this.#assertOpen();
    assertBucketPrefix(tag);
    await this.#instants.clear(tag);
  }

  async subscribe(shards: readonly string[], handlers: FeedHandlers): Promise<Subscription> {
    this.#assertOpen();
    return this.#feed.subscribe(shards, handlers);
  }

  async sessions(): Promise<readonly SessionInfo[]> {
    this.#assertOpen();
    return this.#sessions.all();
  }

  async endSession(id: number): Promise<void> {
    this.#assertOpen();
    await this.#sessions.end(id);
    if (id === this.sessionId) this.#lease.lose(`session ${id} was ended`);
  }

  async flush(): Promise<void> {
    this.#assertOpen();
    const { durability, replicas, deadlineMs } = this.#options;
    if (durability === 'none') return;
    this.#flushing ??= this.#openFlushing().catch((error: unknown) => {
      // The next flush tries anew.
      this.#flushing = undefined;
      throw error;
    });
    const connection = await this.#flushing;
    // WAIT waits for the last write of its own connection: this one comes after every commit that was answered.
    const written = connection.call('set', [FLUSH_KEY, String(this.sessionId)]);
    const waitMs = String(Math.ceil(deadlineMs / 2));
    const command = durability === 'wait' ? 'wait' : 'waitaof';
    const args = durability === 'wait' ? [String(replicas), waitMs] : ['1', String(replicas), waitMs];
    // Another master would wait for the write above just as well, and know nothing of the commits.
    const epoch = connection.call('info', ['replication']);
    const [, answer, info] = await Promise.all([written, connection.call(command, args), epoch]);
    this.checkEpoch(epochOf(String(info)));
    const [disks, copies] = Array.isArray(answer) ? [Number(answer[0]), Number(answer[1])] : [1, Number(answer)];
    if (disks < 1 || copies < replicas) {
      throw new PenstockError(
        'unavailable',
        `${this.url}: not durable after ${waitMs} ms: ${copies} of ${replicas} replicas have it (durability=${durability})`,
      );
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#feed.close();
    // A lost session has nothing to end, and a renewal that still waits for an answer need not get one.
    if (this.lost.aborted) this.#connection.close();
    await this.#lease.stop();
    try {
      // What is kept for one that cannot be reached is cleared by the next opening.
      await this.#instants.close().catch(() => undefined);
      if (!this.lost.aborted) await this.#sessions.end(this.sessionId);
    } finally {
      this.#connection.close();
      await this.#flushing?.then(
        (connection) => connection.close(),
        () => undefined,
      );
    }
  }

  /** Adds to the ring; returns those that leave it. */
  #noteOperation(operation: string): string[] {
    this.#operations.add(operation);
    if (this.#operations.size < RING_SIZE + RING_STEP) return [];
    const dropped = [...this.#operations.values().take(RING_STEP)];
    for (const name of dropped) this.#operations.delete(name);
    return dropped;
  }

  async #openFlushing(): Promise<RedisConnection> {
    const connection = new RedisConnection(this.#options, this.#options.deadlineMs, {
      onReady: async () => undefined,
      onDown: () => undefined,
    });
    await connection.connect();
    return connection;
  }

  /** The raw fields of `keys`, in their order: one command per bucket, all in one write, in the order of the first key of each. */
  async #readFields(keys: readonly Key[]): Promise<(Buffer | null)[]> {
    this.#assertOpen();
    keys.forEach(assertKey);
    const [only, second] = keys;
    if (only !== undefined && second === undefined) return [await this.#fields.read(only)];
    const byBucket = Map.groupBy(keys.keys(), (i) => keys[i]?.bucket ?? '');
    const records = new Array<Buffer | null>(keys.length).fill(null);
    await Promise.all(
      [...byBucket].map(async ([bucket, indices]) => {
        const fields = indices.map((i) => argument(keys[i]?.field ?? ''));
        const found = await this.#connection.call('hmget', [argument(bucket), ...fields]);
        indices.forEach((index, i) => {
          const record: unknown = Array.isArray(found) ? found[i] : null;
          records[index] = Buffer.isBuffer(record) ? record : null;
        });
      }),
    );
    return records;
  }

  #assertOpen(): void {
    if (this.#closed) throw new PenstockError('closed', `${this.url} was closed`);
  }
}
