/**
 * What the journal says of appended bytes: where those begin that are not committed, under which id they are committed next, and which
 * request appended last. A commit carries the id, so that the next worker knows how far the file is committed.
 *
 * Invariants: each note is in the journal before what it speaks of is done. A flush has an id of its own, so that what is appended while it is
 * under way is not taken for committed with it.
 * Failure (of a live file, whose bytes are in no frame): an append that was torn by the worker's death is cut off, and one that was being moved
 *   behind those of another node is moved again (`takeUp`).
 */
import { FrameKind, NO_APPEND } from './journal-frames.ts';
import type { Frame } from './journal-frames.ts';
import type { Append, StagedFile } from './staged-file.ts';

/** The last append to an inode, done by the request of this id. */
export interface Wrote {
  readonly request: string;
  /** Where it begins and ends in a live file: done if the file is so long. 0: in any case. */
  readonly start: number;
  readonly end: number;
}

/** Bytes of a live file that go from one offset to another behind it, over the death of the worker. */
export interface Move {
  readonly from: number;
  readonly to: number;
  readonly bytes: Buffer;
}

export interface RecoveredAppends {
  /** To files that were live. */
  readonly appends: Map<number, Append>;
  readonly moves: Map<number, Move>;
  readonly wrote: Map<number, Wrote>;
}

/** How a frame gets into the journal. */
export interface JournalNotes {
  /** Before something is done that programs ask for. */
  append(frame: Frame): void;
  /** Before a flush, also on a full disk. */
  appendReserved(frame: Frame): void;
  /** Of what has happened. */
  owe(frame: Frame): void;
}

export class Appends {
  readonly #notes: JournalNotes;
  readonly #recovered: RecoveredAppends;
  /** The last append to each open inode. */
  readonly #wrote: Map<number, Wrote>;

  constructor(recovered: RecoveredAppends, notes: JournalNotes) {
    this.#recovered = recovered;
    this.#wrote = recovered.wrote;
    this.#notes = notes;
  }

  /** The request was an append that is done: the kernel makes appends to an inode one after the other, so the last one is all that may come again. */
  has(ino: number, request: string): boolean {
    return this.#wrote.get(ino)?.request === request;
  }

  /** The request is about to append so many bytes. */
  begin(file: StagedFile, bytes: number, request: string, nowNs: bigint): void {
    const start = file.size;
    if (file.append === undefined) this.note(file, { from: start, id: nowNs });
    if (file.selfKept) this.#wrote.set(file.ino, this.#noteWrote(file.ino, { request, start, end: start + bytes }));
  }

  done({ ino, selfKept }: StagedFile, request: string): void {
    if (!selfKept) this.#wrote.set(ino, { request, start: 0, end: 0 });
  }

  note(file: StagedFile, append: Append): void {
    this.#notes.append(appendFrame(file.ino, append));
    file.append = append;
  }

  #noteWrote(ino: number, wrote: Wrote): Wrote {
    this.#notes.append(wroteFrame(ino, wrote));
    return wrote;
  }

  /** What is staged, and appended up to `size`, is committed next under this id, and nothing behind it. */
  flushing(file: StagedFile, size: number, id: bigint): void {
    const { append } = file;
    this.#notes.appendReserved(flushFrame(file, size, id));
    if (append !== undefined) file.append = { from: append.from, id, ...(file.selfKept && { to: size }) };
  }

  /** Of a live file: `append` is what it had when the flush began. */
  committed(file: StagedFile, append: Append | undefined, nowNs: bigint): void {
    if (file.append?.id === 0n) {
      file.append = { from: file.append.from, id: nowNs };
      this.#notes.owe(appendFrame(file.ino, file.append));
    } else if (append !== undefined && file.append === undefined) this.#notes.owe(appendFrame(file.ino, NO_APPEND));
  }

  /** Before the bytes of a live file are moved; `note` says that they are. */
  moving({ ino }: StagedFile, { from, to, bytes }: Move): void {
    this.#notes.append({ kind: FrameKind.MOVE, ino, timeNs: 0n, offset: to, length: from, bytes });
  }

  /** Before a live file is cut: its length will not tell what was appended last. */
  cutting(file: StagedFile, size: number): void {
    const { ino, append } = file;
    const wrote = this.#wrote.get(ino);
    if (wrote !== undefined) this.#wrote.set(ino, this.#noteWrote(ino, { ...wrote, start: 0, end: 0 }));
    if (append !== undefined && size < append.from) this.note(file, { ...append, from: size });
  }

  /** Once for each live file: what the worker before this one was doing. `size` is what the file has now, `cutTo` what it is to have first. */
  takeUp(
    ino: number,
    size: number,
  ): { readonly append: Append | undefined; readonly move: Move | undefined; readonly cutTo: number } {
    const { appends, moves } = this.#recovered;
    const [append, move, wrote] = [appends.get(ino), moves.get(ino), this.#wrote.get(ino)];
    appends.delete(ino);
    moves.delete(ino);
    if (wrote === undefined || size >= wrote.end) return { append, move, cutTo: size };
    this.#wrote.delete(ino);
    return { append, move, cutTo: Math.min(size, wrote.start) };
  }

  /** All live files are there: what was noted of others is of no use any more. */
  resumed(): void {
    this.#recovered.appends.clear();
    this.#recovered.moves.clear();
  }

  /** The last handle is closed. */
  closed(ino: number): void {
    this.#wrote.delete(ino);
  }

  /** What of it the journal has to say. */
  *frames(): Iterable<Frame> {
    for (const [ino, wrote] of this.#wrote) yield wroteFrame(ino, wrote);
    for (const [ino, append] of this.#recovered.appends) yield appendFrame(ino, append);
    for (const [ino, { from, to, bytes }] of this.#recovered.moves)
      yield { kind: FrameKind.MOVE, ino, timeNs: 0n, offset: to, length: from, bytes };
  }
}

function wroteFrame(ino: number, { request, start, end }: Wrote): Frame {
  const bytes = Buffer.from(request, 'latin1');
  return { kind: FrameKind.WROTE, ino, timeNs: 0n, offset: end, length: end - start, bytes };
}

export function flushFrame({ ino, selfKept }: StagedFile, size: number, id: bigint): Frame {
  return { kind: FrameKind.FLUSH, ino, timeNs: id, offset: size, length: selfKept ? 1 : 0 };
}

export function appendFrame(ino: number, { from, id }: Append): Frame {
  return { kind: FrameKind.APPEND, ino, timeNs: id, offset: from, length: 0 };
}
