/**
 * The change feed over Redis pub/sub, on a connection of its own.
 *
 * Pub/sub loses what it cannot deliver, so each message carries the sequence of its shard.
 *
 * Invariants: `onGap(shard)` is called whenever a message of a subscribed shard may have been missed: at a hole in the sequence,
 * when the connection is lost, and again when the shards are subscribed anew, for what was cached in between.
 * Failure: a subscriber's silence means nothing, so the connection is pinged at a third of the lease; a peer that does not answer is
 * given up by the connection (`silenceMs`).
 * Limits: Redis cuts a subscriber that is too slow (`client-output-buffer-limit pubsub`): a lost connection, and so a gap.
 */
import { PenstockError } from '../../errors.ts';
import type { FeedHandlers, Subscription } from '../engine.ts';
import { argument } from './commit-codec.ts';
import { RedisConnection } from './connection.ts';
import { feedChannel, feedKey } from './keys.ts';
import type { EngineOptions } from './options.ts';

const SEQUENCE_BYTES = 6;

interface Subscriber {
  readonly shards: Set<string>;
  readonly handlers: FeedHandlers;
}

interface Shard {
  readonly name: string;
  readonly subscribers: Set<Subscriber>;
  /** The sequence of the last message; undefined until it is known. */
  last: number | undefined;
}

export class RedisFeed {
  readonly #options: EngineOptions;
  readonly #pingMs: number;
  /** Reads the sequences: a subscribed connection takes no other commands. */
  readonly #commands: RedisConnection;
  readonly #byChannel = new Map<string, Shard>();
  #connection: Promise<RedisConnection> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: EngineOptions, pingMs: number, commands: RedisConnection) {
    this.#options = options;
    this.#pingMs = pingMs;
    this.#commands = commands;
  }

  async subscribe(shards: readonly string[], handlers: FeedHandlers): Promise<Subscription> {
    const subscriber: Subscriber = { shards: new Set(), handlers };
    await this.#add(subscriber, shards);
    return {
      add: (more) => this.#add(subscriber, more),
      remove: (fewer) => this.#remove(subscriber, fewer),
      close: () => this.#remove(subscriber, [...subscriber.shards]),
    };
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#byChannel.clear();
    this.#connection?.then(
      (connection) => connection.close(),
      () => undefined,
    );
  }

  async #add(subscriber: Subscriber, names: readonly string[]): Promise<void> {
    const connection = await this.#connect();
    const fresh: Shard[] = [];
    for (const name of names) {
      const channel = feedChannel(name, this.#options.database);
      let shard = this.#byChannel.get(channel);
      if (shard === undefined) {
        shard = { name, subscribers: new Set(), last: undefined };
        this.#byChannel.set(channel, shard);
      }
      // One that another call is subscribing at this moment counts too: each caller waits for the server's answer.
      if (shard.last === undefined) fresh.push(shard);
      shard.subscribers.add(subscriber);
      subscriber.shards.add(name);
    }
    if (fresh.length > 0) await this.#listen(connection, fresh);
  }

  async #remove(subscriber: Subscriber, names: readonly string[]): Promise<void> {
    const unused: string[] = [];
    for (const name of names) {
      const channel = feedChannel(name, this.#options.database);
      const shard = this.#byChannel.get(channel);
      subscriber.shards.delete(name);
      shard?.subscribers.delete(subscriber);
      if (shard?.subscribers.size !== 0) continue;
      this.#byChannel.delete(channel);
      unused.push(channel);
    }
    if (unused.length === 0 || this.#closed) return;
    const connection = await this.#connect();
    await connection.call('unsubscribe', unused.map(argument));
  }

  #connect(): Promise<RedisConnection> {
    if (this.#closed) return Promise.reject(new PenstockError('closed', `${this.#options.url} was closed`));
    this.#connection ??= this.#open().catch((error: unknown) => {
      // The next subscriber tries anew.
      this.#connection = undefined;
      throw error;
    });
    return this.#connection;
  }

  async #open(): Promise<RedisConnection> {
    const connection: RedisConnection = new RedisConnection(this.#options, this.#pingMs * 2, {
      onReady: async () => {
        const shards = [...this.#byChannel.values()];
        if (shards.length === 0) return;
        await this.#listen(connection, shards);
        // What was cached while nobody listened may be stale.
        this.#gap(shards);
      },
      onDown: () => {
        const shards = [...this.#byChannel.values()];
        for (const shard of shards) shard.last = undefined;
        this.#gap(shards);
      },
    });
    connection.onMessage((channel, message) => this.#onMessage(channel, message));
    await connection.connect();
    this.#timer = setInterval(() => {
      // A failure ends in a new connection, of which the handlers above tell.
      connection.send('ping', []).catch(() => undefined);
    }, this.#pingMs).unref();
    return connection;
  }

  /** Subscribes, and learns where each sequence stands. */
  async #listen(connection: RedisConnection, shards: readonly Shard[]): Promise<void> {
    const { database } = this.#options;
    await connection.send(
      'subscribe',
      shards.map(({ name }) => argument(feedChannel(name, database))),
    );
    const sequences = await this.#commands.send(
      'mget',
      shards.map(({ name }) => argument(feedKey(name))),
    );
    shards.forEach((shard, i) => {
      // A message that came meanwhile has set it already.
      shard.last ??= Number((Array.isArray(sequences) ? sequences[i] : null) ?? 0);
    });
  }

  #onMessage(channel: string, bytes: Buffer): void {
    const shard = this.#byChannel.get(channel);
    if (shard === undefined || bytes.length < SEQUENCE_BYTES) return;
    const sequence = bytes.readUIntBE(0, SEQUENCE_BYTES);
    if (shard.last !== undefined && sequence > shard.last + 1) this.#gap([shard]);
    // One that was read with MGET before it was delivered here is not behind: it is given out all the same.
    shard.last = Math.max(sequence, shard.last ?? 0);
    const message = bytes.subarray(SEQUENCE_BYTES);
    for (const { handlers } of shard.subscribers) handlers.onMessage(shard.name, message);
  }

  #gap(shards: readonly Shard[]): void {
    for (const { name, subscribers } of shards) for (const { handlers } of subscribers) handlers.onGap(name);
  }
}
