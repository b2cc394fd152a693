/**
 * When the journal is synced for commits (`-o writeback`): the word for each of them reaches the disk while the metadata still remember the commit.
 *
 * Invariant: fewer than UNSYNCED_MAX commits, and those under way, are unknown to the journal on the disk; the metadata remember twice as many
 * (meta/repeats.ts). After a power cut one or the other tells of each promise whether it is kept.
 * Failure: a disk that takes no sync is met by the next promise; commits go on, each behind one more try.
 */
import type { Journal } from './journal.ts';

/** Behind a commit. */
const SYNC_SOON_MS = 50;
const UNSYNCED_MAX = 512;

export class JournalSyncs {
  readonly #journal: Journal;
  #underWay = 0;
  #timer: NodeJS.Timeout | undefined;
  /** In all, and those that the journal on the disk knows of. */
  #commits = 0;
  #commitsSynced = 0;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  /** Marks of it are of the journal as it is. */
  get underWay(): boolean {
    return this.#underWay > 0;
  }

  async during(work: () => Promise<void>): Promise<void> {
    this.#underWay++;
    try {
      await work();
    } finally {
      this.#underWay--;
    }
  }

  async sync(): Promise<void> {
    const commits = this.#journal.owes ? this.#commitsSynced : this.#commits;
    await this.#journal.sync();
    this.#commitsSynced = Math.max(this.#commitsSynced, commits);
  }

  /** The same, and no error: of what a commit does not wait for. */
  async try(): Promise<void> {
    await this.during(() => this.sync()).catch(() => undefined);
  }

  committed(): void {
    this.#commits++;
  }

  /** Of an earlier worker there may be as many that the disk does not know of. */
  unknown(): void {
    this.#commits += UNSYNCED_MAX;
  }

  /** Before a flush. */
  keepUp(): Promise<void> | undefined {
    return this.#commits - this.#commitsSynced < UNSYNCED_MAX ? undefined : this.try();
  }

  /** It comes again with the next commit; a disk that fails is met by the next write. */
  soon(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.try();
    }, SYNC_SOON_MS).unref();
  }

  close(): void {
    clearTimeout(this.#timer);
  }
}
