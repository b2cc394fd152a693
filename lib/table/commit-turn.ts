/**
 * Whose turn it is to commit to a table that several want to commit to: who loses a race has written a manifest list and a metadata document
 * for nothing, and with many writers nearly all of them do, again and again.
 *
 *   {VOLUME}commit-turns / DATASET     the id of a commit; there while it has its turn
 *
 * A commit first tries without a turn, as long as nobody has one; after a race that it lost it takes one, and others wait for that.
 * Invariants: only work is saved by this. What is true is decided by the compares of the commit, whoever has the turn.
 * Failure: of a turn that stands for TURN_MS nobody waits for the end; the waiting is counted on our own clock.
 * Limits: nobody waits longer than WAIT_MS_MAX in all.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Key, Stored } from '../meta/engine.ts';
import type { LakeContext } from './table.ts';

/** Far above what an attempt takes. */
const TURN_MS = 3000;
const WAIT_MS_MAX = 30_000;
const LOOK_EVERY_MS = 10;

export class CommitTurn {
  readonly #ctx: LakeContext;
  readonly #key: Key;
  readonly #id = Buffer.from(randomUUID());
  #isOurs = false;
  #waitedMs = 0;

  constructor(ctx: LakeContext, name: string) {
    this.#ctx = ctx;
    this.#key = { bucket: `{${ctx.volume}}commit-turns`, field: name };
  }

  /** Before an attempt; `hasLost`: there was one before it. Best effort, too. */
  async wait(hasLost: boolean): Promise<void> {
    await this.#wait(hasLost).catch(() => undefined);
  }

  async #wait(hasLost: boolean): Promise<void> {
    const { clock } = this.#ctx;
    let [stored, sinceMs] = [await this.#read(), clock.monotonicMs()];
    while (!this.#isOurs && (hasLost || stored !== null) && this.#waitedMs < WAIT_MS_MAX) {
      const isFree = stored === null || clock.monotonicMs() - sinceMs > TURN_MS;
      if (isFree && (await this.#take(stored))) return;
      const pauseMs = LOOK_EVERY_MS * (0.5 + Math.random());
      this.#waitedMs += pauseMs;
      await sleep(pauseMs);
      const now = await this.#read();
      if (now?.version !== stored?.version) sinceMs = clock.monotonicMs();
      stored = now;
    }
  }

  /** Best effort: else others wait for TURN_MS. */
  async end(): Promise<void> {
    if (!this.#isOurs) return;
    try {
      const stored = await this.#read();
      if (stored?.value.equals(this.#id) !== true) return;
      const compare = [{ key: this.#key, version: stored.version }];
      await this.#ctx.engine.commit({ compare, write: [{ key: this.#key, value: null }] });
    } catch {
      // An engine that is away is met by the commit itself.
    }
  }

  async #read(): Promise<Stored | null> {
    const [stored] = await this.#ctx.engine.read([this.#key]);
    return stored ?? null;
  }

  async #take(from: Stored | null): Promise<boolean> {
    const compare = [{ key: this.#key, version: from?.version ?? null }];
    const { ok } = await this.#ctx.engine.commit({ compare, write: [{ key: this.#key, value: this.#id }] });
    this.#isOurs = ok;
    return ok;
  }
}
