/**
 * File locks over all mounts of the volume: POSIX and OFD record locks (they differ only in their owner, which the kernel chooses) and
 * flock. What is locked is in the records of lock-table.ts; here is how a program gets, waits for and gives back a lock.
 *
 * Invariants
 * - Granted locks of different owners conflict nowhere; waiters are granted in the order they came, as soon as they can be: by the commit
 *   of whoever gives a lock back, who tells them over the feed.
 * - What was written under a lock is committed before the lock is given back, and whoever gets it sees that. When it cannot be committed, giving
 *   back fails (EIO), and the mount keeps the lock until it can.
 * - A wait ends with EINTR when its caller is interrupted, EDEADLK when owners of this mount would wait for each other in a circle (a
 *   circle over two mounts is not found).
 * - A wait outlives an outage of the metadata engine: nobody who has given up waiting keeps a place, or is given the lock.
 * - No lock outlives the open file through which it was set: at its last close the kernel says of no OFD lock that it is over. (POSIX locks fell before, at
 *   each close of their process.) It is given back by the number of the open file: the owner of an OFD lock or a flock is an address, which
 *   the kernel may have given to the next open file by then.
 * - A lock outlives the worker. It falls with the mount: whoever waits takes it when the mount's session is over.
 * Limits: waiters look every LIVENESS_MS whether the holders' mounts live; nothing else is polled. A worker that is killed while such a lock is
 *   kept leaves it to the mount: it falls with it.
 */
import { describeError, PenstockError } from '../../lib/errors.ts';
import { conflictOf, covers, isTicket, setRange } from '../../lib/volume/lock-record.ts';
import type { Lock, LockRecord, Waiting, Wanted } from '../../lib/volume/lock-record.ts';
import type { LockEvents } from '../meta/view.ts';
import type { LockTable } from './lock-table.ts';
import { Errno, PosixError } from './operations.ts';
import type { Caller, FileLock, Result } from './operations.ts';
import { OwnLocks } from './own-locks.ts';

/** The lease of a session: looking more often could find nothing more. */
const LIVENESS_MS = 5000;
/** As long as a failed flush waits for its next attempt. */
const LATE_UNLOCK_MS = 5000;
const LOCK_END = 2n ** 63n - 1n;
/** Of what unlocks, the owner and the range say which locks fall. No open file has the number, but locks of records of before it was in them. */
const NO_HANDLE = 0n;
const NO_SESSION = 0;

interface Waiter {
  readonly ino: number;
  readonly ticket: Waiting;
  /** It has, or is being given, a place in the record. */
  placed: boolean;
  readonly granted: () => void;
  readonly failed: (error: unknown) => void;
}

export interface LocksOptions {
  readonly table: LockTable;
  /** Commits what is staged of a file. */
  flush(ino: number): Result<void>;
  /** The kernel has heard of all changes that we have. */
  settled(): Promise<void> | undefined;
  report(message: string): void;
}

export class Locks implements LockEvents {
  readonly #options: LocksOptions;
  readonly #table: LockTable;
  readonly #waiters = new Map<number, Set<Waiter>>();
  /** Files whose locks are about to be looked at after a time without a session. */
  readonly #unknown = new Set<number>();
  #timer: NodeJS.Timeout | undefined;
  #nextTicket = 1;
  /** Given back by programs, and held until what was written under them is committed. */
  readonly #late = new OwnLocks();

  constructor(options: LocksOptions) {
    this.#options = options;
    this.#table = options.table;
  }

  async test(ino: number, handle: bigint, owner: bigint, lock: FileLock): Promise<FileLock> {
    const wanted = await this.#wanted('posix', handle, owner, lock);
    const conflict = await this.#table.exclusive(ino, () => this.#conflict(ino, wanted));
    if (conflict === undefined) return { ...lock, type: 'unlock' };
    // A process of another node has no number here.
    const pid = conflict.mount === this.#table.mount ? conflict.pid : 0;
    return { type: conflict.type, start: conflict.start, end: conflict.end, pid };
  }

