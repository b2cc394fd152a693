/** What the journal has to say when it is rewritten: what recovery.ts would find in the frames that it replaces. */
import { appendFrame } from './appends.ts';
import type { Appends } from './appends.ts';
import { FrameKind } from './journal.ts';
import type { Frame } from './journal.ts';
import type { OpenCounts } from './open-counts.ts';
import { Overlay } from './overlay.ts';
import { baseFrame } from './staged-base.ts';
import type { Bases } from './staged-base.ts';
import type { StagedFile } from './staged-file.ts';

export function* liveFrames(
  open: OpenCounts,
  appends: Appends,
  bases: Bases,
  files: Iterable<StagedFile>,
): Iterable<Frame> {
  for (const [ino, count] of open.all()) {
    yield { kind: FrameKind.OPEN, ino, timeNs: 0n, offset: open.backingOf(ino) ?? 0, length: count };
  }
  for (const request of open.recent) yield countedFrame(request);
  yield* appends.frames();
  yield* bases.frames();
  for (const file of files) {
    if (file.base !== undefined) yield baseFrame(file.ino, file.base);
    if (!file.selfKept) yield* framesOf(file);
    else if (file.append !== undefined) yield appendFrame(file.ino, file.append);
  }
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

export function countedFrame(request: string): Frame {
  return { kind: FrameKind.COUNTED, ino: 0, timeNs: 0n, offset: 0, length: 0, bytes: idBytes(request) };
}

function* framesOf(file: StagedFile): Iterable<Frame> {
  const { ino, ctimeNs: timeNs } = file;
  const all = new Overlay();
  if (file.flushing !== undefined) all.add(file.flushing);
  all.add(file.active);
  if (!file.inMemory) yield { kind: FrameKind.SPILL, ino, timeNs, offset: 0, length: 0 };
  for (const { start, end, kind } of all.ranges) {
    const frame = { ino, timeNs, offset: start, length: end - start };
    if (kind === 'hole') yield { ...frame, kind: FrameKind.HOLE };
    else if (!file.inMemory) yield { ...frame, kind: FrameKind.RANGE };
    else {
      const bytes = Buffer.alloc(end - start);
      file.load(start, bytes, 0, bytes.length);
      yield { ...frame, kind: FrameKind.DATA, bytes };
    }
  }
  if (file.append !== undefined) yield appendFrame(ino, file.append);
  yield { kind: FrameKind.SIZE, ino, timeNs, offset: file.sizeSet ? 1 : 0, length: file.size };
  if (file.mtimeNs === null) yield { kind: FrameKind.KEEP, ino, timeNs, offset: 0, length: 0 };
  // Else all that was promised is committed.
  if (file.promiseId === undefined && !file.promiseAgain) return;
  file.syncSegmentsNow();
  yield { kind: FrameKind.SYNC, ino, timeNs: file.promiseId ?? 0n, offset: 0, length: 0 };
}
