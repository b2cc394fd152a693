/**
 * Upon which version of its inode the changes of a file were staged, and when: what tells, after an absence, whether others have changed the same bytes
 * since (vfs/away.ts). It is in the journal before the first change is, so that the next worker knows it as well, also after a power cut.
 */
import type { Version } from '../../lib/meta/engine.ts';
import type { JournalNotes } from './appends.ts';
import { FrameKind } from './journal-frames.ts';
import type { Frame } from './journal-frames.ts';
import type { StagedFile } from './staged-file.ts';

export interface StagedBase {
  /** Of the metadata engine. */
  readonly session: number;
  /** -Infinity: before the machine was started. */
  readonly wallMs: number;
  /** Undefined: in an earlier process. */
  readonly monotonicMs: number | undefined;
  readonly version: Version;
  /** As `encodeInode` has it; empty: not known. */
  readonly inode: Buffer;
}

export const UNKNOWN_BASE: StagedBase = {
  session: 0,
  wallMs: -Infinity,
  monotonicMs: undefined,
  version: '?' as Version, // of no record, and not empty: in the journal that is none
  inode: Buffer.alloc(0),
};

/** Of a journal. */
export interface Origin {
  readonly sameBoot: boolean;
  /** Nothing of it is damaged, and it is no copy of another one: whoever wrote it may have committed since what it says. */
  readonly isWhole: boolean;
}

export class Bases {
  readonly #notes: Pick<JournalNotes, 'append' | 'owe'>;
  /** Of files that were live when the worker before this one ended, and are not there: not yet, or lost, and not closed (vfs/removed-files.ts). */
  readonly #recovered: Map<number, StagedBase>;

  constructor(recovered: Map<number, StagedBase>, notes: Pick<JournalNotes, 'append' | 'owe'>) {
    this.#recovered = recovered;
    this.#notes = notes;
  }

  /** Once for each live file. `sameBoot`: of the file; what an earlier one had is of long ago, also where its journal did not reach the disk. */
  takeUp(file: StagedFile, sameBoot: boolean): void {
    file.base = this.#recovered.get(file.ino) ?? (sameBoot ? undefined : UNKNOWN_BASE);
    this.#recovered.delete(file.ino);
  }

  /** Of files that are not there. */
  get unclaimed(): Iterable<number> {
    return this.#recovered.keys();
  }

  /** It is not live, or lost and closed. */
  forget(ino: number): void {
    if (this.#recovered.delete(ino)) this.#notes.owe(baseFrame(ino, undefined));
  }

  /** What the journal has to say of files that are not there. */
  *frames(): Iterable<Frame> {
    for (const [ino, base] of this.#recovered) yield baseFrame(ino, base);
  }

  /** Of what is about to be staged. Throws `full` when the disk is; then it has none. */
  begin(file: StagedFile, base: StagedBase): void {
    this.#notes.append(baseFrame(file.ino, base));
    file.base = base;
  }

  /** Of what is staged. Undefined: nobody needs to look. */
  set(file: StagedFile, base: StagedBase | undefined): void {
    if (file.base === undefined && base === undefined) return;
    file.base = base;
    this.#notes.owe(baseFrame(file.ino, base));
  }
}

export function baseFrame(ino: number, base: StagedBase | undefined): Frame {
  if (base === undefined) return { kind: FrameKind.BASE, ino, timeNs: 0n, offset: 0, length: 0 };
  const version = Buffer.from(base.version, 'latin1');
  return {
    kind: FrameKind.BASE,
    ino,
    // Of an earlier boot: long ago.
    timeNs: BigInt(Math.max(0, Math.floor(base.wallMs))) * 1_000_000n,
    offset: base.session,
    length: version.length,
    bytes: Buffer.concat([version, base.inode]),
  };
}

/** Where the journal is not whole, what it says may be of long ago, whoever goes on with its session. */
export function baseOf(
  { timeNs, offset, length, bytes }: Frame,
  { sameBoot, isWhole }: Origin,
): StagedBase | undefined {
  if (length === 0 || bytes === undefined) return undefined;
  const content = Buffer.from(bytes);
  return {
    session: isWhole ? offset : 0,
    // A clock that is not kept while the machine is off tells nothing.
    wallMs: sameBoot && isWhole && timeNs > 0n ? Number(timeNs / 1_000_000n) : -Infinity,
    monotonicMs: undefined,
    version: content.toString('latin1', 0, length) as Version, // as `baseFrame` wrote it
    inode: content.subarray(length),
  };
}
