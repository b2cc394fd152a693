/**
 * Backing files that somebody removes from the cache directory, or with its disk, while the kernel goes on writing to them by itself.
 *
 * A live file is found then by what the worker has open of it, and behind a kill by what the supervisor holds (data/live-bytes.ts): it is committed as ever, and at once when the
 * removal is found, as a power cut would take it. It ends with its last handle.
 * Failure: a worker that is killed before it has found the removal (LOOK_MS), or together with the supervisor, leaves nobody who could read what the kernel writes. Every fsync, close and open for writing
 *   of such a file is refused until its last handle is closed.
 * Limits: LOOKED_MAX live files each LOOK_MS, in turn. Where some of them are removed, most likely all are: those behind them are looked at at once, and requests are
 * served in between.
 */
import { PenstockError } from '../../lib/errors.ts';
import { LiveFile } from '../data/live-file.ts';
import type { Context } from './context.ts';
import type { Result } from './operations.ts';

const LOOK_MS = 1000;
/** Files that a look asks for, 2 system calls each, while nothing else runs. */
const LOOKED_MAX = 256;
/** Of the files that a line names. */
const NAMED_MAX = 8;
const REMEDY = 'Leave the cache directory alone while it is in use, or unmount first';

export class RemovedFiles {
  readonly #context: Pick<Context, 'staging' | 'whole' | 'report'>;
  readonly #commit: (ino: number) => Result<void>;
  readonly #timer: NodeJS.Timeout;
  /** Of the live files, those that the looks have yet to come to. */
  #toLook: number[] = [];
  /** They were told of. */
  readonly #known = new Set<number>();
  readonly #lost = new Map<number, string>();

  constructor(context: Pick<Context, 'staging' | 'whole' | 'report'>, commit: (ino: number) => Result<void>) {
    this.#context = context;
    this.#commit = commit;
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref();
  }

  #look(): void {
    const { whole } = this.#context;
    for (const ino of this.#known) if (!whole.isRemoved(ino)) this.#known.delete(ino);
    if (this.#toLook.length === 0) this.#toLook = [...whole.live];
    const removed = this.#toLook.splice(0, LOOKED_MAX).filter((ino) => this.#isRemoved(ino));
    const found = removed.filter((ino) => !this.#known.has(ino));
    if (found.length === 0) return;
    for (const ino of found) this.#known.add(ino);
    this.#tell(found);
    if (this.#toLook.length > 0) setImmediate(() => this.#look());
    const failed = (): void => undefined; // Reported by the flush, which comes again.
    for (const ino of found) Promise.resolve(this.#commit(ino)).catch(failed);
  }

  #isRemoved(ino: number): boolean {
    const file = this.#context.staging.get(ino);
    try {
      return file instanceof LiveFile && file.isRemoved();
    } catch {
      return false; // The disk fails: the flush of the file meets the same, and reports it.
    }
  }

  #tell(inos: readonly number[]): void {
    const names = inos.slice(0, NAMED_MAX).map((ino) => this.#describe(ino));
    const more = inos.length > NAMED_MAX ? ` and ${inos.length - NAMED_MAX} more` : '';
    this.#context.report(
      `files that the kernel writes by itself were removed from the cache directory under the mount, or are on a disk that was unmounted there: ${names.join(', ')}${more}. They are committed from what is open of them, until programs have closed them. ${REMEDY}`,
    );
  }

  #describe(ino: number): string {
    return `inode ${ino} (${this.#context.whole.place(ino)})`;
  }

  /** At the start of a worker: the inode was live, and what the kernel writes to it by itself cannot be read, or not be compared with anything. */
  noteLost(ino: number): void {
    const message = `what programs write to ${this.#describe(ino)} is lost: its file was removed from the cache directory under the mount, and its worker ended. Close it everywhere on this node, and write it again. ${REMEDY}`;
    this.#lost.set(ino, message);
    this.#context.report(message);
    this.#context.whole.drop(ino);
  }

  /** Throws `io` where what the kernel writes to the inode cannot be read. */
  expectFound(ino: number): void {
    const message = this.#lost.get(ino);
    if (message !== undefined) throw new PenstockError('io', message);
  }

  /** The same, and where the file that the kernel reads cannot be brought up to date. */
  expectReachable(ino: number): void {
    const { staging, whole } = this.#context;
    this.expectFound(ino);
    if (staging.get(ino) instanceof LiveFile || whole.isReachable(ino)) return;
    throw new PenstockError(
      'io',
      `${this.#describe(ino)} was removed from the cache directory under the mount, while the kernel reads it: it is written to when all who have it open on this node have closed it. ${REMEDY}`,
    );
  }

  /** The last handle is closed. */
  closed(ino: number): void {
    if (this.#lost.delete(ino)) this.#context.staging.bases.forget(ino);
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
