/**
 * What the journal of an earlier worker says (journal.ts): which files have changes that are not committed, and which inodes are open.
 *
 * Invariants
 * - In the same boot all that was answered is there. After another boot only what was promised (SYNC): the rest is not only of no use, it
 *   may be committed long since and changed by another node, while the frame that says so did not reach the disk. Of what was promised the
 *   metadata say whether it is committed, by the id that the promise has.
 * - What is committed is not staged again, but still says where bytes are and how long the file was. Of appended bytes the store of the
 *   metadata says whether they are, when the worker was killed before the journal did: they must not be appended twice, nor what was
 *   appended behind them be lost.
 */
import { FrameKind, NO_APPEND } from './journal-frames.ts';
import type { Frame, LostFrame, PlacedFrame } from './journal-frames.ts';
import type { Move, RecoveredAppends, Wrote } from './appends.ts';
import { OpenCounts } from './open-counts.ts';
import { baseOf, UNKNOWN_BASE } from './staged-base.ts';
import type { Origin, StagedBase } from './staged-base.ts';
import { segmentSpan } from './segment-file.ts';
import type { Generations } from './segment-file.ts';
import type { Segments } from './segments.ts';
import { StagedFile } from './staged-file.ts';
import type { Append } from './staged-file.ts';

export interface Recovered extends RecoveredAppends {
  /** All of them have changes. */
  readonly files: Map<number, StagedFile>;
  readonly open: OpenCounts;
  /** Before which frame everything of an inode is committed, as the metadata say. The journal may not say so. */
  readonly committed: ReadonlyMap<number, number>;
  /** Of files that may be live. */
  readonly bases: Map<number, StagedBase>;
  /** Of each inode the segments that were begun last, and as what generation. */
  readonly generations: Generations;
}

export function replay(
  frames: readonly PlacedFrame[],
  lost: readonly LostFrame[],
  segments: Segments,
  origin: Origin,
  isCommitted: (ino: number, id: bigint) => boolean,
): Recovered {
  const cleanBefore = new Map<number, number>();
  const committed = new Map<number, number>();
  const syncedBefore = new Map<number, number>();
  for (const { kind, ino, offset, timeNs, at } of frames) {
    if (kind === FrameKind.CLEAN) raise(cleanBefore, ino, offset);
    if (kind === FrameKind.FLUSH && isCommitted(ino, timeNs)) raise(committed, ino, at + 1);
    if (kind !== FrameKind.SYNC) continue;
    // Two who sync at once may note it in another order than that in which they began.
    const before = offset === 0 ? at : offset;
    raise(syncedBefore, ino, before);
    if (isCommitted(ino, timeNs)) raise(committed, ino, before);
  }
  for (const [ino, mark] of committed) raise(cleanBefore, ino, mark);
  const replaying = new Replaying(segments, origin, lost, committed);
  for (const frame of frames) {
    const there = origin.sameBoot || frame.at < (syncedBefore.get(frame.ino) ?? 0);
    replaying.frame(frame, frame.at < (cleanBefore.get(frame.ino) ?? 0), there);
  }
  return replaying.end();
}

function raise(marks: Map<number, number>, ino: number, mark: number): void {
  marks.set(ino, Math.max(marks.get(ino) ?? 0, mark));
}

/** Of a close: an open that the kernel took no answer for is closed by the request that opened. */
export function closeId(request: string): string {
  return request === '' ? '' : `close ${request}`;
}

const WITHOUT_CHANGE = new Set<FrameKind>([
  FrameKind.SPILL,
  FrameKind.APPEND,
  FrameKind.FLUSH,
  FrameKind.KEEP,
  FrameKind.BASE,
]);

/** The id of the request that a frame is of, when that was an append. */
function requestOf({ kind, length, bytes }: Frame): string {
  const isOfRequest = kind === FrameKind.DATA || kind === FrameKind.RANGE || kind === FrameKind.WROTE;
  if (!isOfRequest || bytes === undefined) return '';
  return Buffer.from(kind === FrameKind.DATA ? bytes.subarray(length) : bytes).toString('latin1');
}

class Replaying implements Recovered {
  readonly files = new Map<number, StagedFile>();
  readonly open = new OpenCounts();
  readonly appends = new Map<number, Append>();
  readonly bases = new Map<number, StagedBase>();
  readonly moves = new Map<number, Move>();
  readonly wrote = new Map<number, Wrote>();
  readonly committed: ReadonlyMap<number, number>;
  readonly generations: Generations = new Map();
  readonly #segments: Segments;
  readonly #origin: Origin;
  readonly #lost: readonly LostFrame[];
  /** Not live. */
  readonly #flushed = new Set<number>();
  /** Of each inode, where its last bytes in the journal are, and where its first segment was begun last. */
  readonly #lastData = new Map<number, number>();
  readonly #firstBegun = new Map<number, number>();

  constructor(segments: Segments, origin: Origin, lost: readonly LostFrame[], committed: ReadonlyMap<number, number>) {
    this.committed = committed;
    this.#segments = segments;
    this.#origin = origin;
    this.#lost = lost;
  }

