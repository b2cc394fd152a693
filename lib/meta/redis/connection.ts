/**
 * One connection to Redis that comes back by itself. Owns what the client library must not decide: nothing is ever sent twice.
 *
 * Invariants
 * - A command is sent only after `onReady` accepted the connection: what a new connection reaches (another master?) is checked
 *   before anything is asked of it.
 * - A command that was sent and has no answer when the connection ends fails with `timeout`: its effect is unknown, and the caller
 *   decides. One that could not be sent waits for a connection until the deadline and then fails with `unavailable`.
 * - Where nothing is under way, a command leaves at once: the server works on it while the others of this turn are made. Those leave in one write.
 * Failure: reconnection goes on until `close`, RETRY_FIRST_MS to RETRY_MAX_MS apart. A peer that is silent for `silenceMs`, or the
 * deadline where that is shorter, while an answer is due is given up: a half-open TCP connection would otherwise swallow commands for minutes.
 * Limits: WAITING_MAX commands are under way at once.
 */
import { Redis } from 'ioredis';
import { PenstockError, describeError } from '../../errors.ts';
import { WAITING_MAX } from '../limits.ts';
import type { Argument } from './commit-codec.ts';
import type { EngineOptions } from './options.ts';

const RETRY_FIRST_MS = 20;
const RETRY_MAX_MS = 1000;

export interface ConnectionHandlers {
  /** A new connection stands; commands wait until this resolves. When it throws, the connection is ended and tried again. */
  onReady(): Promise<void>;
  onDown(): void;
}

export class RedisConnection {
  readonly #redis: Redis;
  readonly #options: EngineOptions;
  readonly #handlers: ConnectionHandlers;
  #open = false;
  /** What every call gets once the connection was closed, or given up for ever. */
  #ended: PenstockError | undefined;
  #corked = false;
  #underWay = 0;
  /** Counts the connections, so that only the first failed command of one ends it. */
  #connection = 0;
  #lastError: unknown;
  #ready = Promise.withResolvers<undefined>();

