/**
 * The lock records of the volume as this mount sees and changes them (lib/volume/lock-record.ts says what is in one).
 *
 * Invariants
 * - Every change compares the record that it was planned on; what is known here of a record only saves the read before.
 * - A change that grants a lock to this mount compares the inode too: whoever holds a lock sees what was committed under the one before.
 * - What a mount held is taken only when its session had ended or run out, and the record still names that session: a worker that comes
 *   back first confirms its locks under its own session, and then the compare of the taker fails.
 * - What programs of this mount hold is known apart from the records, which say what other mounts have left of it. The first change that finds
 *   something missing takes it again where nobody else has it, and tells its holder.
 * Failure: killed between a commit and its answer, the record has the lock, and the next worker of the mount finds it there (`claim`).
 * Limits: LOCKS_MAX locks of a file (ENOLCK).
 */
import { describeError } from '../../lib/errors.ts';
import type { ScanPage, Stored, Version } from '../../lib/meta/engine.ts';
import {
  conflictOf,
  covers,
  decodeLocks,
  encodeLocks,
  isTicket,
  LOCKS_MAX,
  missingOf,
  NO_LOCKS,
  promote,
  setRange,
  withoutMounts,
} from '../../lib/volume/lock-record.ts';
import type { Lock, LockRecord, Wanted } from '../../lib/volume/lock-record.ts';
import type { Change } from '../meta/change.ts';
import type { VolumeView } from '../meta/view.ts';
import { Errno, PosixError } from './operations.ts';
import { OwnLocks } from './own-locks.ts';

const SCAN_PORTION = 400;

interface Known {
  readonly record: LockRecord;
  readonly version: Version | null;
}

const NOTHING: Known = { record: NO_LOCKS, version: null };

export interface LockTableOptions {
  readonly view: VolumeView;
  /** One life of the mount, the same for each of its workers. */
  readonly mount: string;
  /** Another mount took it, and may have given it back. */
  lost(lock: Lock, message: string): void;
  report(message: string): void;
}

export class LockTable {
  readonly mount: string;
  readonly #view: VolumeView;
  readonly #options: LockTableOptions;
  /** Of the files where this mount holds a lock or waits for one. */
  readonly #known = new Map<number, Known>();
  readonly #programs = new OwnLocks();
  readonly #queues = new Map<number, Promise<unknown>>();

  constructor(options: LockTableOptions) {
    this.mount = options.mount;
    this.#view = options.view;
    this.#options = options;
  }

