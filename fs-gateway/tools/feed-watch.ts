/**
 * Listens to everything that changes in a volume. Whether all that was published until now has been heard is told by a marker of our own
 * on every shard.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, Subscription } from '../../lib/meta/engine.ts';
import { decodeChanges, encodeChanges } from '../../lib/volume/feed.ts';
import type { Change } from '../../lib/volume/feed.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';

const MARKER_DEADLINE_MS = 30_000;
const MARKER_POLL_MS = 2;

export class FeedLostError extends Error {
  override readonly name = 'FeedLostError';
}

export class FeedWatch {
  readonly #engine: MetaEngine;
  readonly #keys: VolumeKeys;
  readonly #markers = new Map<string, number>();
  #feed: Subscription | undefined;
  #sent = 0;
  #lost: string | undefined;

  private constructor(engine: MetaEngine, keys: VolumeKeys) {
    this.#engine = engine;
    this.#keys = keys;
  }

  /** `onChange` gets the changes of others, and with `own` also ours. */
  static async open(
    engine: MetaEngine,
    keys: VolumeKeys,
    onChange: (change: Change) => void,
    own = false,
  ): Promise<FeedWatch> {
    const watch = new FeedWatch(engine, keys);
    watch.#feed = await engine.subscribe(keys.shards(), {
      onMessage: (shard, message) => {
        const { session, changes } = decodeChanges(message);
        const ours = session === engine.sessionId;
        if (ours && changes.length === 0) watch.#markers.set(shard, (watch.#markers.get(shard) ?? 0) + 1);
        if (!ours || own) for (const change of changes) onChange(change);
      },
      onGap: () => watch.lose('the change feed was interrupted'),
    });
    return watch;
  }

  /** What was heard is not all any more. */
  lose(why: string): void {
    this.#lost ??= why;
  }

  /** Returns when all that was published before the call has been heard. Throws FeedLostError, `timeout`. */
  async catchUp(): Promise<void> {
    const shards = this.#keys.shards();
    const message = encodeChanges(this.#engine.sessionId, []);
    await this.#engine.commit({ publish: shards.map((shard) => ({ shard, message })) });
    this.#sent++;
    const deadline = performance.now() + MARKER_DEADLINE_MS;
    while (this.#lost === undefined && shards.some((shard) => (this.#markers.get(shard) ?? 0) < this.#sent)) {
      if (performance.now() > deadline) throw new PenstockError('timeout', 'the change feed does not answer');
      await sleep(MARKER_POLL_MS);
    }
    if (this.#lost !== undefined) throw new FeedLostError(this.#lost);
  }

  async close(): Promise<void> {
    await this.#feed?.close();
  }
}
