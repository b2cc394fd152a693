/**
 * One process per directory: an exclusive lock that the kernel drops when its holder dies, however it dies.
 *
 * The lock is SQLite's exclusive lock on an otherwise empty database (`node:sqlite` is the only way to an fcntl lock from plain
 * Node); a second file beside it, `<path>.holder`, tells the next one who has it. The lock decides, the text only explains.
 *
 * Invariants: at most one holder over all processes and over all threads of one process. The lock file is never deleted: a
 * deleted file would let a second process lock a new file of the same name. Whoever holds it for long looks (`isRemoved`) whether somebody else has.
 * Failure: a killed holder leaves both files; the next one takes the lock at once and overwrites the text. A full disk has no room for the text.
 * Limits: needs a file system with working fcntl locks (every local one; NFS with lockd).
 */
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { PenstockError, fromSystemError, isCode, systemCode } from './errors.ts';
import { isAlive } from './process-identity.ts';

export interface ProcessLock {
  /** Its file is not at its path any more: another process could take it. */
  readonly isRemoved: boolean;
  /** Takes it anew at its path, and lets go of the file that it had. Throws `held` when another process was faster, `denied`, `full` or `io`; then it has what it had. */
  restore(): void;
  /** Gives the lock up; a second call does nothing. */
  release(): void;
}

interface Holder {
  readonly pid: number;
  readonly label: string;
  readonly since: string;
}

const SQLITE_BUSY = 5;
const SQLITE_READONLY = 8;
/** A new holder writes its name right after it took the lock; this is how long a refused process waits for the name. */
const HOLDER_TEXT_WAIT_MS = 500;

/**
 * Takes the lock at `path` (its folder is created). `label` is what a refused process reads, as "agent edge-7"; `of` is the directory that it is
 * for, where that is not the lock's own.
 * Throws `held` with the holder's pid and start time, `denied`, `full` or `io`.
 */
export async function acquireProcessLock(
  path: string,
  options: { readonly label: string; readonly of?: string },
): Promise<ProcessLock> {
  const lock = new SqliteLock(path, options.label);
  try {
    lock.take();
  } catch (error) {
    if (isBusy(error)) throw await heldError(options.of ?? dirname(path), holderPathOf(path));
    throw asRefused(error, `cannot lock ${path}`);
  }
  return lock;
}

function holderPathOf(path: string): string {
  return `${path}.holder`;
}

class SqliteLock implements ProcessLock {
  readonly #path: string;
  readonly #label: string;
  #held: DatabaseSync | undefined;
  #file: string | undefined;

  constructor(path: string, label: string) {
    this.#path = path;
    this.#label = label;
  }

  /** Throws what SQLite and Node throw. */
  take(): void {
    mkdirSync(dirname(this.#path), { recursive: true });
    const database = new DatabaseSync(this.#path, { timeout: 0 });
    try {
      // A journal in memory: nothing is written, and one on the disk would need room on a full one.
      database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
      writeHolder(holderPathOf(this.#path), this.#label);
    } catch (error) {
      database.close();
      throw error;
    }
    const before = this.#held;
    this.#held = database;
    this.#file = fileAt(this.#path);
    // Open, it would keep a disk in use that was unmounted; and mounted again, it would refuse the file to us.
    before?.close();
  }

  get isRemoved(): boolean {
    return this.#held !== undefined && fileAt(this.#path) !== this.#file;
  }

  restore(): void {
    try {
      this.take();
    } catch (error) {
      if (!isBusy(error)) throw asRefused(error, `cannot lock ${this.#path} again, which was removed`);
      const who = describeHolder(readHolder(holderPathOf(this.#path)));
      throw new PenstockError('held', `${this.#path} was removed, and is held by ${who} now: stop it`);
    }
  }

  release(): void {
    if (this.#held === undefined) return;
    try {
      rmSync(holderPathOf(this.#path), { force: true });
    } catch {
      // A disk that has failed is read-only by now: the text only explains, and what ended the holder must not be hidden by this.
    }
    this.#held.close();
    this.#held = undefined;
  }
}

/** Undefined: there is none. */
function fileAt(path: string): string | undefined {
  const file = statSync(path, { throwIfNoEntry: false });
  return file === undefined ? undefined : `${file.dev}:${file.ino}`;
}

function writeHolder(path: string, label: string): void {
  const holder: Holder = { pid: process.pid, label, since: new Date().toISOString() };
  try {
    writeFileSync(path, `${JSON.stringify(holder)}\n`);
  } catch (error) {
    // Whoever is refused is not told by whom, then.
    if (!isCode(fromSystemError(error, path), 'full')) throw error;
  }
}

function isBusy(error: unknown): boolean {
  return sqliteCode(error) === SQLITE_BUSY;
}

function sqliteCode(error: unknown): number | undefined {
  return error instanceof Error && 'errcode' in error && typeof error.errcode === 'number'
    ? error.errcode & 0xff
    : undefined;
}

function asRefused(error: unknown, what: string): PenstockError {
  if (sqliteCode(error) !== SQLITE_READONLY && systemCode(error) !== 'EROFS') return fromSystemError(error, what);
  return new PenstockError(
    'denied',
    `${what}: its disk is read-only. Look for errors of the disk in the log of the kernel (dmesg), repair it (fsck) and mount it again`,
    { cause: error },
  );
}

async function heldError(directory: string, holderPath: string): Promise<PenstockError> {
  const deadline = performance.now() + HOLDER_TEXT_WAIT_MS;
  let holder = readHolder(holderPath);
  while ((holder === undefined || !isAlive(holder.pid)) && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    holder = readHolder(holderPath);
  }
  return new PenstockError(
    'held',
    `${directory} is held by ${describeHolder(holder)}; stop it first or use another directory`,
  );
}

function describeHolder(holder: Holder | undefined): string {
  if (holder === undefined) return 'another process';
  return `process ${holder.pid} (${holder.label}), running since ${holder.since}`;
}

function readHolder(path: string): Holder | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (typeof value !== 'object' || value === null) return undefined;
    if (!('pid' in value && 'label' in value && 'since' in value)) return undefined;
    return { pid: Number(value.pid), label: String(value.label), since: String(value.since) };
  } catch {
    // Absent, half written or damaged: it only explains, so the message does without it.
    return undefined;
  }
}
