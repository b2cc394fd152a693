/**
 * Whose turn it is to commit to a table that several want to commit to: who loses a race has written a manifest list and a metadata document
 * for nothing, and with many writers nearly all of them do, again and again.
 *
 *   {VOLUME}commit-turns / DATASET     ids of commits, one a line, in the order of their turns; absent: nobody waits
 *
 * A commit tries without a turn as long as nobody waits for one. After a race that it lost, or where somebody waits, it goes to the end of the
 * line, and tries when it is the first.
 * Invariants: only work is saved by this. What is true is decided by the compares of the commit, whoever has the turn.
 * Failure: who is the first for TURN_MS is put out of the line by who waits; the time is counted on our own clock.
 * Limits: nobody waits longer than WAIT_MS_MAX in all, nor behind more than LINE_MAX others.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Key, Stored } from '../meta/engine.ts';
import type { LakeContext } from './table.ts';

/** Far above what an attempt takes. */
const TURN_MS = 3000;
const WAIT_MS_MAX = 30_000;
const LINE_MAX = 200;
/** Of who is the next. Who is further behind looks less often. */
const LOOK_EVERY_MS = 4;
const LOOK_EVERY_MS_MAX = 40;
/** To change the line against others who change it, each of whom gets on by it. */
const CHANGES_MAX = 50;

export class CommitTurn {
  readonly #ctx: LakeContext;
  readonly #key: Key;
  readonly #id = randomUUID();
  #isInLine = false;
  #isFirst = false;
  #waitedMs = 0;

  constructor(ctx: LakeContext, name: string) {
    this.#ctx = ctx;
    this.#key = { bucket: `{${ctx.volume}}commit-turns`, field: name };
  }

  /** As far as is known. */
  get isOurs(): boolean {
    return this.#isFirst;
  }

  /** Before an attempt; `hasLost`: there was one before it. Best effort: an engine that is away is met by the commit itself. */
  async wait(hasLost: boolean): Promise<void> {
    this.#isFirst = false;
    await this.#wait(hasLost).catch(() => undefined);
  }

  async #wait(hasLost: boolean): Promise<void> {
    const { clock } = this.#ctx;
    let stored = await this.#read();
    if (!hasLost && stored === null) return;
    if (lineOf(stored).length >= LINE_MAX) return;
    this.#isInLine = true;
    let line = await this.#change(stored, (ids) => (ids.includes(this.#id) ? ids : [...ids, this.#id]));
    for (let sinceMs = clock.monotonicMs(); this.#waitedMs < WAIT_MS_MAX;) {
      const [first] = line;
      const behind = line.indexOf(this.#id);
      // Others took us for dead: this attempt is without a turn.
      if (behind < 0) return;
      this.#isFirst = behind === 0;
      if (this.#isFirst) return;
      if (clock.monotonicMs() - sinceMs > TURN_MS)
        await this.#change(stored, (ids) => ids.filter((id) => id !== first));
      const pauseMs = Math.min(LOOK_EVERY_MS_MAX, LOOK_EVERY_MS * behind) * (0.5 + Math.random());
      this.#waitedMs += pauseMs;
      await sleep(pauseMs);
      stored = await this.#read();
      line = lineOf(stored);
      if (line[0] !== first) sinceMs = clock.monotonicMs();
    }
  }

  /** Best effort: else others wait for TURN_MS. */
  async end(): Promise<void> {
    if (!this.#isInLine) return;
    await this.#read()
      .then((stored) => this.#change(stored, (ids) => ids.filter((id) => id !== this.#id)))
      .catch(() => undefined);
  }

  async #read(): Promise<Stored | null> {
    const [stored] = await this.#ctx.engine.read([this.#key]);
    return stored ?? null;
  }

  /** Answers the line as it is then; a line that changes all the time stays as it is. */
  async #change(from: Stored | null, next: (line: readonly string[]) => readonly string[]): Promise<readonly string[]> {
    let current = from;
    for (let tried = 0; tried < CHANGES_MAX; tried++) {
      const line = lineOf(current);
      const changed = next(line);
      if (changed.length === line.length) return line;
      const result = await this.#ctx.engine.commit({
        compare: [{ key: this.#key, version: current?.version ?? null }],
        write: [{ key: this.#key, value: changed.length === 0 ? null : Buffer.from(changed.join('\n')) }],
      });
      if (result.ok) return changed;
      const [mismatch] = result.mismatches;
      current = mismatch?.kind === 'value' ? mismatch.current : null;
    }
    return lineOf(current);
  }
}

function lineOf(stored: Stored | null): readonly string[] {
  return stored === null ? [] : stored.value.toString('latin1').split('\n');
}