  constructor(options: EngineOptions, silenceMs: number, handlers: ConnectionHandlers) {
    this.#options = options;
    this.#handlers = handlers;
    this.#redis = new Redis({
      connectTimeout: options.deadlineMs,
      ...options.client,
      lazyConnect: true,
      protocol: 2,
      connectionName: 'penstock',
      // Answers come in the order of the commands, so one silence tells of all of them: a timer for each costs 4 us.
      socketTimeout: Math.min(silenceMs, options.deadlineMs),
      noDelay: true,
      // What is ended has failed: nothing of it is waited for.
      disconnectTimeout: RETRY_FIRST_MS,
      // See the invariants: the library neither queues, nor sends again, nor subscribes again.
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
      maxRetriesPerRequest: 0,
      retryStrategy: (attempt) =>
        Math.min(RETRY_FIRST_MS * 2 ** Math.min(attempt - 1, 10), RETRY_MAX_MS) * (0.5 + Math.random() / 2),
    });
    // Nobody may wait at the moment when it is rejected by `close`.
    this.#ready.promise.catch(() => undefined);
    this.#redis.on('error', (error: unknown) => (this.#lastError = error));
    this.#redis.on('ready', () => void this.#onReady());
    this.#redis.on('close', () => this.#onClose());
    this.#redis.on('end', () => this.#onEnd());
  }

  /** Connects and waits for `onReady`. Throws `denied` for wrong credentials, `unavailable` at the deadline, and what `onReady` throws. */
  async connect(): Promise<void> {
    this.#redis.connect().catch((error: unknown) => (this.#lastError = error));
    const failed = Promise.withResolvers<never>();
    this.#redis.on('error', (error: unknown) => {
      const mapped = fromRedisError(error, this.#options.url);
      if (mapped.code === 'denied') failed.reject(mapped);
    });
    await Promise.race([this.#whenReady(), failed.promise]);
  }

  /** Pushes and messages of a subscribed connection. */
  onMessage(listener: (channel: string, message: Buffer) => void): void {
    this.#redis.on('messageBuffer', (channel: Buffer, message: Buffer) =>
      listener(channel.toString('latin1'), message),
    );
  }

  /** Sends one command and returns the reply, its strings as Buffers. */
  call(command: string, args: readonly Argument[]): Promise<unknown> {
    return this.#open ? this.send(command, args) : this.#whenReady().then(() => this.send(command, args));
  }

  /** The same, on the connection as it is: for `onReady`. */
  send(command: string, args: readonly Argument[]): Promise<unknown> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    if (this.#underWay >= WAITING_MAX) {
      const what = `${WAITING_MAX} commands are under way already`;
      return Promise.reject(new PenstockError('unavailable', `${this.#options.url}: ${what}`));
    }
    if (this.#underWay > 0) this.#cork();
    this.#underWay++;
    const connection = this.#connection;
    return this.#redis.callBuffer(command, ...args).then(this.#answered, (error: unknown) => {
      this.#underWay--;
      const mapped = fromRedisError(error, this.#options.url);
      // Neither heals on this connection: a master that became a replica, a peer that does not answer.
      if (connection === this.#connection && (isReadOnly(error) || mapped.code === 'timeout')) this.reconnect();
      throw mapped;
    });
  }

  readonly #answered = (reply: unknown): unknown => {
    this.#underWay--;
    return reply;
  };

  reconnect(): void {
    if (this.#ended !== undefined) return;
    this.#connection++;
    this.#redis.disconnect(true);
  }

  close(): void {
    this.#end(new PenstockError('closed', `${this.#options.url} was closed`));
  }

  async #whenReady(): Promise<void> {
    if (this.#ended !== undefined) throw this.#ended;
    const timeout = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      const { url, deadlineMs } = this.#options;
      const cause = this.#lastError;
      const why = cause === undefined ? 'no answer' : describeError(cause);
      timeout.reject(
        new PenstockError('unavailable', `${url} was not reached within ${deadlineMs} ms: ${why}`, { cause }),
      );
    }, this.#options.deadlineMs);
    try {
      await Promise.race([this.#ready.promise, timeout.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #onReady(): Promise<void> {
    try {
      await this.#handlers.onReady();
    } catch (error) {
      this.#lastError = error;
      if (error instanceof PenstockError && !error.retryable) {
        this.#end(error);
      } else {
        this.reconnect();
      }
      return;
    }
    if (this.#redis.status !== 'ready' || this.#ended !== undefined) return;
    this.#open = true;
    this.#ready.resolve(undefined);
  }

  #end(reason: PenstockError): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    this.#open = false;
    this.#ready.reject(reason);
    this.#redis.disconnect();
  }

  #onClose(): void {
    const wasOpen = this.#open;
    this.#connection++;
    this.#open = false;
    this.#corked = false;
    if (!wasOpen || this.#ended !== undefined) return;
    this.#ready = Promise.withResolvers<undefined>();
    this.#ready.promise.catch(() => undefined);
    this.#handlers.onDown();
  }

  /** The library gives up for good when a connection is ended while it asks the Sentinels for the master (seen in failovers). */
  #onEnd(): void {
    if (this.#ended !== undefined) return;
    setTimeout(() => {
      if (this.#ended === undefined) this.#redis.connect().catch((error: unknown) => (this.#lastError = error));
    }, RETRY_FIRST_MS);
  }

  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    // The types say that it is always there; before the first connection it is not.
    const stream = this.#redis.stream as Redis['stream'] | undefined;
    stream?.cork();
    process.nextTick(() => {
      this.#corked = false;
      stream?.uncork();
    });
  }
}

function isReadOnly(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('READONLY');
}

/** True for the answer to EVALSHA of a script that the server does not hold. */
export function isNoScript(error: unknown): boolean {
  return describeError(error).includes('NOSCRIPT');
}

/** Redis errors begin with a word in capitals; the client's own have fixed texts. */
export function fromRedisError(error: unknown, url: string): PenstockError {
  if (error instanceof PenstockError) return error;
  const text = describeError(error);
  const because = (code: ConstructorParameters<typeof PenstockError>[0], what = text): PenstockError =>
    new PenstockError(code, `${url}: ${what}`, { cause: error });
  const word = /^([A-Z]+)\b/.exec(text)?.[1];
  switch (word) {
    case 'OOM':
      return because('full', 'Redis is at its maxmemory');
    case 'NOAUTH':
    case 'NOPERM':
    case 'WRONGPASS':
      return because('denied');
    case 'READONLY':
    case 'LOADING':
    case 'BUSY':
    case 'MASTERDOWN':
    case 'NOREPLICAS':
    case 'TRYAGAIN':
      return because('unavailable');
    case 'MISCONF':
      return because('unavailable', 'Redis cannot write its snapshot to disk and refuses changes');
    case 'WRONGTYPE':
      return because('corrupt');
    default:
  }
  if (/max retries per request|Connection is closed|Command timed out|Socket timeout|ECONNRESET|EPIPE/.test(text)) {
    return because('timeout', `the answer was lost (${text}); whether it took effect is unknown`);
  }
  if (/Stream isn't writeable|ECONNREFUSED|ENOTFOUND|ETIMEDOUT|EHOSTUNREACH|sentinel/i.test(text))
    return because('unavailable');
  return because('io');
}