  get inos(): readonly number[] {
    return [...new Set([...this.#known.keys(), ...this.#programs.inos])];
  }

  record(ino: number): LockRecord {
    return (this.#known.get(ino) ?? NOTHING).record;
  }

  /** What this mount holds by the record, and what its programs hold as far as they know. */
  mine(ino: number): readonly Lock[] {
    return [...this.record(ino).held.filter((lock) => this.#isMine(lock)), ...this.#programs.of(ino)];
  }

  holds(ino: number, kind: Lock['kind'], owner: bigint): boolean {
    return this.mine(ino).some((lock) => lock.kind === kind && lock.owner === owner);
  }

  #isMine(lock: Lock): boolean {
    return lock.mount === this.mount;
  }

  /** One after the other per file: the mount's own changes never meet each other in a compare. */
  async exclusive<T>(ino: number, run: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(ino);
    const running = before === undefined ? run() : before.then(run, run);
    this.#queues.set(ino, running);
    try {
      return await running;
    } finally {
      if (this.#queues.get(ino) === running) this.#queues.delete(ino);
    }
  }

  /**
   * Changes the record; `edit` is called again with the fresh one after a failed compare, and returns null when there is nothing to
   * change. `revalidate`: the kernel and the cache know the inode as it is when the change is committed. `givingBack`: what is not
   * lost when it is missing behind an attempt of which no answer has come. Call within `exclusive`.
   */
  async change(
    ino: number,
    revalidate: boolean,
    edit: (record: LockRecord) => LockRecord | null,
    givingBack: () => readonly Wanted[] = () => [],
  ): Promise<void> {
    const view = this.#view;
    // What is not cached here may have changed since the kernel last heard of it: before a worker was killed, for one.
    const node: { seen?: Version; stale: boolean } = { stale: revalidate && view.cachedNode(ino) === undefined };
    await view.change(undefined, async (change) => {
      const known = this.#known.get(ino) ?? NOTHING;
      const programs = this.#programs.of(ino);
      const expected = change.mayBeApplied ? without(programs, givingBack()) : programs;
      const { held, lost } = this.#retake(known.record.held, expected);
      const edited = edit({ held, waiting: known.record.waiting });
      if (edited === null) return;
      if (edited.held.length > LOCKS_MAX || edited.waiting.length > LOCKS_MAX) {
        throw new PosixError(Errno.ENOLCK, `inode ${ino} has ${LOCKS_MAX} locks`);
      }
      if (revalidate) {
        const now = await view.node(ino);
        if (now !== null) {
          if (node.seen !== undefined && node.seen !== now.version) node.stale = true;
          node.seen = now.version;
          change.expectNode(now);
        }
      }
      this.#put(change, ino, known, edited, lost);
    });
    if (node.stale) view.announceStale(ino);
  }

  /** Gives back what `which` finds among this mount's locks. They are no program's any more also when that fails. */
  async giveBack(ino: number, revalidate: boolean, which: (mine: readonly Lock[]) => readonly Wanted[]): Promise<void> {
    let ranges: readonly Wanted[] = [];
    const edit = ({ held, waiting }: LockRecord): LockRecord | null => {
      ranges = which([...held, ...this.#programs.of(ino)]);
      return ranges.length === 0 ? null : { held: without(held, ranges), waiting };
    };
    try {
      await this.change(ino, revalidate, edit, () => ranges);
    } catch (error) {
      for (const range of ranges) this.#programs.remove(ino, range);
      throw error;
    }
  }

  /** What programs hold and the record has not was taken by another mount. It may have given it back. */
  #retake(held: readonly Lock[], expected: readonly Lock[]): { readonly held: readonly Lock[]; readonly lost: Lock[] } {
    let now = held;
    const lost: Lock[] = [];
    const present = new Set(held);
    for (const lock of expected) {
      if (present.has(lock)) continue;
      const missing = missingOf(lock, held);
      if (missing.length > 0) lost.push(lock);
      for (const part of missing) {
        if (conflictOf(now, part) === undefined) now = setRange(now, { ...part, session: this.#view.session });
      }
    }
    return { held: now, lost };
  }

  #put(change: Change, ino: number, known: Known, edited: LockRecord, lost: readonly Lock[]): void {
    const { record, granted } = promote(edited);
    const value = encodeLocks(record);
    change.replaceRecord(
      this.#view.keys.lock(ino),
      known.version,
      value,
      (current) => this.#learn(ino, current),
      (version) => {
        this.#keep(ino, { record, version: value === null ? null : version });
        this.#programs.replace(
          ino,
          record.held.filter((lock) => this.#isMine(lock)),
        );
        for (const lock of lost) this.#tellLost(ino, lock);
      },
    );
    if (granted.some((lock) => !this.#isMine(lock))) change.announce({ kind: 'lock', ino });
  }

  #tellLost(ino: number, lock: Lock): void {
    const message = `a lock on inode ${ino} was lost: another mount took it while this one had no session`;
    this.#options.report(`${message}; what was written under it may be mixed with what the other wrote`);
    this.#options.lost(lock, message);
  }

  #learn(ino: number, stored: Stored | null): void {
    const before = this.record(ino).waiting;
    const known = stored === null ? NOTHING : { record: decodeLocks(stored.value, ino), version: stored.version };
    this.#known.set(ino, known);
    // Who gave a lock back has granted it to those who waited here.
    for (const ticket of before) {
      if (!this.#isMine(ticket) || known.record.waiting.some((one) => isTicket(one, ticket))) continue;
      if (covers(known.record, ticket)) this.#programs.add(ino, ticket);
    }
  }

  #keep(ino: number, known: Known): void {
    const { held, waiting } = known.record;
    if ([...held, ...waiting].some((lock) => this.#isMine(lock))) this.#known.set(ino, known);
    else this.#known.delete(ino);
  }

  /** Forgets what was learned of a file on which this mount has nothing. */
  tidy(ino: number): void {
    this.#keep(ino, this.#known.get(ino) ?? NOTHING);
  }

  /** Reads the record, and finds out whether the inode changed, in one round trip. */
  async refresh(ino: number): Promise<LockRecord> {
    const view = this.#view;
    const [locks, inode] = await view.read([view.keys.lock(ino), view.keys.inode(ino)]);
    const cached = view.cachedNode(ino);
    if (cached?.version !== inode?.version) {
      view.forgetNode(ino);
      view.announceStale(ino);
    }
    this.#learn(ino, locks ?? null);
    return this.record(ino);
  }

  /** Takes away what mounts hold whose sessions are over. Call within `exclusive`, with the record just read or committed. */
  async expire(ino: number): Promise<void> {
    const { held, waiting } = this.record(ino);
    const others = [...held, ...waiting].filter((lock) => !this.#isMine(lock));
    if (others.length === 0) return;
    const live = (await this.#view.sessions()).filter((session) => session.live);
    const sessions = new Set(live.map((session) => session.id));
    const mounts = new Set(live.map((session) => session.detail['lockOwner']));
    // Only the sessions seen before: one that is not listed may be newer than the list.
    const over = new Set(
      others.filter((lock) => !sessions.has(lock.session) && !mounts.has(lock.mount)).map(sessionOf),
    );
    if (over.size === 0) return;
    const gone = (lock: Lock): boolean => over.has(sessionOf(lock));
    await this.change(ino, true, (record) =>
      [...record.held, ...record.waiting].some(gone) ? withoutMounts(record, gone) : null,
    );
    this.#options.report(`locks on inode ${ino} fell with the session of the mount that held them`);
  }

  /** Takes over what an earlier worker of this mount held; its waits come again from the kernel. */
  async claim(): Promise<void> {
    const inos: number[] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: ScanPage = await this.#view.scanRecords(this.#view.keys.locks, cursor, SCAN_PORTION);
      for (const [field, stored] of page.entries) {
        if (this.#concerns(Number(field), stored)) inos.push(Number(field));
      }
      cursor = page.cursor;
    }
    for (const ino of new Set(inos)) {
      await this.refresh(ino);
      await this.#confirm(ino, (record) => ({
        held: record.held,
        waiting: record.waiting.filter((lock) => !this.#isMine(lock)),
      }));
    }
  }

  /** A record that cannot be read is no reason to serve none of the other files. */
  #concerns(ino: number, stored: Stored): boolean {
    try {
      const { held, waiting } = decodeLocks(stored.value, ino);
      return [...held, ...waiting].some((lock) => this.#isMine(lock));
    } catch (error) {
      this.#options.report(`locks on inode ${ino} are EIO: ${describeError(error)}`);
      return false;
    }
  }

  /** After a time without a session. Call within `exclusive`. */
  async restore(ino: number): Promise<void> {
    await this.refresh(ino);
    await this.#confirm(ino, (record) => record);
    this.tidy(ino);
  }

  /** Puts this mount's locks under the session that it has now. */
  async #confirm(ino: number, edit: (record: LockRecord) => LockRecord): Promise<void> {
    const session = await this.session();
    const mark = <T extends Lock>(lock: T): T => (this.#isMine(lock) ? { ...lock, session } : lock);
    await this.change(ino, true, (record) => {
      const { held, waiting } = edit(record);
      return { held: held.map(mark), waiting: waiting.map(mark) };
    });
  }

  async session(): Promise<number> {
    return (await this.#view.engine()).sessionId;
  }
}

function without(held: readonly Lock[], ranges: readonly Wanted[]): readonly Lock[] {
  return ranges.reduce((left, range) => setRange(left, { ...range, type: 'unlock' }), held);
}

function sessionOf(lock: Lock): string {
  return `${lock.mount}/${lock.session}`;
}
