/**
 * Uploads the full blocks of files while they grow: a checkpoint of 100 GB is in the store soon after its last byte is written, and its close
 * waits for the last few blocks (data/early-blocks.ts).
 *
 * What is written through the daemon is uploaded when a write has come to the end of a block that is full, once for each flush: a program that writes over it
 * again and again has it uploaded by the flush. Not with `writeback`: there the local disk is where bytes are wanted first, and the program has the CPU.
 *
 * Live files: the kernel writes such a file without a word to us, so its size is looked at: what was full at the look before, the writer has most likely left.
 * Blocks with zeros are left to the flush, which commits holes for them, and so is a block that could not be uploaded.
 * Failure: nothing refers to an early block; a worker that is killed leaves garbage for gc, and the next one begins anew.
 * Limits: what is staged, and the slots of the uploader; of live files AT_ONCE blocks (half of the uploader's slots), files of BLOCKS_MIN blocks and more. What no flush has taken for COMMIT_AFTER_MS is
 * committed, before it is too old to be used.
 */
import type { Clock } from '../../lib/clock.ts';
import { BlockHashes } from '../data/block-hashes.ts';
import { Gatherings } from '../data/gathering.ts';
import { LiveFile } from '../data/live-file.ts';
import type { StagedFile } from '../data/staged-file.ts';
import type { Gathered, Uploader } from '../data/uploader.ts';
import type { Context } from './context.ts';
import type { Result } from './operations.ts';

const LOOK_MS = 500;
const AT_ONCE = 4;
/** A file that is written at once is uploaded at once by its close. */
const BLOCKS_MIN = 4;
const COMMIT_AFTER_MS = 10 * 60_000;
/** After an upload that failed, the store's own retries have given up; and between two commits of blocks that grow old. */
const PAUSE_MS = 5000;

export interface EarlyUploadsOptions {
  readonly context: Context;
  readonly uploader: Uploader;
  readonly clock: Clock;
  /** Files that are written through the daemon, too. */
  readonly staged: boolean;
  /** Commits the file in its turn. */
  commit(ino: number): Result<void>;
}

interface Watched {
  readonly file: LiveFile;
  /** Its size at the last look. */
  size: number;
  /** Up to here its full blocks were full at the look before. */
  full: number;
  /** The next block to upload. */
  next: number;
  pausedUntilMs: number;
}

export class EarlyUploads {
  readonly #options: EarlyUploadsOptions;
  readonly #gatherings: Gatherings;
  readonly #watched = new Map<number, Watched>();
  #timer: NodeJS.Timeout | undefined;
  #uploading = 0;
  #closed = false;

  constructor(options: EarlyUploadsOptions) {
    this.#options = options;
    this.#gatherings = new Gatherings(options.uploader, options.context.format.blockSize);
  }

  /** It was opened for writing. */
  watch(ino: number): void {
    const { staging } = this.#options.context;
    const file = staging.get(ino);
    if (this.#closed || !(file instanceof LiveFile) || this.#watched.get(ino)?.file === file) return;
    this.#watched.set(ino, { file, size: file.size, full: 0, next: 0, pausedUntilMs: 0 });
    this.#timer ??= setInterval(() => this.#look(), LOOK_MS).unref();
  }

  /** A program has written `data` at `from` through the daemon. */
  wrote(file: StagedFile, from: number, data: Buffer): void {
    const { context, staged } = this.#options;
    const { blockSize } = context.format;
    // What is appended may move before it is committed.
    if (!staged || file.selfKept || file.inMemory || file.append !== undefined) return;
    if (context.view.cachedNode(file.ino)?.inode.nlink === 0) return;
    const to = from + data.length;
    for (let start = Math.floor(from / blockSize) * blockSize; start < to; start += blockSize) {
      const at = Math.max(from, start);
      const end = start + blockSize;
      const gathered = this.#gatherings.add(file, at, data.subarray(at - from, Math.min(to, end) - from));
      if (end <= to) this.#uploadStaged(file, start, gathered);
    }
  }

  /** A write has come to the end of the block. */
  #uploadStaged(file: StagedFile, start: number, gathered: Gathered | undefined): void {
    const { context, uploader } = this.#options;
    const { blockSize } = context.format;
    const end = start + blockSize;
    if (file.early.wasBegun(start) || !file.active.coversWithData(start, end)) {
      if (gathered !== undefined) uploader.giveBack(gathered.memory);
      return;
    }
    const failed = (): void => undefined; // The flush does it, and reports.
    const load = (offset: number, target: Buffer): void => file.load(offset, target, 0, target.length);
    const upload =
      gathered === undefined ? uploader.upload([{ start, end }], load) : uploader.uploadGathered(start, gathered);
    file.early.add([start, blockSize], upload).catch(failed);
  }

  #look(): void {
    const { staging, view, format } = this.#options.context;
    for (const [ino, watched] of this.#watched) {
      if (staging.get(ino) !== watched.file || !staging.opens.has(ino)) {
        this.#watched.delete(ino);
        continue;
      }
      const { size } = watched.file;
      watched.full = Math.min(watched.size, size);
      watched.size = size;
      // A file that was cut grows anew, and what is committed is not uploaded again.
      const { blockSize } = format;
      const committed = Math.ceil(watched.file.record.content.size / blockSize) * blockSize;
      watched.next = Math.max(Math.min(watched.next, Math.floor(size / blockSize) * blockSize), committed);
      // One without names is nobody's but the program's; and one that is mostly holes would be read for nothing.
      const isNot = size < BLOCKS_MIN * blockSize || watched.file.isSparse;
      if (isNot || view.cachedNode(ino)?.inode.nlink === 0) watched.full = 0;
      this.#upload(watched);
      if (watched.file.early.oldestMs > COMMIT_AFTER_MS) this.#commit(ino, watched);
    }
    if (this.#watched.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #upload(watched: Watched): void {
    const { file } = watched;
    const { clock, context } = this.#options;
    const { blockSize } = context.format;
    while (!this.#closed && this.#uploading < AT_ONCE && watched.next + blockSize <= watched.full) {
      // A flush takes what is there; it is asked to wait for no more. A file that is let go has no descriptor.
      if (file.flushing !== undefined || context.staging.get(file.ino) !== file) return;
      if (clock.monotonicMs() < watched.pausedUntilMs) return;
      const start = watched.next;
      watched.next += blockSize;
      this.#uploading++;
      this.#uploadBlock(file, start, blockSize)
        .catch(() => (watched.pausedUntilMs = clock.monotonicMs() + PAUSE_MS))
        .finally(() => {
          this.#uploading--;
          for (const next of this.#watched.values()) this.#upload(next);
        });
    }
  }

  async #uploadBlock(file: LiveFile, start: number, length: number): Promise<void> {
    const bytes = Buffer.allocUnsafe(length);
    file.overlay(start, bytes);
    const hashes = BlockHashes.of(bytes);
    for (let block = 0; block < hashes.count; block++) if (hashes.isZero(block)) return;
    const ranges = [{ start, end: start + length }];
    const load = (offset: number, target: Buffer): void => void bytes.copy(target, 0, offset - start);
    await file.early.add([start, length], this.#options.uploader.upload(ranges, load, true), hashes);
  }

  #commit(ino: number, watched: Watched): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (nowMs < watched.pausedUntilMs) return;
    watched.pausedUntilMs = nowMs + PAUSE_MS;
    const failed = (): void => undefined; // Reported by the flush, which comes again.
    Promise.resolve(this.#options.commit(ino)).catch(failed);
  }

  close(): void {
    this.#closed = true;
    this.#gatherings.close();
    clearInterval(this.#timer);
  }
}