  /** As of now, without what dead mounts held. */
  async #conflict(ino: number, wanted: Wanted): Promise<Lock | undefined> {
    try {
      if (conflictOf((await this.#table.refresh(ino)).held, wanted) === undefined) return undefined;
      await this.#table.expire(ino);
      return conflictOf(this.#table.record(ino).held, wanted);
    } finally {
      this.#table.tidy(ino);
    }
  }

  async #wanted(kind: Lock['kind'], handle: bigint, owner: bigint, lock: FileLock): Promise<Wanted> {
    return { ...lock, kind, handle, owner, mount: this.#table.mount, session: await this.#table.session() };
  }

  set(
    caller: Caller,
    ino: number,
    handle: bigint,
    owner: bigint,
    lock: FileLock,
    options: { readonly wait: boolean; readonly flock: boolean },
  ): Result<void> {
    const kind = options.flock ? 'flock' : 'posix';
    if (lock.type !== 'unlock') return this.#acquire(caller, ino, kind, handle, owner, lock, options.wait);
    return this.#unlockOf(ino, kind, owner, lock);
  }

  /** At close(2): all POSIX locks of the owner on the file fall. Undefined: it had none. */
  release(ino: number, owner: bigint): Promise<void> | undefined {
    return this.#unlockOf(ino, 'posix', owner, { type: 'unlock', start: 0n, end: LOCK_END, pid: 0 });
  }

  #unlockOf(ino: number, kind: Lock['kind'], owner: bigint, lock: FileLock): Promise<void> | undefined {
    const { mount } = this.#table;
    // It asks for no session: who ends while the engine is away has given its locks back none the less.
    const wanted = { ...lock, kind, handle: NO_HANDLE, owner, mount, session: NO_SESSION };
    return this.#table.holds(ino, kind, owner) ? this.#unlock(ino, () => [wanted]) : undefined;
  }

  /** Whether something is locked through an open file. */
  hasLocks(ino: number, handle: bigint): boolean {
    return this.#table.mine(ino).some((lock) => this.#isThrough(lock, handle, undefined));
  }

  #isThrough(lock: Lock, handle: bigint, flockOwner: bigint | undefined): boolean {
    if (lock.mount !== this.#table.mount) return false;
    return lock.handle === NO_HANDLE ? lock.kind === 'flock' && lock.owner === flockOwner : lock.handle === handle;
  }

  /** At the last close of an open file. Undefined: nothing was locked through it. */
  closed(ino: number, handle: bigint, flockOwner: bigint | undefined): Promise<void> | undefined {
    const through = (held: readonly Lock[]): Lock[] => held.filter((lock) => this.#isThrough(lock, handle, flockOwner));
    return through(this.#table.mine(ino)).length === 0 ? undefined : this.#unlock(ino, through);
  }

  /** `which` of what is held, as it is when it is given back: others of the mount lock and unlock during the flush. */
  async #unlock(ino: number, which: (held: readonly Lock[]) => readonly Wanted[]): Promise<void> {
    try {
      await this.#options.flush(ino);
      await this.#giveBack(ino, which);
    } catch (error) {
      // Not committed: the next holder would work on the old content, and what is staged here would be committed over what it made of it.
      // Or the engine is away: nobody asks again for a lock that a program has given back.
      if (this.#late.of(ino).length === 0) this.#unlockLater(ino);
      for (const range of which(this.#table.mine(ino))) this.#late.add(ino, { ...range, type: 'write' });
      throw error;
    }
  }

  async #giveBack(ino: number, which: (held: readonly Lock[]) => readonly Wanted[]): Promise<void> {
    await this.#table.exclusive(ino, async () => {
      let ranges: readonly Wanted[] = [];
      const revalidate = this.#waiters.has(ino);
      await this.#table.giveBack(ino, revalidate, (held) => (ranges = which(held)));
      for (const range of ranges) this.#late.remove(ino, range);
      this.#grantWaiters(ino);
    });
  }

  #unlockLater(ino: number): void {
    setTimeout(() => {
      void (async () => {
        try {
          if (this.#late.of(ino).length === 0) return;
          await this.#options.flush(ino);
          await this.#giveBack(ino, () => this.#late.of(ino));
        } catch (error) {
          this.#options.report(`locks of inode ${ino} are not given back yet: ${describeError(error)}`);
          this.#unlockLater(ino);
        }
      })();
    }, LATE_UNLOCK_MS).unref();
  }

  async #acquire(
    caller: Caller,
    ino: number,
    kind: Lock['kind'],
    handle: bigint,
    owner: bigint,
    lock: FileLock,
    wait: boolean,
  ): Promise<void> {
    // Giving up a write lock for a read lock lets others read.
    if (lock.type === 'read' && this.#table.holds(ino, kind, owner)) await this.#options.flush(ino);
    const wanted = await this.#wanted(kind, handle, owner, lock);
    if (wait) await this.#wait(caller, ino, wanted);
    else if (!(await this.#table.exclusive(ino, () => this.#try(ino, wanted)))) {
      throw new PosixError(Errno.EAGAIN, 'the range is locked');
    }
    await this.#options.settled();
  }

  async #try(ino: number, wanted: Wanted): Promise<boolean> {
    if (conflictOf(this.#table.record(ino).held, wanted) !== undefined) {
      // What is known of another mount's lock may be old.
      if ((await this.#conflict(ino, wanted)) !== undefined) return false;
    }
    const attempt = async (): Promise<boolean> => {
      let granted = false;
      await this.#table.change(ino, true, (record) => {
        granted = conflictOf(record.held, wanted) === undefined;
        return granted ? { ...record, held: setRange(record.held, wanted) } : null;
      });
      this.#table.tidy(ino);
      this.#grantWaiters(ino);
      return granted;
    };
    const got = (await attempt()) || ((await this.#conflict(ino, wanted)) === undefined && (await attempt()));
    if (got) this.#late.remove(ino, wanted);
    return got;
  }

  async #wait(caller: Caller, ino: number, wanted: Wanted): Promise<void> {
    if (wanted.type === 'unlock') return;
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    const ticket = { ...wanted, type: wanted.type, ticket: this.#nextTicket++ };
    const waiter: Waiter = { ino, ticket, placed: false, granted: () => resolve(undefined), failed: reject };
    const { signal } = caller;
    const interrupt = (): void => this.#attend(ino, () => this.#giveUp(waiter));
    this.#enter(waiter);
    this.#attend(ino, () => this.#request(waiter));
    signal.addEventListener('abort', interrupt, { once: true });
    if (signal.aborted) interrupt();
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', interrupt);
      this.#leave(waiter);
    }
  }

  /** Takes the lock or a place among those who wait for it. */
  async #request(waiter: Waiter): Promise<void> {
    const { ino, ticket } = waiter;
    if (this.#waiters.get(ino)?.has(waiter) !== true) return;
    try {
      const edit = ({ held, waiting }: LockRecord): LockRecord => {
        const others = waiting.filter((one) => !isTicket(one, ticket));
        const conflict = conflictOf(held, ticket);
        if (conflict === undefined) return { held: setRange(held, ticket), waiting: others };
        if (ticket.kind === 'posix' && this.#circle(ticket.owner, conflict)) {
          throw new PosixError(Errno.EDEADLK, 'a circle of locks');
        }
        // Upgrading a flock gives the old one up first (flock(2)), or two upgraders would wait for ever.
        const left = ticket.kind === 'flock' ? setRange(held, { ...ticket, type: 'unlock' }) : held;
        waiter.placed = true;
        return { held: left, waiting: [...others, ticket] };
      };
      await this.#table.change(ino, true, edit, () => (ticket.kind === 'flock' ? [ticket] : []));
      this.#grantWaiters(ino);
      if (this.#waiters.get(ino)?.has(waiter) === true) await this.#table.expire(ino);
      this.#grantWaiters(ino);
    } catch (error) {
      // It may have a place by now: the next look finds out.
      if (error instanceof PenstockError && this.#waiters.get(ino)?.has(waiter) === true) throw error;
      this.#leave(waiter);
      waiter.failed(error);
    } finally {
      this.#table.tidy(ino);
    }
  }

  async #giveUp(waiter: Waiter): Promise<void> {
    const { ino, ticket } = waiter;
    if (this.#waiters.get(ino)?.has(waiter) !== true) return;
    try {
      await this.#table.refresh(ino);
      await this.#table.change(ino, this.#waiters.has(ino), ({ held, waiting }) => {
        const others = waiting.filter((one) => !isTicket(one, ticket));
        return others.length < waiting.length ? { held, waiting: others } : null;
      });
    } catch (error) {
      this.#leave(waiter);
      waiter.failed(new PosixError(Errno.EINTR, 'interrupted while waiting for a lock'));
      this.#takeOutLater(ino, ticket);
      throw error;
    }
    this.#leave(waiter);
    // Granted in the meantime: then the program has it, and its signal comes after.
    if (covers(this.#table.record(ino), ticket)) {
      this.#late.remove(ino, ticket);
      waiter.granted();
    } else waiter.failed(new PosixError(Errno.EINTR, 'interrupted while waiting for a lock'));
    this.#grantWaiters(ino);
    this.#table.tidy(ino);
  }

  /** The engine was gone when the wait was given up: its place, or by now its lock, goes when the engine is back. */
  #takeOutLater(ino: number, ticket: Waiting): void {
    setTimeout(() => {
      this.#attend(ino, async () => {
        try {
          await this.#table.refresh(ino);
          const edit = ({ held, waiting }: LockRecord): LockRecord | null => {
            const others = waiting.filter((one) => !isTicket(one, ticket));
            if (others.length < waiting.length) return { held, waiting: others };
            return covers({ held, waiting }, ticket)
              ? { held: setRange(held, { ...ticket, type: 'unlock' }), waiting }
              : null;
          };
          await this.#table.change(ino, false, edit, () => [ticket]);
          this.#table.tidy(ino);
        } catch (error) {
          this.#takeOutLater(ino, ticket);
          throw error;
        }
      });
    }, LIVENESS_MS).unref();
  }

  /** Tells those whose wait is over, as far as is known. Returns those who have lost their place without getting the lock. */
  #grantWaiters(ino: number): Waiter[] {
    const record = this.#table.record(ino);
    const lost: Waiter[] = [];
    for (const waiter of this.#waiters.get(ino) ?? []) {
      if (record.waiting.some((one) => isTicket(one, waiter.ticket))) continue;
      if (!covers(record, waiter.ticket)) lost.push(waiter);
      else {
        this.#leave(waiter);
        this.#late.remove(ino, waiter.ticket);
        waiter.granted();
      }
    }
    return lost;
  }

  locksChanged(ino: number): void {
    if (this.#waiters.has(ino)) this.#attend(ino, () => this.#look(ino, false));
  }

  locksUnknown(): void {
    for (const ino of this.#table.inos) {
      // In an outage it is said again and again, and each attempt waits for the engine: an unlock would wait behind all of them.
      if (this.#unknown.has(ino)) continue;
      this.#unknown.add(ino);
      this.#attend(ino, async () => {
        this.#unknown.delete(ino);
        await this.#table.restore(ino);
        await this.#look(ino, false);
      });
    }
  }

  async #look(ino: number, expire: boolean): Promise<void> {
    if (!this.#waiters.has(ino)) return;
    await this.#table.refresh(ino);
    if (expire) await this.#table.expire(ino);
    for (const waiter of this.#grantWaiters(ino)) await this.#request(waiter);
    this.#table.tidy(ino);
  }

  /** In the background, after what else is done with the file's locks; an engine that is gone is met again by the next look. */
  #attend(ino: number, run: () => Promise<void>): void {
    this.#table.exclusive(ino, run).catch((error: unknown) => {
      this.#options.report(`locks of inode ${ino}: ${describeError(error)}`);
    });
  }

