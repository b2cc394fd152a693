/**
 * When what is staged is committed: at close and fsync, before their answer, or with `writeback` behind it; at the last release, at the end, and
 * again after a failure.
 *
 * Invariants
 * - Without `writeback`, close(2) and fsync(2) return after upload and commit: another node that opens the file afterwards reads it
 *   (close-to-open). With it, they return when the local disk has the bytes and the journal's word for them, also over a power cut.
 * - One flush per file at a time. What failed stays staged, is reported, and is tried again.
 */
import { describeError, isCode, PenstockError } from '../../lib/errors.ts';
import { counted, formatBytes } from '../../lib/units.ts';
import { KeptAsideError } from '../data/kept-aside.ts';
import { LiveFile } from '../data/live-file.ts';
import type { StagedFile } from '../data/staged-file.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Node } from '../meta/cache.ts';
import { contentMark } from './content-of.ts';
import type { Context } from './context.ts';
import type { Flusher } from './flusher.ts';
import type { Result } from './operations.ts';
import type { Orphans } from './orphans.ts';
import type { Passthrough } from './passthrough.ts';
import type { RemovedFiles } from './removed-files.ts';
import type { Writeback } from './writeback.ts';

/** A file that programs go on writing, and that takes longer to compare (100 MB), is compared less often: in this share of a core. */
const COMPARE_MS = 25;
const COMPARE_SHARE = 0.05;
/** The store's own retries have given up by then. */
const FLUSH_RETRY_MS = 5000;
const MARKS_MAX = 65_536;

export interface FlushesOptions {
  readonly context: Context;
  readonly flusher: Flusher;
  readonly orphans: Orphans;
  readonly passthrough: Passthrough;
  readonly removed: RemovedFiles;
  readonly writeback: Writeback | undefined;
}

export class Flushes {
  readonly #options: FlushesOptions;
  readonly #running = new Map<number, Promise<void>>();
  /** Live files that are queued in a moment. */
  readonly #soon = new Set<number>();
  /** The mark of the content at the last open: the kernel's pages are still those of the file. */
  readonly #lastOpened = new BoundedMap<number, string>(MARKS_MAX);

  constructor(options: FlushesOptions) {
    this.#options = options;
  }

  /** At an open: whether the kernel's pages are those of this version. */
  keepsPages(node: Node): boolean {
    const seen = contentMark(node);
    if (this.#lastOpened.get(node.ino) === seen) return true;
    this.#lastOpened.set(node.ino, seen);
    return false;
  }

  /** Commits what is staged. At once when nothing is. */
  flush(ino: number): Result<void> {
    const file = this.#options.context.staging.get(ino);
    if (file === undefined) return;
    return this.#flushAll(file);
  }

  async #flushAll(file: StagedFile): Promise<void> {
    await this.#running.get(file.ino);
    if (this.#options.context.staging.get(file.ino) !== file || !file.dirty) return;
    await this.start(file.ino);
  }

  /** One flush per file at a time; the one under way counts. */
  start(ino: number): Promise<void> {
    let flush = this.#running.get(ino);
    if (flush === undefined) {
      flush = this.#flush(ino).finally(() => this.#running.delete(ino));
      this.#running.set(ino, flush);
      // Whoever waits for it gets the error; the staged data stays and is tried again.
      flush.catch((error: unknown) => this.#retryLater(ino, error));
    }
    return flush;
  }

  #retryLater(ino: number, error: unknown): void {
    const { context, writeback } = this.#options;
    const dirty = context.staging.get(ino)?.dirty === true;
    // What is staged then was written since.
    const stays = dirty && !(error instanceof KeptAsideError);
    context.report(`${stays ? `inode ${ino} stays staged: ` : ''}${describeError(error)}`);
    if (!dirty) return;
    setTimeout(() => {
      if (context.staging.get(ino)?.dirty !== true) return;
      if (writeback !== undefined) void writeback.add(ino);
      else this.start(ino).catch(() => undefined); // Reported above.
    }, FLUSH_RETRY_MS).unref();
  }

  async #flush(ino: number): Promise<void> {
    const { context, flusher } = this.#options;
    const file = context.staging.get(ino);
    if (file === undefined) return;
    const node = await context.view.node(ino);
    // Nobody else can read a file without names: it dies with its last handle.
    if (node?.inode.nlink === 0 && context.staging.opens.has(ino)) return;
    const before = node === null ? '' : contentMark(node);
    if (await flusher.flush(file)) {
      // The kernel's pages have the appended bytes where they are not.
      this.#lastOpened.delete(ino);
      context.view.announceStale(ino);
      if (file.dirty) await this.#flush(ino);
      return;
    }
    const after = context.view.cachedNode(ino);
    // The kernel's pages have what we wrote: the next open may keep them. Unless the kernel wrote to the backing file instead.
    if (file.selfKept) this.#lastOpened.delete(ino);
    else if (after !== undefined && this.#lastOpened.get(ino) === before) this.#lastOpened.set(ino, contentMark(after));
  }

  /** At close(2), and where a change without a handle ends. */
  settle(ino: number): Result<void> {
    const { context, writeback, removed } = this.#options;
    const file = context.staging.get(ino);
    if (file === undefined) {
      removed.expectFound(ino);
      return;
    }
    return writeback === undefined ? this.#flushAll(file) : this.#stage(file, writeback);
  }

  async #stage(file: StagedFile, writeback: Writeback): Promise<void> {
    const { staging, time } = this.#options.context;
    // Nobody could have written it since it was committed.
    if (file instanceof LiveFile && file.isSettled()) return;
    const isStaged = (): boolean => staging.get(file.ino) === file;
    const isRemoved = (): boolean => file instanceof LiveFile && file.isRemoved();
    await staging.sync(file, time.nowNs()).catch((error: unknown) => {
      if (isStaged() && !isRemoved()) throw error;
    });
    // Committed meanwhile, or not wanted any more.
    if (!isStaged()) return;
    // A power cut would take it, whatever is synced.
    if (isRemoved()) return this.#flushAll(file);
    if (file instanceof LiveFile && staging.opens.has(file.ino)) this.#commitSoon(file, writeback);
    else void writeback.add(file.ino);
  }

