/**
 * File locks of one mount: POSIX and OFD record locks (they differ only in their owner, which the kernel chooses) and flock.
 *
 * Invariants: granted locks of different owners conflict nowhere; waiters are granted in the order they came, as soon as they can be.
 * A wait ends with EINTR when its caller is interrupted, EDEADLK when the owners would wait for each other in a circle.
 */
import { Errno, PosixError } from './operations.ts';
import type { Caller, FileLock, Result } from './operations.ts';

interface Held {
  readonly owner: bigint;
  readonly type: 'read' | 'write';
  readonly start: bigint;
  readonly end: bigint;
  readonly pid: number;
}

interface Waiter {
  readonly owner: bigint;
  readonly lock: FileLock;
  readonly grant: () => void;
}

class LockTable {
  held: readonly Held[] = [];
  readonly waiting: Waiter[] = [];

  conflict(owner: bigint, lock: FileLock): Held | undefined {
    return this.held.find(
      (other) =>
        other.owner !== owner &&
        other.start <= lock.end &&
        other.end >= lock.start &&
        (other.type === 'write' || lock.type === 'write'),
    );
  }

  /** Sets the range for the owner: its own older locks there are replaced or cut. */
  apply(owner: bigint, lock: FileLock): void {
    const held: Held[] = [];
    for (const old of this.held) {
      if (old.owner !== owner || old.end < lock.start || old.start > lock.end) {
        held.push(old);
        continue;
      }
      if (old.start < lock.start) held.push({ ...old, end: lock.start - 1n });
      if (old.end > lock.end) held.push({ ...old, start: lock.end + 1n });
    }
    if (lock.type !== 'unlock') held.push({ owner, type: lock.type, start: lock.start, end: lock.end, pid: lock.pid });
    this.held = held;
    this.wake();
  }

  wake(): void {
    for (const waiter of [...this.waiting]) {
      if (this.conflict(waiter.owner, waiter.lock) !== undefined) continue;
      const at = this.waiting.indexOf(waiter);
      if (at < 0) continue;
      this.waiting.splice(at, 1);
      waiter.grant();
    }
  }

  get idle(): boolean {
    return this.held.length === 0 && this.waiting.length === 0;
  }
}

/** Keeps the granted locks for the next worker of the mount. */
export interface LockKeeper {
  keepLocks(ino: number, text: string | undefined): void;
  readonly keptLocks: ReadonlyMap<number, string>;
}

interface Kept {
  readonly posix: readonly Held[];
  readonly flock: readonly Held[];
}

export class Locks {
  readonly #posix = new Map<number, LockTable>();
  readonly #flock = new Map<number, LockTable>();
  readonly #keeper: LockKeeper;

  constructor(keeper: LockKeeper) {
    this.#keeper = keeper;
    for (const [ino, text] of keeper.keptLocks) {
      const kept = decodeKept(text);
      for (const [tables, held] of [
        [this.#posix, kept.posix],
        [this.#flock, kept.flock],
      ] as const) {
        if (held.length === 0) continue;
        const table = new LockTable();
        table.held = held;
        tables.set(ino, table);
      }
    }
  }

  test(ino: number, owner: bigint, lock: FileLock): FileLock {
    const conflict = this.#posix.get(ino)?.conflict(owner, lock);
    if (conflict === undefined) return { ...lock, type: 'unlock' };
    return { type: conflict.type, start: conflict.start, end: conflict.end, pid: conflict.pid };
  }

  set(
    caller: Caller,
    ino: number,
    owner: bigint,
    lock: FileLock,
    options: { readonly wait: boolean; readonly flock: boolean },
  ): Result<void> {
    const tables = options.flock ? this.#flock : this.#posix;
    let table = tables.get(ino);
    if (table === undefined) {
      if (lock.type === 'unlock') return;
      tables.set(ino, (table = new LockTable()));
    }
    const conflict = lock.type === 'unlock' ? undefined : table.conflict(owner, lock);
    if (conflict === undefined) {
      table.apply(owner, lock);
      this.#tidy(tables, ino, table);
      return;
    }
    if (!options.wait) throw new PosixError(Errno.EAGAIN, 'the range is locked');
    if (!options.flock && this.#circle(owner, conflict.owner)) throw new PosixError(Errno.EDEADLK, 'a circle of locks');
    // Upgrading a flock gives the old one up first (flock(2)), or two upgraders would wait for ever.
    if (options.flock) table.apply(owner, { ...lock, type: 'unlock' });
    this.#tidy(tables, ino, table);
    return this.#wait(caller, tables, ino, table, owner, lock);
  }

  async #wait(
    caller: Caller,
    tables: Map<number, LockTable>,
    ino: number,
    table: LockTable,
    owner: bigint,
    lock: FileLock,
  ): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    const waiter: Waiter = {
      owner,
      lock,
      grant: () => {
        table.apply(owner, lock);
        resolve(undefined);
      },
    };
    const interrupt = (): void => {
      const at = table.waiting.indexOf(waiter);
      if (at < 0) return;
      table.waiting.splice(at, 1);
      reject(new PosixError(Errno.EINTR, 'interrupted while waiting for a lock'));
    };
    table.waiting.push(waiter);
    const { signal } = caller;
    signal.addEventListener('abort', interrupt, { once: true });
    if (signal.aborted) interrupt();
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', interrupt);
      this.#tidy(tables, ino, table);
    }
  }

  /** Whether `holder` waits, over any number of others, for `owner`. */
  #circle(owner: bigint, holder: bigint): boolean {
    const seen = new Set<bigint>();
    const open = [holder];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (next === owner) return true;
      if (seen.has(next)) continue;
      seen.add(next);
      for (const table of this.#posix.values()) {
        for (const waiter of table.waiting) {
          if (waiter.owner !== next) continue;
          const blocks = table.conflict(waiter.owner, waiter.lock);
          if (blocks !== undefined) open.push(blocks.owner);
        }
      }
    }
    return false;
  }

  /** At close(2): all POSIX locks of the owner on the file fall. */
  releasePosix(ino: number, owner: bigint): void {
    this.#release(this.#posix, ino, owner);
  }

  releaseFlock(ino: number, owner: bigint): void {
    this.#release(this.#flock, ino, owner);
  }

  #release(tables: Map<number, LockTable>, ino: number, owner: bigint): void {
    const table = tables.get(ino);
    if (table === undefined) return;
    table.held = table.held.filter((held) => held.owner !== owner);
    table.wake();
    this.#tidy(tables, ino, table);
  }

  /** After every change of what is held. */
  #tidy(tables: Map<number, LockTable>, ino: number, table: LockTable): void {
    if (table.idle && tables.get(ino) === table) tables.delete(ino);
    const kept: Kept = { posix: this.#posix.get(ino)?.held ?? [], flock: this.#flock.get(ino)?.held ?? [] };
    const nothing = kept.posix.length === 0 && kept.flock.length === 0;
    this.#keeper.keepLocks(ino, nothing ? undefined : encodeKept(kept));
  }
}

function encodeKept(kept: Kept): string {
  return JSON.stringify(kept, (_key, value: unknown) => (typeof value === 'bigint' ? `${value}n` : value));
}

function decodeKept(text: string): Kept {
  const revive = (_key: string, value: unknown): unknown =>
    typeof value === 'string' && value.endsWith('n') ? BigInt(value.slice(0, -1)) : value;
  return JSON.parse(text, revive) as Kept; // written by encodeKept and checksummed by the journal
}
