/**
 * The change feed over the `feed` table: readers follow the sequence from where they stand.
 *
 * Invariants: messages are given out in the order of their sequence, which is the order of commits over all processes; also
 * one's own commits come from the table, so a message of another process that was committed before is never overtaken.
 * Failure: the sequence has no holes (a rolled-back commit takes none), so a hole says that rows were pruned before they were
 * read: every subscriber is told of the gap and goes on from the newest row.
 * Limits: a commit here is seen at once; one of another process by polling `PRAGMA data_version` (a read of shared memory), every
 * POLL_BUSY_MS to POLL_IDLE_MS, only while someone subscribes. FEED_ROWS_MAX rows are kept, up to twice that between prunings.
 */
import type { DatabaseSync, StatementSync } from 'node:sqlite';
import type { FeedHandlers, Subscription } from '../engine.ts';
import { blob } from './minitransaction.ts';

const FEED_ROWS_MAX = 16_384;
const POLL_BUSY_MS = 2;
const POLL_IDLE_MS = 32;
/** Rows read at once: a reader that is far behind must not hold them all in memory. */
const PAGE_ROWS = 512;

interface Subscriber {
  readonly shards: Set<string>;
  readonly handlers: FeedHandlers;
}

export class SqliteFeed {
  readonly #newest: StatementSync;
  readonly #after: StatementSync;
  readonly #prune: StatementSync;
  readonly #dataVersion: StatementSync;
  readonly #onError: (error: unknown) => void;
  readonly #subscribers = new Set<Subscriber>();
  #sequence = 0;
  #seenDataVersion = -1;
  #pollMs = POLL_IDLE_MS;
  #timer: NodeJS.Timeout | undefined;

  /** `onError` hears of a read that failed while polling; the next poll tries again. */
  constructor(database: DatabaseSync, onError: (error: unknown) => void) {
    this.#newest = database.prepare("SELECT coalesce(max(seq), 0) AS seq FROM sqlite_sequence WHERE name = 'feed'");
    this.#after = database.prepare(
      `SELECT sequence, shard, message FROM feed WHERE sequence > ? ORDER BY sequence LIMIT ${PAGE_ROWS}`,
    );
    this.#prune = database.prepare('DELETE FROM feed WHERE sequence <= ?');
    this.#dataVersion = database.prepare('PRAGMA data_version');
    this.#onError = onError;
  }

  /** Inside a transaction that published: keeps the table bounded. `published` is how many rows it added. */
  prune(published: number): void {
    const newest = this.#newestSequence();
    // Once per FEED_ROWS_MAX rows, whoever wrote them: when this transaction crossed a multiple of it.
    if (newest % FEED_ROWS_MAX < published) this.#prune.run(newest - FEED_ROWS_MAX);
  }

  subscribe(shards: readonly string[], handlers: FeedHandlers): Subscription {
    const subscriber: Subscriber = { shards: new Set(shards), handlers };
    if (this.#subscribers.size === 0) this.#start();
    else this.deliver();
    this.#subscribers.add(subscriber);
    return {
      add: async (more) => {
        this.deliver();
        for (const shard of more) subscriber.shards.add(shard);
      },
      remove: async (fewer) => {
        for (const shard of fewer) subscriber.shards.delete(shard);
      },
      close: async () => {
        this.#subscribers.delete(subscriber);
        if (this.#subscribers.size === 0) this.close();
      },
    };
  }

  /** Gives out what was committed since the last call, by anyone. Cheap when nobody subscribes. */
  deliver(): boolean {
    if (this.#subscribers.size === 0) return false;
    const before = this.#sequence;
    while (true) {
      const rows = this.#after.all(this.#sequence);
      const first = rows[0];
      if (first === undefined) break;
      if (Number(first['sequence']) !== this.#sequence + 1) this.#gap();
      for (const row of rows) {
        this.#sequence = Number(row['sequence']);
        this.#give(blob(row['shard']).toString('latin1'), blob(row['message']));
      }
      if (rows.length < PAGE_ROWS) break;
    }
    return this.#sequence !== before;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#subscribers.clear();
  }

  #start(): void {
    this.#sequence = this.#newestSequence();
    this.#seenDataVersion = this.#version();
    this.#schedule(POLL_IDLE_MS);
  }

  #schedule(delayMs: number): void {
    this.#pollMs = delayMs;
    this.#timer = setTimeout(() => this.#poll(), delayMs).unref();
  }

  #poll(): void {
    let changed = false;
    try {
      const version = this.#version();
      if (version !== this.#seenDataVersion) {
        changed = true;
        this.deliver();
        // Only now: a delivery that failed is tried again by the next poll.
        this.#seenDataVersion = version;
      }
    } catch (error) {
      this.#onError(error);
    }
    if (this.#subscribers.size > 0) {
      this.#schedule(changed ? POLL_BUSY_MS : Math.min(this.#pollMs * 2, POLL_IDLE_MS));
    }
  }

  #give(shard: string, message: Buffer): void {
    for (const { shards, handlers } of this.#subscribers) if (shards.has(shard)) handlers.onMessage(shard, message);
  }

  #gap(): void {
    for (const { shards, handlers } of this.#subscribers) for (const shard of shards) handlers.onGap(shard);
  }

  #newestSequence(): number {
    return Number(this.#newest.get()?.['seq']);
  }

  #version(): number {
    return Number(this.#dataVersion.get()?.['data_version']);
  }
}
