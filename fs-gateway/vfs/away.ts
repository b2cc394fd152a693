/**
 * A node that comes back with what its programs wrote before it was away (asleep, cut off, switched off) must not write over what others have
 * committed meanwhile: where that is the same bytes, those of this node are kept aside.
 *
 * Away is who has lost his session since the bytes were staged, when that was more than AWAY_MIN_MS ago: a short outage of the metadata is
 * nobody's absence, and programs wait for its end (VolumeView). A worker or a mount that is started anew has another session, and goes on with
 * that of the one before it if that was heard of just now (`resume`).
 * Invariants: what is staged knows its base before it is (data/staged-base.ts). What was written while a flush was under way is as old as the flush.
 * Limits: what is known of the content before is its extents. Of a small file, which is in the metadata, and of one with pages of extents it is only
 * whether it changed. A live file finds out by itself what was written to it, by page (data/live-file.ts); it may be older than its base says, which is
 * as of the last comparison.
 */
import type { Clock } from '../../lib/clock.ts';
import type { SessionInfo } from '../../lib/meta/engine.ts';
import { decodeInode, encodeInode, INODE_INLINE, INODE_PAGED } from '../../lib/volume/inode.ts';
import type { Bases, StagedBase } from '../data/staged-base.ts';
import type { Flush, StagedFile } from '../data/staged-file.ts';
import { sameBytes } from '../data/whole-record.ts';
import type { FileContent } from '../data/whole-record.ts';
import type { Node } from '../meta/cache.ts';
import { contentMark } from './content-of.ts';

const AWAY_MIN_MS = 60_000;

type Written = Pick<Flush, 'overlay' | 'sizeSet' | 'append'>;

export class Away {
  readonly #clock: Clock;
  readonly #session: () => number;
  readonly #bases: Bases;
  /** The version that the flush under way was compared with last, where this node was away. */
  readonly #met = new WeakMap<StagedFile, Node | null>();

  constructor(clock: Clock, session: () => number, bases: Bases) {
    this.#clock = clock;
    this.#session = session;
    this.#bases = bases;
  }

  /** At the start of a worker, with what earlier ones had staged. `sessions` are theirs and our own, as the engine has them. */
  resume(files: Iterable<StagedFile>, sessions: readonly SessionInfo[]): void {
    // By the engine's clock: the session of this worker has just been opened.
    const nowMs = Math.max(0, ...sessions.map(({ renewedMs }) => renewedMs));
    const recent = sessions.filter(({ renewedMs }) => nowMs - renewedMs < AWAY_MIN_MS);
    const unbroken = new Set(recent.map(({ id }) => id));
    for (const file of files) {
      // Behind another boot a live file may be as of an earlier commit of this node, and others may have seen a later one.
      const isUnsure = file.selfKept && file.base?.wallMs === -Infinity;
      if (file.base !== undefined && !isUnsure && unbroken.has(file.base.session))
        this.#bases.set(file, { ...file.base, ...this.#now() });
    }
  }

  /**
   * Something is about to be staged on top of this version. A file without names dies with its last handle. Throws `full`, but not of a live file, which
   * takes no room in the journal by what is written to it.
   */
  staging(file: StagedFile, node: Node): void {
    if (file.base !== undefined || node.inode.nlink === 0) return;
    if (file.selfKept) this.#set(file, node);
    else this.#bases.begin(file, this.#baseAt(node));
  }

  /** Its last name was removed here: nobody else has done it. */
  unlinked(file: StagedFile): void {
    this.#bases.set(file, undefined);
  }

  /** What was flushed is committed, or a part of it, or kept aside; undefined: the version that there is now is not known. */
  settled(file: StagedFile, now: Node | undefined): void {
    const met = this.#met.get(file);
    this.#met.delete(file);
    // Nothing of it is staged any more. A live file may be written again before it is complete.
    if (!file.selfKept && !file.dirty && file.flushing === undefined) return;
    const { active: overlay, sizeSet, append } = file;
    if (met !== undefined && this.writesOver(file, { overlay, sizeSet, append }, met)) return;
    if (now === undefined || now.inode.nlink === 0) this.#bases.set(file, undefined);
    else this.#set(file, now);
  }

  #set(file: StagedFile, node: Node): void {
    this.#bases.set(file, this.#baseAt(node));
  }

  #baseAt({ version, inode }: Node): StagedBase {
    return { version, inode: encodeInode(inode), ...this.#now() };
  }

  #now(): Pick<StagedBase, 'session' | 'monotonicMs' | 'wallMs'> {
    return { session: this.#session(), monotonicMs: this.#clock.monotonicMs(), wallMs: this.#clock.nowMs() };
  }

  /** Whether this node was away since the file was staged, as far as it has noticed. */
  was(file: StagedFile): boolean {
    return this.#baseBefore(file) !== undefined;
  }

  /** Whether it may have been, and has not noticed yet that its session is over. */
  mayHaveBeen({ base }: StagedFile): boolean {
    return base !== undefined && this.#ageMs(base) >= AWAY_MIN_MS;
  }

  /** Whether this would write over what others committed while this node was away; null, or without names: they have removed the file. */
  writesOver(file: StagedFile, { overlay, sizeSet, append }: Written, now: Node | null): boolean {
    const base = this.#baseBefore(file);
    if (base === undefined || file.selfKept) return false;
    this.#met.set(file, now);
    if (now === null) return !overlay.empty;
    const isKnown = base.inode.length > 0;
    // One that was unlinked here has no base either, and there is nothing of others to write over.
    if (now.inode.nlink === 0) return isKnown && !overlay.empty;
    if (isKnown && !this.#hasChanged(file.ino, base, now)) return false;
    const [before, after] = [this.lastContent(file), contentOf(now)];
    // Cut here, and changed there.
    if (sizeSet) return true;
    // What was appended goes behind the end.
    const written = overlay.within(0, append?.from ?? Infinity);
    if (before === null || after === null) return written.length > 0;
    return written.some(({ start, end }) => !isUntouched(before, after, start, end));
  }

  #hasChanged(ino: number, { version, inode }: StagedBase, now: Node): boolean {
    return contentMark({ ...now, ino, version, inode: decodeInode(inode, ino) }) !== contentMark(now);
  }

  /** What this node committed last, or staged upon, as far as it is known byte by byte. */
  lastContent({ base, ino }: StagedFile): FileContent | null {
    if (base === undefined || base.inode.length === 0) return null;
    return contentOf({ inode: decodeInode(base.inode, ino) });
  }

  #baseBefore(file: StagedFile): StagedBase | undefined {
    return file.base?.session !== this.#session() && this.mayHaveBeen(file) ? file.base : undefined;
  }

  /** A machine that sleeps stops the one clock, an administrator sets the other. */
  #ageMs({ monotonicMs, wallMs }: StagedBase): number {
    const runningMs = monotonicMs === undefined ? 0 : this.#clock.monotonicMs() - monotonicMs;
    return Math.max(runningMs, Math.abs(this.#clock.nowMs() - wallMs));
  }
}

/** Null: it is in records of their own. */
function contentOf({ inode: { flags, size, extents } }: Pick<Node, 'inode'>): FileContent | null {
  return (flags & (INODE_INLINE | INODE_PAGED)) === 0 ? { size, extents, inline: null } : null;
}

function isUntouched(before: FileContent, after: FileContent, start: number, end: number): boolean {
  const shorter = Math.min(before.size, after.size);
  if (before.size !== after.size && end > shorter) return false;
  return start >= shorter || sameBytes(before, after, start, Math.min(end, shorter));
}
