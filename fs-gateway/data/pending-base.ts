/**
 * What a flush of a live file is about to make the base. Known before the commit and under the commit's id, so that a commit of which this node did not
 * hear (the worker was killed, the answer lost) is not taken for another node's, and merged over what programs have written here since.
 *
 * Invariants: it is on the disk before the commit is sent, and settled before the file is compared again: taken as the base, or forgotten.
 * Failure: the next worker asks the metadata for the id (meta/repeats.ts), and this one, when it reaches them again.
 * Limits: where a full disk had no room for it, nothing took it of a removed file, or a flush in parts (vfs/page-commits.ts) was not finished, the commit is merged as another node's.
 */
import type { LiveBytes } from './live-bytes.ts';
import type { WholeFiles } from './whole-files.ts';
import { contentKey } from './whole-record.ts';
import type { FileContent, WholeRecord } from './whole-record.ts';
import type { NextBase } from './whole-records.ts';

export interface PendingBaseOptions {
  readonly ino: number;
  readonly whole: WholeFiles;
  /** Whether an earlier worker has committed a flush of the file under this id, or this one without an answer. */
  isCommitted(id: bigint): boolean;
}

export class PendingBase {
  readonly #options: PendingBaseOptions;
  readonly #bytes: Pick<LiveBytes, 'exactStat'>;
  #next: NextBase | undefined;

  constructor(options: PendingBaseOptions, bytes: Pick<LiveBytes, 'exactStat'>) {
    this.#options = options;
    this.#bytes = bytes;
    this.#next = options.whole.records.next(options.ino);
  }

  /** Before the commit. */
  begin(next: NextBase): void {
    this.#next = next;
    this.#save(next);
  }

  /** Somebody has removed it. Where the disk does not take it again, there is none. */
  again(): void {
    try {
      if (this.#next !== undefined) this.#save(this.#next);
    } catch {
      // The flush goes on: a commit is worth more than what the next worker knows of it.
    }
  }

  #save(next: NextBase): void {
    this.#options.whole.saveNext(this.#options.ino, next, this.#bytes.exactStat);
  }

  /** The commit is made: the base from here on. Undefined: nothing was about to be committed. */
  take(): WholeRecord | undefined {
    const record = this.#next?.record;
    this.#next = undefined;
    return record;
  }

  /** The base, if a commit without an answer was made after all. `committed` tells where the id does not: no two commits have the same objects. */
  settle(committed: FileContent, base: FileContent): WholeRecord | undefined {
    if (this.#next === undefined) return undefined;
    const { id, record } = this.#next;
    const key = contentKey(committed);
    // A commit of nothing but times leaves the content as it was.
    const isIts = key === contentKey(record.content) && key !== contentKey(base);
    if (isIts || this.#options.isCommitted(id)) return this.take();
    this.#next = undefined;
    this.#options.whole.records.dropNext(this.#options.ino);
    return undefined;
  }
}
