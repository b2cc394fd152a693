/**
 * Where appended bytes go. A file that was appended to on two mounts has both: what this mount appended is staged behind the end of the
 * file as it was known here, and committed behind the end as it is then.
 *
 * Invariants: bytes below `append.from` stay where they were written; those from there on move together, so a record is never torn.
 * A live file (data/live-file.ts) has put them behind what is committed by itself, and commits only onto that.
 * Limits: a file that was cut to a size here in the same flush is placed as staged, and so is one that another mount cut.
 */
import { Overlay } from '../data/overlay.ts';
import type { Flush } from '../data/staged-file.ts';
import { FLUSH_OPERATION } from '../meta/repeats.ts';

export interface PlacedFlush extends Flush {
  /** By how much what was appended moved. */
  readonly shift: number;
}

export function placeFlush(flush: Flush, committedSize: number): PlacedFlush {
  const { append, overlay, sizeSet, size, whole } = flush;
  const shift = append === undefined || sizeSet || whole ? 0 : Math.max(0, committedSize - append.from);
  if (append === undefined || shift === 0) return { ...flush, shift: 0 };
  const moved = new Overlay();
  for (const { start, end, kind } of overlay.within(0, append.from)) moved.set(start, end, kind);
  for (const { start, end, kind } of overlay.within(append.from, size)) moved.set(start + shift, end + shift, kind);
  return { ...flush, overlay: moved, size: size + shift, shift };
}

/** Under which a commit of bytes that were appended, or may be promised, is noted (meta/repeats.ts). */
export function flushOperation(ino: number, id: bigint): string {
  return `${FLUSH_OPERATION} ${ino} ${id}`;
}

/** The offset in the staging area of what goes to `offset` of the file. */
export function stagedOffset({ append, shift }: PlacedFlush, offset: number): number {
  return append !== undefined && offset >= append.from + shift ? offset - shift : offset;
}