  /** What the kernel writes by itself is found by comparing the whole file: a large one waits, and is committed behind what is closed meanwhile. */
  #commitSoon(file: LiveFile, writeback: Writeback): void {
    if (this.#soon.has(file.ino)) return;
    if (file.compareMs < COMPARE_MS) {
      void writeback.add(file.ino);
      return;
    }
    this.#soon.add(file.ino);
    setTimeout(() => {
      this.#soon.delete(file.ino);
      void writeback.add(file.ino);
    }, file.compareMs / COMPARE_SHARE).unref();
  }

  async fsync(ino: number): Promise<void> {
    const { context, writeback, passthrough } = this.#options;
    const file = context.staging.get(ino);
    await this.settle(ino);
    if (writeback !== undefined) return;
    if (file instanceof LiveFile) passthrough.fsynced(ino, file.wastedMs);
    if (context.format.durability !== 'flush') return;
    try {
      await context.view.flush(ino);
    } catch (error) {
      if (isCode(error, 'io')) context.handles.lost(ino, describeError(error));
      throw error;
    }
  }

  /**
   * Nobody waits for what follows the last close, and the next worker does it by what it finds: so the kernel has its answer at once. One that comes
   * again to the next worker is not counted twice: another handle, opened meanwhile, would be taken for closed.
   */
  release(ino: number, request: string): void {
    const { staging, time } = this.#options.context;
    this.#close(ino, () => staging.opens.closed(ino, time.nowNs(), request));
  }

  /** The request's open failed, whether it was counted or not. */
  takeBack(ino: number, request: string): void {
    const { staging, time } = this.#options.context;
    this.#close(ino, () => staging.opens.takeBack(ino, time.nowNs(), request));
  }

  /** An open does not wait any more. */
  letGo(ino: number): void {
    this.#close(ino, () => this.#options.context.staging.opens.letGo(ino));
  }

  /** `isLast` says whether nobody has the inode open any more; behind that, nobody knows its backing id. */
  #close(ino: number, isLast: () => boolean): void {
    const { context, passthrough } = this.#options;
    const backing = context.staging.opens.backingOf(ino);
    if (!isLast()) return;
    context.handles.closed(ino);
    passthrough.closed(ino, backing);
    const node = context.view.cachedNode(ino);
    const unnamed = node === undefined || node.inode.nlink === 0;
    if (!unnamed && context.staging.get(ino) === undefined) return;
    this.#released(ino).catch(() => undefined); // A flush that failed was reported, and is tried again.
  }

  async #released(ino: number): Promise<void> {
    const { context, orphans, passthrough } = this.#options;
    const node = await context.view.node(ino);
    if (node === null || node.inode.nlink === 0) {
      const file = context.staging.get(ino);
      // What others removed while this node was away is kept aside, which is an error of the flush.
      if (file !== undefined && (await this.#wasAway(file))) await this.start(ino).catch(() => undefined);
      else if (file !== undefined) context.staging.drop(file, context.time.nowNs());
      if (node !== null) orphans.closed(node);
      return;
    }
    const { writeback } = this.#options;
    try {
      // Its bytes were promised when the handle was closed.
      if (writeback !== undefined && context.staging.get(ino)?.selfKept === true) void writeback.add(ino);
      else await this.settle(ino);
    } finally {
      passthrough.calmLater(ino);
    }
  }

  /** Also where the engine has to tell that the session is over. While it cannot be asked, the file stays staged. */
  async #wasAway(file: StagedFile): Promise<boolean> {
    const { away, view } = this.#options.context;
    if (!away.mayHaveBeen(file)) return false;
    try {
      await view.confirmSession();
    } catch {
      return true;
    }
    return away.was(file);
  }

  /**
   * Before a name is given to an entry's file: with `writeback`, other nodes and a node that lost its disk would find the name without the
   * content, in place of one that had it (what ext4 calls auto_da_alloc).
   */
  beforeNaming(parent: number, name: string): Result<void> {
    if (this.#options.writeback === undefined) return;
    const entry = this.#options.context.view.cachedEntry(parent, name);
    if (entry !== undefined && entry !== null) return this.flush(entry.ino);
  }

  /** Flushes everything; tries all, then throws what went wrong first, with what is left. */
  async drain(): Promise<void> {
    const { staging } = this.#options.context;
    const results = await Promise.allSettled([...staging.files.keys()].map(async (ino) => this.flush(ino)));
    const failed = results.filter((result) => result.status === 'rejected');
    const [first] = failed;
    if (first === undefined) return;
    throw new PenstockError(
      'io',
      `${counted(failed.length, 'file')} with ${formatBytes(staging.bytes)} not written, staged in the cache directory: ${describeError(first.reason)}`,
      { cause: first.reason },
    );
  }

  /** Commits what an earlier worker left staged. */
  async recover(): Promise<void> {
    const { context, writeback } = this.#options;
    await Promise.all(
      [...context.staging.files.values()].map(async (file) => {
        if (writeback !== undefined) {
          void writeback.add(file.ino);
          return;
        }
        try {
          await this.flush(file.ino);
        } catch (error) {
          context.report(`staged data of inode ${file.ino} is not committed yet: ${describeError(error)}`);
        }
      }),
    );
  }
}
