/**
 * Puts back what somebody removes of a staging area under its mount: a clean-up of old files, an `rm -rf` of the cache directory, an `umount -l` of its disk. What is open here is on
 * the disk still, and nobody else would ever find it.
 *
 * Invariants: the lock comes first, so that nobody else takes the area meanwhile. The journal is put back as it is, byte by byte, so that its marks stay true; and with
 * it who the staging area is of (staging-life.ts, mount-identity.ts), or the next worker would take what it finds for another mount's. What is open here counts, and not what an
 * earlier disk, mounted again, has in its place.
 * Limits: onto a disk that has no room it is tried once a minute, and with each promise.
 * Failure: what is not open here is lost, and its files say so (segments.ts). A kill within LOOK_MS of the removal loses what was staged; a promise (`sync`) looks before it is given.
 */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describeError, fromSystemError, isCode } from '../../lib/errors.ts';
import type { ProcessLock } from '../../lib/process-lock.ts';
import type { Journal } from './journal.ts';
import type { Segments } from './segments.ts';
import { lifePath, writeLife } from './staging-life.ts';
import type { StagingLife } from './staging-life.ts';

const LOOK_MS = 1000;
/** On a disk that has no room for it: each try writes all that fits. */
const LOOKS_LEFT_OUT = 59;
const REMEDY = 'Leave the cache directory alone while it is in use, or unmount first';

export interface WatchedStaging {
  readonly journal: Journal;
  readonly segments: Segments;
  readonly lock: ProcessLock | undefined;
  readonly life: StagingLife;
  /** Small files that stay as they are while the mount lives. */
  readonly files: readonly string[];
  readonly report: (message: string) => void;
  /** What others have open of the cache directory, and can open again, keeps a disk in use that is gone. */
  readonly putBack?: (() => void) | undefined;
  /** After each look at a staging area that is in its place. */
  readonly looked?: () => void;
}

export class StagingWatch {
  readonly #watched: WatchedStaging;
  readonly #contents: ReadonlyMap<string, Buffer>;
  readonly #timer: NodeJS.Timeout;
  #device: number;
  #told = '';
  /** Of the next looks. */
  #leftOut = 0;

  constructor(watched: WatchedStaging) {
    this.#watched = watched;
    this.#device = statSync(dirname(watched.journal.path)).dev;
    this.#contents = new Map(watched.files.map((path) => [path, readFileSync(path)]));
    this.#timer = setInterval(() => this.#lookInTurn(), LOOK_MS).unref();
  }

  #lookInTurn(): void {
    if (this.#leftOut > 0) {
      this.#leftOut--;
      return;
    }
    const { journal, looked } = this.#watched;
    try {
      this.look();
      looked?.();
    } catch (error) {
      if (isCode(fromSystemError(error, journal.path), 'full')) this.#leftOut = LOOKS_LEFT_OUT;
      this.#tell(`${journal.path} was removed, or is on another disk, and cannot be put back: ${describeError(error)}`);
    }
  }

  /** Throws Node's errors, and those of the lock, when something is gone and cannot be put back. */
  look(): void {
    const { journal, segments, lock, life, report, putBack } = this.#watched;
    const dir = dirname(journal.path);
    const gone = [...this.#contents].filter(([path]) => !isThere(path));
    if (!journal.isRemoved && lock?.isRemoved !== true && gone.length === 0 && isThere(lifePath(dir))) return;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    if (lock?.isRemoved === true) lock.restore();
    for (const [path, content] of gone) writeFileSync(path, content, { mode: 0o600 });
    // Another folder has it, by now.
    writeLife(dir, life);
    if (journal.isRemoved) {
      segments.restore();
      journal.restore();
    }
    this.#told = '';
    this.#leftOut = 0;
    putBack?.();
    report(`${this.#whatHappened(dir)}: it is put back with what was open here. ${REMEDY}`);
  }

  #whatHappened(dir: string): string {
    const device = statSync(dir).dev;
    const before = this.#device;
    this.#device = device;
    if (device === before) return `${dir} or a part of it was removed under the mount`;
    return `${dir} is on another disk than before: somebody has mounted or unmounted one there under the mount (device ${describeDevice(before)} before, ${describeDevice(device)} now)`;
  }

  /** What is the same each second is told once. */
  #tell(message: string): void {
    if (message !== this.#told) this.#watched.report(message);
    this.#told = message;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

function isThere(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** As lsblk and /proc/self/mountinfo call it. */
function describeDevice(device: number): string {
  return `${Math.floor(device / 256) % 4096}:${(device % 256) + Math.floor(device / 2 ** 20) * 256}`;
}
