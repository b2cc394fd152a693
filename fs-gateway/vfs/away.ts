/**
 * A node that comes back with what its programs wrote before it was away (asleep, cut off) must not write over what others have committed meanwhile:
 * where that is the same bytes, those of this node are kept aside.
 *
 * Away is who has lost his session since the bytes were staged, when that was more than AWAY_MIN_MS ago: a short outage of the metadata is
 * nobody's absence, and programs wait for its end (VolumeView).
 * Limits: what is known of the content before is its extents. Of a small file, which is in the metadata, and of one with pages of extents it is only
 * whether it changed. It is not known of what an earlier worker had staged, nor needed of live files (they merge, data/live-file.ts).
 */
import type { Clock } from '../../lib/clock.ts';
import { INODE_INLINE, INODE_PAGED } from '../../lib/volume/inode.ts';
import type { StagedFile } from '../data/staged-file.ts';
import type { Flush } from '../data/staging.ts';
import { sameBytes } from '../data/whole-record.ts';
import type { FileContent } from '../data/whole-record.ts';
import type { Node } from '../meta/cache.ts';
import { contentMark } from './content-of.ts';

const AWAY_MIN_MS = 60_000;

interface Base {
  readonly node: Node;
  readonly session: number;
  readonly monotonicMs: number;
  readonly wallMs: number;
}

export class Away {
  readonly #clock: Clock;
  readonly #session: () => number;
  readonly #bases = new WeakMap<StagedFile, Base>();

  constructor(clock: Clock, session: () => number) {
    this.#clock = clock;
    this.#session = session;
  }

  /** Something is being staged on top of this version. A file without names dies with its last handle. */
  staging(file: StagedFile, node: Node): void {
    if (!this.#bases.has(file) && node.inode.nlink > 0) this.#set(file, node);
  }

  /** Its last name was removed here: nobody else has done it. */
  unlinked(file: StagedFile): void {
    this.#bases.delete(file);
  }

  /** What was staged is committed, or a part of it; undefined: as a version that is not known. */
  committed(file: StagedFile, node: Node | undefined): void {
    if (node === undefined) this.#bases.delete(file);
    else this.#set(file, node);
  }

  #set(file: StagedFile, node: Node): void {
    if (file.selfKept) return;
    const [monotonicMs, wallMs] = [this.#clock.monotonicMs(), this.#clock.nowMs()];
    this.#bases.set(file, { node, session: this.#session(), monotonicMs, wallMs });
  }

  /** Whether this node was away since the file was staged. */
  was(file: StagedFile): boolean {
    return this.#baseBefore(file) !== undefined;
  }

  /** Whether the flush would write over what others committed while this node was away; null, or without names: they have removed the file. */
  writesOver(file: StagedFile, flush: Flush, now: Node | null): boolean {
    const base = this.#baseBefore(file);
    if (base === undefined) return false;
    if (now === null || now.inode.nlink === 0) return !flush.overlay.empty;
    if (contentMark(base.node) === contentMark(now)) return false;
    const [before, after] = [contentOf(base.node), contentOf(now)];
    // Cut here, and changed there.
    if (flush.sizeSet) return true;
    // What was appended goes behind the end.
    const written = flush.overlay.within(0, flush.append?.from ?? Infinity);
    if (before === null || after === null) return written.length > 0;
    return written.some(({ start, end }) => !isUntouched(before, after, start, end));
  }

  #baseBefore(file: StagedFile): Base | undefined {
    const base = this.#bases.get(file);
    return base === undefined || base.session === this.#session() || this.#ageMs(base) < AWAY_MIN_MS ? undefined : base;
  }

  /** A machine that sleeps stops the one clock, an administrator sets the other. */
  #ageMs({ monotonicMs, wallMs }: Base): number {
    return Math.max(this.#clock.monotonicMs() - monotonicMs, Math.abs(this.#clock.nowMs() - wallMs));
  }
}

/** Null: it is in records of their own. */
function contentOf({ inode: { flags, size, extents } }: Node): FileContent | null {
  return (flags & (INODE_INLINE | INODE_PAGED)) === 0 ? { size, extents, inline: null } : null;
}

function isUntouched(before: FileContent, after: FileContent, start: number, end: number): boolean {
  const shorter = Math.min(before.size, after.size);
  if (before.size !== after.size && end > shorter) return false;
  return start >= shorter || sameBytes(before, after, start, Math.min(end, shorter));
}
