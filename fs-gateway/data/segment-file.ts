/**
 * One segment of a staged file (segments.ts): its name, the generation by which the journal knows it, and what is said of one that is not as it was written.
 *
 *   <inode>.<index>.<generation>   no two that a mount begins have one generation
 *   <inode>.<index>                of an earlier version: generation 0
 *   <inode>                        of a version before that: one for all of a file
 *   free.<number>                  serves nobody
 *   *.new                          unfinished
 */
import { readdirSync } from 'node:fs';
import type { Stats } from 'node:fs';
import { PenstockError, systemCode } from '../../lib/errors.ts';
import { isSameFile } from './journal.ts';
import type { Sum, SegmentSums } from './segment-sums.ts';

export const SEGMENT_BYTES = 16 * 2 ** 20;

export interface Segment {
  readonly index: number;
  readonly generation: number;
  readonly path: string;
  /** Written since it was synced last: how often. */
  unsynced: number;
  /** Of what this worker has written to it. */
  readonly sums?: SegmentSums;
  /** As it was opened first: the one that is at its path later may be of another disk. */
  file?: Stats;
}

/** Of each inode the segments that were begun last, by index, and as what generation. */
export type Generations = Map<number, Map<number, number>>;

/** Which bytes of its file it has. */
export function segmentSpan(index: number): readonly [from: number, to: number] {
  return [index * SEGMENT_BYTES, (index + 1) * SEGMENT_BYTES];
}

export function segmentName(ino: number, index: number, generation: number): string {
  return generation === 0 ? `${ino}.${index}` : `${ino}.${index}.${generation}`;
}

export interface FoundSegment {
  readonly name: string;
  /** Undefined: nobody's. */
  readonly ino: number | undefined;
  /** Undefined: the only one of its file. */
  readonly index: number | undefined;
  readonly generation: number;
}

export function findSegments(dir: string): FoundSegment[] {
  return readdirSync(dir).flatMap((name) => {
    const match = /^(\d+|free)(?:\.(\d+)(?:\.(\d+))?(\.new)?)?$/.exec(name);
    if (match === null) return [];
    const [, ino, index, generation = '0', unfinished] = match;
    const isNobodys = ino === 'free' || unfinished !== undefined;
    return {
      name,
      ino: isNobodys ? undefined : Number(ino),
      index: index === undefined ? undefined : Number(index),
      generation: Number(generation),
    };
  });
}

/** A segment that is known has bytes, of which the journal says that they are there. */
export function asLost(error: unknown, ino: number, path: string): unknown {
  return systemCode(error) === 'ENOENT'
    ? lost(ino, `somebody has removed ${path} from the cache directory`, error)
    : error;
}

export function expectSame(ino: number, segment: Segment, opened: Stats): void {
  segment.file ??= opened;
  if (isSameFile(segment.file, opened)) return;
  throw lost(ino, `${segment.path} is another file than it was: a disk was mounted or unmounted under the mount`);
}

function lost(ino: number, why: string, cause?: unknown): PenstockError {
  return new PenstockError(
    'io',
    `what was staged of inode ${ino} is lost: ${why}. Remove the file that has this inode, and write it anew`,
    { cause },
  );
}

/** The disk gives other bytes of the file back, from `start` to `end`, than were staged. */
export class StagedDamageError extends PenstockError {
  readonly start: number;
  readonly end: number;

  constructor(ino: number, start: number, end: number, path: string) {
    super(
      'corrupt',
      `what was staged of inode ${ino} is damaged, bytes ${start} to ${end}: the disk gives other bytes of ${path} than were written. Look after the disk`,
    );
    this.start = start;
    this.end = end;
  }
}

/** Throws StagedDamageError when bytes from `from` on are not what was written. */
export function expectSums(
  ino: number,
  { index, path, sums }: Segment,
  before: readonly Sum[] | undefined,
  from: number,
  bytes: Uint8Array,
): void {
  const off = before === undefined ? undefined : sums?.firstOff(before, from, bytes);
  if (off === undefined) return;
  const [begin] = segmentSpan(index);
  throw new StagedDamageError(ino, begin + off.start, begin + off.end, path);
}

export function endsEarly(ino: number, offset: number): Error {
  return new Error(`what is staged of inode ${ino} ends at ${offset}`);
}
