/**
 * The volume's connection to its metadata engine. A session that is lost (a lease missed, a failover) is replaced by a new one; calls
 * wait for it up to `deadlineMs` and then fail, so that a program gets EIO and not a hang.
 *
 * Invariants
 * - `onReplaced` runs before the first call on a new session, so nothing cached under the old one is used with it.
 * - The old session is ended in the engine before that: what may still be on its way under it can no longer be applied.
 * Failure: a commit that was under way when the session fell fails with `fenced`; one whose answer was lost is fenced by `fence`.
 * VolumeView.change then finds out whether it was applied; where its time is over, `onOpened` does.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { PenstockError, describeError, isCode } from '../../lib/errors.ts';
import type { FeedHandlers, MetaEngine } from '../../lib/meta/engine.ts';

const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 2000;

export interface ConnectionOptions {
  open(): Promise<MetaEngine>;
  readonly shards: readonly string[];
  readonly feed: FeedHandlers;
  /** An engine that will be used, before it is. */
  onOpened(engine: MetaEngine): Promise<void>;
  /** The caches are void. */
  onReplaced(): void;
  report(message: string): void;
  readonly deadlineMs: number;
}

export class Connection {
  readonly #options: ConnectionOptions;
  #engine: MetaEngine;
  #replacing: Promise<void> | undefined;
  #closed = false;
  /** It is replaced when it is lost. */
  readonly #isOwn: boolean;

  private constructor(engine: MetaEngine, options: ConnectionOptions, isOwn: boolean) {
    this.#engine = engine;
    this.#options = options;
    this.#isOwn = isOwn;
  }

  static async open(options: ConnectionOptions): Promise<Connection> {
    const engine = await prepared(options);
    const connection = new Connection(engine, options, true);
    connection.#watch(engine);
    return connection;
  }

  /** An engine that somebody else opened, and replaces and closes. */
  static over(engine: MetaEngine): Connection {
    const options = {
      open: () => Promise.resolve(engine),
      shards: [],
      feed: { onMessage: () => undefined, onGap: () => undefined },
      onOpened: () => Promise.resolve(),
      onReplaced: () => undefined,
      report: () => undefined,
      deadlineMs: 0,
    };
    return new Connection(engine, options, false);
  }

  /** The live engine, at once when there is one. Throws `closed`, `timeout`. */
  get(): MetaEngine | Promise<MetaEngine> {
    return this.#replacing === undefined ? this.#engine : this.#wait(this.#replacing);
  }

  /** A read, made again when its answer was lost or the session fell under it, up to `deadlineMs`. */
  async retry<T>(read: () => Promise<T>): Promise<T> {
    const endMs = performance.now() + this.#options.deadlineMs;
    while (true) {
      const ready = this.get();
      const engine = ready instanceof Promise ? await ready : ready;
      try {
        return await read();
      } catch (error) {
        const passes = isCode(error, 'unavailable', 'timeout') || this.#fell(engine, error);
        if (!passes || this.#closed || performance.now() > endMs) throw error;
      }
      await sleep(RETRY_FIRST_MS);
    }
  }

  #fell(engine: MetaEngine, error: unknown): boolean {
    const replaced = engine !== this.#engine || this.#replacing !== undefined || engine.lost.aborted;
    return replaced && isCode(error, 'fenced', 'closed');
  }

  /**
   * After a commit that failed: returns when it may be planned again, because it was not applied or never will be unless it was already.
   * Throws the error when that is no way out, or when `endMs` has passed; it will not be applied behind that either.
   */
  async recover(engine: MetaEngine, error: unknown, endMs: number): Promise<void> {
    const isLost = isCode(error, 'timeout');
    if (isLost && this.#isOwn) await this.#fence(engine);
    if (this.#closed || !this.#isOwn || performance.now() > endMs) throw error;
    if (isLost || this.#fell(engine, error)) return;
    if (!isCode(error, 'unavailable')) throw error;
    await sleep(RETRY_FIRST_MS);
  }

  /**
   * The answer of a commit was lost, and the commit may still lie in some buffer on its way. It ends with the session: other calls are
   * made again under the next one.
   */
  async #fence(engine: MetaEngine): Promise<void> {
    while (engine === this.#engine && this.#replacing === undefined && !this.#closed) {
      try {
        await engine.endSession(engine.sessionId);
      } catch {
        // Not reached: asked again until the lease has run out, which ends the session too.
        await sleep(RETRY_FIRST_MS);
      }
    }
  }

  /** The engine as it is, for what needs no live session (ids of a session). */
  get current(): MetaEngine {
    return this.#engine;
  }

  async #wait(replacing: Promise<void>): Promise<MetaEngine> {
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(new PenstockError('timeout', `no metadata engine for ${this.#options.deadlineMs} ms`));
      }, this.#options.deadlineMs);
    });
    try {
      await Promise.race([replacing, deadline]);
    } finally {
      clearTimeout(timer);
    }
    return this.#engine;
  }

  #watch(engine: MetaEngine): void {
    const onLost = (): void => {
      if (this.#closed || engine !== this.#engine) return;
      this.#options.report(`metadata session lost: ${describeError(engine.lost.reason)}`);
      this.#replacing = this.#replace(engine);
    };
    if (engine.lost.aborted) onLost();
    else engine.lost.addEventListener('abort', onLost, { once: true });
  }

  async #replace(lost: MetaEngine): Promise<void> {
    this.#options.onReplaced();
    await lost.close().catch(() => undefined); // It is lost; what it says about that changes nothing.
    for (let delayMs = RETRY_FIRST_MS; !this.#closed; delayMs = Math.min(delayMs * 2, RETRY_MAX_MS)) {
      try {
        const engine = await prepared(this.#options, lost.sessionId);
        this.#options.onReplaced();
        this.#engine = engine;
        this.#replacing = undefined;
        this.#watch(engine);
        this.#options.report('metadata session renewed');
        return;
      } catch (error) {
        this.#options.report(`metadata engine: ${describeError(error)}`);
        await sleep(delayMs);
      }
    }
    throw new PenstockError('closed', 'the volume is closed');
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#replacing?.catch(() => undefined); // Its waiters have their own copy of the rejection.
    await this.#engine.close();
  }
}

/** An engine that may be used. One that fails on the way is closed: its session would be renewed for ever. */
async function prepared(options: ConnectionOptions, lostSession?: number): Promise<MetaEngine> {
  const engine = await options.open();
  try {
    if (lostSession !== undefined) await engine.endSession(lostSession);
    await engine.subscribe(options.shards, options.feed);
    await options.onOpened(engine);
    return engine;
  } catch (error) {
    await engine.close().catch(() => undefined); // The first error is the one to tell.
    throw error;
  }
}