  frame(frame: PlacedFrame, committed: boolean, there: boolean): void {
    const { kind, ino, offset, length, bytes } = frame;
    const request = requestOf(frame);
    if (request !== '') {
      const end = kind === FrameKind.WROTE ? offset : 0;
      this.wrote.set(ino, { request, start: end === 0 ? 0 : end - length, end });
    }
    if (kind === FrameKind.WROTE) return;
    if (kind === FrameKind.SEGMENT) {
      this.#begun(frame);
      return;
    }
    if (kind === FrameKind.BASE) this.#base(frame);
    if (kind === FrameKind.MOVE) this.moves.set(ino, { from: length, to: offset, bytes: Buffer.from(bytes ?? []) });
    if (kind === FrameKind.APPEND || kind === FrameKind.DROP) this.moves.delete(ino);
    if (kind === FrameKind.OPEN || kind === FrameKind.CLOSE || kind === FrameKind.COUNTED) this.#count(frame);
    else if (kind === FrameKind.DROP) {
      this.files.delete(ino);
      this.bases.delete(ino);
      this.#flushed.delete(ino);
    } else if (kind === FrameKind.SYNC) {
      const file = this.files.get(ino);
      if (file !== undefined) file.promised = file.promiseAgain = true;
    } else if (kind !== FrameKind.CLEAN && kind !== FrameKind.MOVE && (there || committed))
      this.#change(frame, committed, there);
  }

  /** Of a live file it counts whether the disk was to have it or not: what it says was so. */
  #base(frame: Frame): void {
    const base = baseOf(frame, this.#origin);
    if (base === undefined) this.bases.delete(frame.ino);
    else this.bases.set(frame.ino, base);
  }

  #count({ kind, ino, offset, length, bytes }: Frame): void {
    const id = Buffer.from(bytes ?? []).toString('latin1');
    if (kind === FrameKind.OPEN) this.open.opened(ino, length, offset);
    if (kind === FrameKind.CLOSE && this.open.closed(ino)) this.wrote.delete(ino);
    if (kind === FrameKind.CLOSE && length === 0) this.open.forget(id);
    else this.open.note(kind === FrameKind.CLOSE ? closeId(id) : id);
  }

  /** What was in the segment before was given back, behind the word for its commit. Where that is lost, it would be taken from what is in it now. */
  #begun({ ino, offset: index, length: generation, at }: PlacedFrame): void {
    const file = this.files.get(ino);
    if (file?.inMemory === false) file.active = file.active.withoutData(...segmentSpan(index));
    const generations = this.generations.get(ino);
    if (generations === undefined) this.generations.set(ino, new Map([[index, generation]]));
    else generations.set(index, generation);
    if (index === 0) this.#firstBegun.set(ino, at);
  }

  #takeSegments(file: StagedFile, { kind, ino }: Frame): void {
    if (!file.inMemory) return;
    // The word for what was in memory is lost. It went to the first segment when that was begun, unless the word for a commit is lost, too.
    const [from, to] = [this.#lastData.get(ino) ?? Infinity, this.#firstBegun.get(ino) ?? 0];
    const mayBeLost = this.#lost.some((lost) => (lost.ino ?? ino) === ino && lost.at > from && lost.at < to);
    if (kind === FrameKind.RANGE && mayBeLost) file.active = file.active.withoutData(0, Infinity);
    file.takeSegments();
  }

  #change(frame: PlacedFrame, committed: boolean, there: boolean): void {
    const { kind, ino, offset, length, timeNs, bytes } = frame;
    let file = this.files.get(ino);
    if (file === undefined) this.files.set(ino, (file = new StagedFile(ino, 0, this.#segments)));
    // A full disk may have had no room for the frame that says SPILL.
    if ((kind === FrameKind.SPILL || kind === FrameKind.RANGE) && there) this.#takeSegments(file, frame);
    if (kind === FrameKind.DATA && bytes !== undefined) {
      // Once in segments, its bytes come into memory again only behind a DROP, which is lost.
      if (!file.inMemory) file.takeMemory();
      file.store(offset, bytes.subarray(0, length));
      this.#lastData.set(ino, frame.at);
    }
    // Behind what is committed: what is staged from here on.
    if (kind === FrameKind.FLUSH && committed && file.append !== undefined) file.append = { from: offset, id: timeNs };
    if (kind === FrameKind.FLUSH && length === 0) this.#flushed.add(ino);
    if (kind === FrameKind.APPEND) file.append = timeNs === NO_APPEND.id ? undefined : { from: offset, id: timeNs };
    if (kind === FrameKind.KEEP) file.keepMtime();
    if (kind === FrameKind.BASE) file.base = baseOf(frame, this.#origin);
    if (WITHOUT_CHANGE.has(kind)) return;
    if (committed) {
      // What follows was done to a file of this size.
      if (kind === FrameKind.DATA || kind === FrameKind.RANGE) file.size = Math.max(file.size, offset + length);
      else if (kind === FrameKind.SIZE) file.size = offset === 1 ? length : Math.max(file.size, length);
      return;
    }
    if (kind === FrameKind.DATA || kind === FrameKind.RANGE) file.wrote(offset, length);
    else if (kind === FrameKind.HOLE) file.punched(offset, offset + length);
    else if (kind === FrameKind.SIZE) file.setSize(length, offset === 1);
    // The first size that is noted is the committed one: no change.
    if (timeNs !== 0n) file.touched(timeNs);
  }

  end(): Recovered {
    for (const [ino, file] of this.files) {
      if (file.dirty) {
        // The frame that said it may be what was lost.
        if (this.#lost.length > 0) file.base ??= UNKNOWN_BASE;
        this.bases.delete(ino);
        continue;
      }
      if (file.append !== undefined && !this.#flushed.has(ino)) this.appends.set(ino, file.append);
      this.files.delete(ino);
    }
    return this;
  }
}