  #enter(waiter: Waiter): void {
    const waiters = this.#waiters.get(waiter.ino);
    if (waiters === undefined) this.#waiters.set(waiter.ino, new Set([waiter]));
    else waiters.add(waiter);
    this.#timer ??= setInterval(() => {
      for (const ino of this.#waiters.keys()) this.#attend(ino, () => this.#look(ino, true));
    }, LIVENESS_MS).unref();
  }

  #leave(waiter: Waiter): void {
    const waiters = this.#waiters.get(waiter.ino);
    waiters?.delete(waiter);
    if (waiters?.size === 0) this.#waiters.delete(waiter.ino);
    if (this.#waiters.size === 0) this.close();
  }

  /** Whether the holder waits, over any number of others of this mount, for `owner`. */
  #circle(owner: bigint, holder: Lock): boolean {
    const seen = new Set<bigint>();
    const open = [holder];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (next.mount !== this.#table.mount) continue;
      if (next.owner === owner) return true;
      if (seen.has(next.owner)) continue;
      seen.add(next.owner);
      for (const waiters of this.#waiters.values()) {
        for (const { ino, ticket, placed } of waiters) {
          if (!placed || ticket.owner !== next.owner || ticket.kind !== 'posix') continue;
          const blocks = conflictOf(this.#table.record(ino).held, ticket);
          if (blocks !== undefined) open.push(blocks);
        }
      }
    }
    return false;
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}
