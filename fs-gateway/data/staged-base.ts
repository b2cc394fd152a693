/**
 * Upon which version of its inode the changes of a file were staged, and when: what tells, after an absence, whether others have changed the same bytes
 * since (vfs/away.ts). It is in the journal before the first change is, so that the next worker knows it as well, also after a power cut.
 */
import type { Version } from '../../lib/meta/engine.ts';
import type { JournalNotes } from './appends.ts';
import { FrameKind } from './journal.ts';
import type { Frame } from './journal.ts';
import type { StagedFile } from './staged-file.ts';

export interface StagedBase {
  /** Of the metadata engine. */
  readonly session: number;
  /** -Infinity: before the machine was started. */
  readonly wallMs: number;
  /** Undefined: in an earlier process. */
  readonly monotonicMs: number | undefined;
  readonly version: Version;
  /** As `encodeInode` has it. */
  readonly inode: Buffer;
}

export class Bases {
  readonly #notes: Pick<JournalNotes, 'append' | 'owe'>;

  constructor(notes: Pick<JournalNotes, 'append' | 'owe'>) {
    this.#notes = notes;
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

export function baseOf({ timeNs, offset, length, bytes }: Frame, sameBoot: boolean): StagedBase | undefined {
  if (length === 0 || bytes === undefined) return undefined;
  const content = Buffer.from(bytes);
  return {
    session: offset,
    // A clock that is not kept while the machine is off tells nothing.
    wallMs: sameBoot ? Number(timeNs / 1_000_000n) : -Infinity,
    monotonicMs: undefined,
    version: content.toString('latin1', 0, length) as Version, // as `baseFrame` wrote it
    inode: content.subarray(length),
  };
}
