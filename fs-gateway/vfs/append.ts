/**
 * Where appended bytes go. A file that was appended to on two mounts has both: what this mount appended is staged behind the end of the
 * file as it was known here, and committed behind the end as it is then.
 *
 * Invariants: bytes below `append.from` stay where they were written; those from there on move together, so a record is never torn.
 * A live file (data/live-file.ts) has put them behind what is committed by itself, and commits only onto that.
 * Limits: a file that was cut to a size here in the same flush is placed as staged, and so is one that another mount cut.
 */
import { Overlay } from '../data/overlay.ts';
import { flushId } from '../data/staged-file.ts';
import type { Flush, StagedFile } from '../data/staged-file.ts';
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

/** A flush may be made again, but not one that appends, nor one that a node makes after a power cut, when others have seen it long since; one of a live file must be known for its own. */
export function operationOf({ ino }: StagedFile, flush: Flush): string | undefined {
  const id = flushId(flush);
  return id === undefined ? undefined : flushOperation(ino, id);
}

/** The offset in the staging area of what goes to `offset` of the file. */
function stagedOffset({ append, shift }: PlacedFlush, offset: number): number {
  return append !== undefined && offset >= append.from + shift ? offset - shift : offset;
}

/** Lays what is flushed of [from, from + target.length) over `target`. */
export async function layOver(file: StagedFile, flush: PlacedFlush, from: number, target: Buffer): Promise<void> {
  for (const { start, end, kind } of flush.overlay.within(from, from + target.length)) {
    const part = target.subarray(start - from, end - from);
    if (kind === 'hole') part.fill(0);
    else await file.loadFlushing(stagedOffset(flush, start), part);
  }
}
