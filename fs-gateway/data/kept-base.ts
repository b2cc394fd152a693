/**
 * The base of a live file that survives a power cut (`-o writeback`): `<ino>.kept` of whole-records.ts.
 *
 * Invariants: it is on the disk behind the bytes that it speaks of, so what differs from it is newer than it. One is being kept at a time, and one more
 * waits for all who came meanwhile.
 * Failure: a disk that fails is met by the next promise; until it is kept, a power cut has the same bytes compared, and committed, again.
 */
import type { WholeRecord } from './whole-record.ts';
import type { WholeRecords } from './whole-records.ts';

export interface KeptBaseOptions {
  readonly ino: number;
  readonly records: WholeRecords;
  base(): WholeRecord;
  syncBytes(): Promise<void>;
  /** The file is still live. */
  isWanted(): boolean;
}

export class KeptBase {
  readonly #options: KeptBaseOptions;
  #isThere: boolean;
  #kept: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;
  #isLate = false;

  constructor(options: KeptBaseOptions) {
    this.#options = options;
    this.#isThere = options.records.isKept(options.ino);
  }

  /** One of this file, not always of its last commit. */
  get isThere(): boolean {
    return this.#isThere;
  }

  /** The one on the disk may be of an earlier commit. */
  get isLate(): boolean {
    return this.#isLate;
  }

  /** Behind a commit. */
  again(): void {
    this.soon().catch(() => (this.#isThere = false));
  }

  soon(): Promise<void> {
    this.#isLate = true;
    this.#next ??= this.#kept
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        return (this.#kept = this.#keep());
      });
    return this.#next;
  }

  async #keep(): Promise<void> {
    const { ino, records } = this.#options;
    const base = this.#options.base();
    await this.#options.syncBytes();
    if (!this.#options.isWanted()) return;
    await records.keep(ino, base, () => this.#options.isWanted());
    this.#isThere = true;
    this.#isLate = this.#next !== undefined;
  }

  /** Nothing is being kept any more: what a later boot finds is as of the last commit. */
  async settled(): Promise<void> {
    await (this.#next ?? this.#kept).catch(() => undefined);
  }
}
