/**
 * The segments of a spool on the disk: how many bytes they are, and how they shrink.
 *
 * Invariants: ascending; the last one is the writer's, and only it grows. A segment is deleted only when every reading in it is durably
 * acknowledged (in order, or as a range) or recorded as dropped; of one that is written anew, only such readings are left out.
 * Failure: see dropping.ts; a deletion that fails is tried again with the next one.
 */
import { unlink } from 'node:fs/promises';
import { syncDirectory } from '../../lib/durable-files.ts';
import { thinSegment, type Thinning } from './dropping.ts';
import type { Segment } from './recovery.ts';
import { deliveredSegments } from './spool-stats.ts';
import type { SpoolState } from './spool-state.ts';

export class StoredSegments {
  readonly #dir: string;
  readonly #state: SpoolState;
  #all: readonly Segment[];
  #current: Segment;
  #sealedBytes: number;

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

  /** The writer's is sealed, and `next` is the writer's. */
  roll(next: Segment): void {
    this.#sealedBytes += this.#current.bytes;
    this.#all = [...this.#all, next];
    this.#current = next;
  }

  /** Deletes the sealed ones that nobody needs any more; false when there were none. */
  async removeDelivered(): Promise<boolean> {
    const removable = deliveredSegments(this.#all, this.#state);
    if (removable.length === 0) return false;
    this.#all = this.#all.filter((segment) => !removable.includes(segment));
    for (const segment of removable) {
      this.#sealedBytes -= segment.bytes;
      await unlink(segment.path);
    }
    await syncDirectory(this.#dir);
    return true;
  }

  /** Takes away what is recorded as dropped. */
  async thin(plan: readonly Thinning[]): Promise<void> {
    for (const thinning of plan) {
      // Deleted already: nothing in it was left.
      if (this.#all.includes(thinning.segment)) this.#replace(thinning.segment, await thinSegment(thinning));
    }
  }

  #replace(old: Segment, thinned: Segment): void {
    this.#all = this.#all.map((segment) => (segment === old ? thinned : segment));
    this.#sealedBytes += thinned.bytes - old.bytes;
  }
}
