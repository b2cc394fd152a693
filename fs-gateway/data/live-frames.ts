/** What the journal has to say when it is rewritten: what recovery.ts would find in the frames that it replaces. */
import { appendFrame, flushFrame } from './appends.ts';
import type { Appends } from './appends.ts';
import { FIRST_AT, frameBytes, FrameKind } from './journal-frames.ts';
import type { Frame } from './journal-frames.ts';
import type { OpenCounts } from './open-counts.ts';
import { baseFrame } from './staged-base.ts';
import type { Bases } from './staged-base.ts';
import { flushId } from './staged-file.ts';
import type { Append, FileChange, StagedFile } from './staged-file.ts';

/**
 * `flushed` hears of each file that is being flushed where in the new journal its flush ends: what is before that is committed with it, whatever the journal
 * before said of that.
 */
export function* liveFrames(
  open: OpenCounts,
  appends: Appends,
  bases: Bases,
  files: Iterable<StagedFile>,
  flushed: (file: StagedFile, mark: number) => void,
): Iterable<Frame> {
  let at = FIRST_AT;
  for (const next of parts(open, appends, bases, files)) {
    if ('selfKept' in next) flushed(next, at);
    else {
      at += frameBytes(next);
      yield next;
    }
  }
}

/** Frames, and a file behind the frames of its flush. */
function* parts(
  open: OpenCounts,
  appends: Appends,
  bases: Bases,
  files: Iterable<StagedFile>,
): Iterable<Frame | StagedFile> {
  for (const [ino, count] of open.all()) {
    yield { kind: FrameKind.OPEN, ino, timeNs: 0n, offset: open.backingOf(ino) ?? 0, length: count };
  }
  for (const request of open.recent) yield countedFrame(request);
  yield* appends.frames();
  yield* bases.frames();
  for (const file of files) {
    if (file.base !== undefined) yield baseFrame(file.ino, file.base);
    if (!file.selfKept) yield* framesOf(file);
    else if (file.append !== undefined) yield* framesOfAppend(file, file.append);
  }
}

/** Of a live file. */
function* framesOfAppend(file: StagedFile, append: Append): Iterable<Frame> {
  yield appendFrame(file.ino, append);
  if (append.to !== undefined) yield flushFrame(file, append.to, append.id);
}

export function idBytes(request: string): Buffer {
  return Buffer.from(request, 'latin1');
}

export function openFrame(ino: number, timeNs: bigint, backingId: number, request: string): Frame {
  return { kind: FrameKind.OPEN, ino, timeNs, offset: backingId, length: 1, bytes: idBytes(request) };
}

/** `length` 0: of an open that is taken back. */
export function closeFrame(ino: number, timeNs: bigint, length: 0 | 1, request: string): Frame {
  return { kind: FrameKind.CLOSE, ino, timeNs, offset: 0, length, bytes: idBytes(request) };
}

/** Before the first byte is in it. */
export function segmentFrame(ino: number, index: number, generation: number): Frame {
  return { kind: FrameKind.SEGMENT, ino, timeNs: 0n, offset: index, length: generation };
}

export function countedFrame(request: string): Frame {
  return { kind: FrameKind.COUNTED, ino: 0, timeNs: 0n, offset: 0, length: 0, bytes: idBytes(request) };
}

/** What is being flushed comes first, and the id under which it may be committed already. */
function* framesOf(file: StagedFile): Iterable<Frame | StagedFile> {
  const { ino, flush } = file;
  // Also one that a full disk took no byte for, and that is still in memory: it is not begun anew when there is room.
  for (const [index, generation] of file.segments) yield segmentFrame(ino, index, generation);
  if (!file.inMemory) yield { kind: FrameKind.SPILL, ino, timeNs: file.ctimeNs, offset: 0, length: 0 };
  if (flush !== undefined) {
    yield* changeFrames(file, flush);
    const id = flushId(flush);
    if (id !== undefined) {
      yield flushFrame(file, flush.size, id);
      if (file.promised) yield* promiseFrames(file, id);
    }
    yield file;
  }
  const { size, sizeSet, mtimeNs, ctimeNs, active: overlay } = file;
  // Said behind the flush once more, it would take back what that has committed.
  const append = file.append === flush?.append ? undefined : file.append;
  const since = { overlay, size, sizeSet, mtimeNs, ctimeNs, append };
  if (flush === undefined || hasChanged(since, flush)) yield* changeFrames(file, since);
  // Else all that was promised is committed, or about to be.
  if (file.promiseId !== undefined || file.promiseAgain) yield* promiseFrames(file, file.promiseId ?? 0n);
}

type Described = Pick<FileChange, 'overlay' | 'size' | 'sizeSet' | 'mtimeNs' | 'ctimeNs' | 'append'>;

function hasChanged({ overlay, size, sizeSet, mtimeNs }: Described, flush: Described): boolean {
  return !overlay.empty || sizeSet || size !== flush.size || mtimeNs !== flush.mtimeNs;
}

function* changeFrames(
  file: StagedFile,
  { overlay, size, sizeSet, mtimeNs, ctimeNs: timeNs, append }: Described,
): Iterable<Frame> {
  const { ino } = file;
  for (const { start, end, kind } of overlay.ranges) {
    const frame = { ino, timeNs, offset: start, length: end - start };
    if (kind === 'hole') yield { ...frame, kind: FrameKind.HOLE };
    else if (!file.inMemory) yield { ...frame, kind: FrameKind.RANGE };
    else {
      const bytes = Buffer.alloc(end - start);
      file.load(start, bytes, 0, bytes.length);
      yield { ...frame, kind: FrameKind.DATA, bytes };
    }
  }
  if (append !== undefined) yield appendFrame(ino, append);
  yield { kind: FrameKind.SIZE, ino, timeNs, offset: sizeSet ? 1 : 0, length: size };
  if (mtimeNs === null) yield { kind: FrameKind.KEEP, ino, timeNs, offset: 0, length: 0 };
}

function* promiseFrames(file: StagedFile, id: bigint): Iterable<Frame> {
  file.syncSegmentsNow();
  yield { kind: FrameKind.SYNC, ino: file.ino, timeNs: id, offset: 0, length: 0 };
}
