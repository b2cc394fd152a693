/**
 * The segments of a spool on the disk: how many bytes they are, and how they shrink.
 *
 * Invariants: ascending; the last one is the writer's, and only it grows. A segment is deleted only when every reading in it is durably
 * acknowledged (in order, or as a range) or recorded as dropped; of one that is written anew, only such readings are left out.
 * Failure: see dropping.ts and compaction.ts; a deletion that fails is tried again with the next one.
 */
import { rm } from 'node:fs/promises';
import { syncDirectory } from '../../lib/durable-files.ts';
import { Compaction } from './compaction.ts';
import { thinSegment, type Thinning } from './dropping.ts';
import type { Segment } from './recovery.ts';
import { deliveredSegments, type SpoolStats } from './spool-stats.ts';
import type { SpoolState } from './spool-state.ts';

export class StoredSegments {
  readonly #dir: string;
  readonly #state: SpoolState;
  readonly #compaction = new Compaction();
  /** Keys and values of readings that went into segments since the start. */
  storedBytes = 0;
  #all: readonly Segment[];
  #current: Segment;
  #sealedBytes: number;
  #mayCompact = true;
  #rewriting: Promise<unknown> = Promise.resolve();

  constructor(dir: string, state: SpoolState, sealed: readonly Segment[], current: Segment) {
    this.#dir = dir;
    this.#state = state;
    this.#all = [...sealed, current];
    this.#current = current;
    this.#sealedBytes = sealed.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get all(): readonly Segment[] {
    return this.#all;
  }

  get sealed(): readonly Segment[] {
    return this.#all.slice(0, -1);
  }

  get bytes(): number {
    return this.#sealedBytes + this.#current.bytes;
  }

  stats(): Pick<SpoolStats, 'bytes' | 'segments' | 'storedBytes'> {
    return { bytes: this.bytes, segments: this.#all.length, storedBytes: this.storedBytes };
  }

  /** Something may have been delivered since no segment was worth it. */
  get mayCompact(): boolean {
    return this.#mayCompact;
  }

  /** Whether the segment's file is another one by now, or deleted; waits for the writing that is under way. */
  readonly isReplaced = async (segment: Segment): Promise<boolean> => {
    await this.#rewriting.catch(() => {
      // The old one stays then.
    });
    return !this.#all.includes(segment);
  };

  /** The writer's is sealed, and `next` is the writer's. */
  roll(next: Segment): void {
    this.#sealedBytes += this.#current.bytes;
    this.#all = [...this.#all, next];
    this.#current = next;
  }

  /** Deletes the sealed ones that nobody needs any more; false when there were none. */
  async removeDelivered(): Promise<boolean> {
    this.#mayCompact = true;
    const removable = deliveredSegments(this.#all, this.#state);
    if (removable.length === 0) return false;
    this.#all = this.#all.filter((segment) => !removable.includes(segment));
    for (const segment of removable) {
      this.#sealedBytes -= segment.bytes;
      // Also where somebody deleted it from outside: the others are not to stay for that.
      await rm(segment.path, { force: true });
    }
    await syncDirectory(this.#dir);
    return true;
  }

  /** Takes away what is recorded as dropped. */
  async thin(plan: readonly Thinning[]): Promise<void> {
    for (const thinning of plan) {
      // Deleted already: nothing in it was left.
      if (!this.#all.includes(thinning.segment)) continue;
      await this.#rewrite(async () => [thinning.segment, await thinSegment(thinning)]);
    }
  }

  /** Writes one segment anew without what is delivered; false when there is none for which it is worth it, or it cannot be done now. */
  async compact(): Promise<boolean> {
    if (!this.#mayCompact) return false;
    // A disk without room for what is kept, or the like: the next delivery lets it be tried again.
    this.#mayCompact = await this.#rewrite(() => this.#compaction.next(this.#all, this.#state)).catch(() => false);
    return this.#mayCompact;
  }

  async #rewrite(rewrite: () => Promise<readonly [old: Segment, rewritten: Segment] | undefined>): Promise<boolean> {
    const rewriting = rewrite().then((pair) => {
      if (pair === undefined) return false;
      const [old, rewritten] = pair;
      this.#all = this.#all.map((segment) => (segment === old ? rewritten : segment));
      this.#sealedBytes += rewritten.bytes - old.bytes;
      return true;
    });
    this.#rewriting = rewriting;
    return rewriting;
  }
}
