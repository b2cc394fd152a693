/**
 * Makes files whole on this node in the background (fill), and brings whole files up to the committed content (refresh): only what differs
 * from the content that they have is fetched and written.
 *
 * Invariants: the record goes before the first byte is changed and comes back after the last one is synced (whole-files.ts). One job per inode
 * at a time. Failure: a job that fails leaves the file without a record; reads go through the daemon, and it is tried again by a later read.
 * Limits: JOBS_MAX at a time, QUEUE_MAX waiting (more are dropped: a later read asks again), STEP_BYTES in memory each.
 */
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { describeError, PenstockError } from '../../lib/errors.ts';
import { extentsWithin } from '../../lib/volume/extents.ts';
import { writeAll } from '../../lib/write-all.ts';
import { WRITE_BYTES_MAX } from '../data/block-cache.ts';
import type { BlockHashes } from '../data/block-hashes.ts';
import type { FileHasher, Hole } from '../data/file-hasher.ts';
import type { WholeFiles } from '../data/whole-files.ts';
import { sameBytes } from '../data/whole-record.ts';
import type { FileContent } from '../data/whole-record.ts';
import type { Node } from '../meta/cache.ts';
import { contentOf } from './content-of.ts';
import type { Context } from './context.ts';

const JOBS_MAX = 2;
const QUEUE_MAX = 1024;
const STEP_BYTES = 4 * 2 ** 20;
const NOTHING: FileContent = { size: 0, extents: [], inline: null };

export interface FillerOptions {
  readonly context: Context;
  readonly whole: WholeFiles;
  readonly hasher: FileHasher;
  readonly bootId: string;
  holes(fd: number): readonly Hole[];
  /** Fills the buffer with committed content; zeros where it has none. */
  read(content: FileContent, from: number, target: Buffer): void | Promise<void>;
  /** The content is whole here: no copy of its pieces is needed beside it. */
  onFilled(content: FileContent): void;
}

export class Filler {
  readonly #options: FillerOptions;
  readonly #jobs = new Map<number, Promise<void>>();
  readonly #queue = new Set<number>();
  #closed = false;

  constructor(options: FillerOptions) {
    this.#options = options;
  }

  get pending(): number {
    return this.#jobs.size + this.#queue.size;
  }

  isFilling(ino: number): boolean {
    return this.#jobs.has(ino);
  }

  /** In the background, if there is room. */
  later(ino: number): void {
    const { staging } = this.#options.context;
    if (this.#closed || staging.failure !== undefined || this.#jobs.has(ino) || this.#queue.size >= QUEUE_MAX) return;
    this.#queue.add(ino);
    this.#next();
  }

  #next(): void {
    for (const ino of this.#queue) {
      if (this.#jobs.size >= JOBS_MAX) return;
      this.#queue.delete(ino);
      this.now(ino).catch((error: unknown) => {
        this.#options.context.report(`inode ${ino} is not whole on this node: ${describeError(error)}`);
      });
    }
  }

  /** The local file has the content that is committed now. Throws what went wrong. */
  now(ino: number): Promise<void> {
    let job = this.#jobs.get(ino);
    if (job === undefined) {
      this.#queue.delete(ino);
      job = this.#run(ino).finally(() => {
        this.#jobs.delete(ino);
        this.#next();
      });
      this.#jobs.set(ino, job);
    }
    return job;
  }

  async #run(ino: number): Promise<void> {
    const { context, whole } = this.#options;
    const node = await context.view.node(ino);
    if (node === null) return;
    this.#expectReachable(ino);
    const content = await contentOf(context, node);
    const record = whole.records.complete(ino);
    // What a record of an earlier boot says is true only if the blocks say so too.
    const intact =
      record === null || record.bootId === this.#options.bootId || (await this.#isIntact(node, record.hashes));
    // It became live meanwhile, and takes over by itself what is committed.
    if (whole.live.has(ino)) return;
    if (!intact) {
      whole.drop(ino);
      return this.#run(ino);
    }
    this.#makeRoom(content);
    // Of what was there nothing may be left: it may have had to make room, also for others while its blocks were looked at.
    const fresh = !whole.has(ino);
    const there = fresh ? NOTHING : (record?.content ?? null);
    whole.begin(ino);
    const file = await open(whole.path(ino), fresh ? 'w+' : 'r+', 0o600);
    try {
      // Without a record every byte is written; nothing is cut, because somebody may be reading it.
      await this.#write(file, there, content);
      await file.truncate(content.size);
      await file.datasync();
      const { hashes } = await this.#hash(file.fd);
      const { mtimeNs } = await file.stat({ bigint: true });
      whole.complete(ino, { content, hashes, bootId: this.#options.bootId, mtimeNs });
    } catch (error) {
      if (!this.#isKept(ino) && !whole.live.has(ino)) whole.drop(ino);
      throw error;
    } finally {
      await file.close();
    }
    this.#options.onFilled(content);
  }

  /** Where somebody has removed the file that the kernel has, another one in its place would be nobody's. */
  #expectReachable(ino: number): void {
    const { whole } = this.#options;
    if (this.#isKept(ino) && !whole.isReachable(ino))
      throw new PenstockError(
        'io',
        `its file in the cache directory, ${whole.place(ino)}, was removed under the mount`,
      );
  }

  #isKept(ino: number): boolean {
    return this.#options.context.staging.opens.backingOf(ino) !== undefined;
  }

  async #isIntact({ ino }: Node, expected: BlockHashes): Promise<boolean> {
    const file = await open(this.#options.whole.path(ino), 'r').catch(() => undefined);
    if (file === undefined) return false;
    try {
      return (await this.#hash(file.fd)).hashes.equals(expected);
    } finally {
      await file.close();
    }
  }

  #hash(fd: number): ReturnType<FileHasher['hash']> {
    return this.#options.hasher.hash(fd, this.#options.holes(fd));
  }

  #makeRoom({ size }: FileContent): void {
    if (!this.#options.whole.hasRoom(size)) {
      throw new PenstockError('full', `no room for ${size} bytes in the cache directory`);
    }
  }

  /** Writes what `to` has elsewhere than `from`; null: nothing is known of what is there. */
  async #write(file: FileHandle, from: FileContent | null, to: FileContent): Promise<void> {
    const buffer = Buffer.allocUnsafe(Math.min(STEP_BYTES, Math.max(1, to.size)));
    for (let at = 0; at < to.size; at += buffer.length) {
      // Long holes in both are passed at once.
      if (from !== null) {
        const data = Math.min(nextData(from, at), nextData(to, at));
        at += Math.floor((Math.min(data, to.size) - at) / buffer.length) * buffer.length;
        if (at >= to.size) break;
      }
      const part = buffer.subarray(0, Math.min(buffer.length, to.size - at));
      if (from !== null && sameBytes(from, to, at, at + part.length)) continue;
      if (from !== null && at >= from.size && isHole(to, at, at + part.length)) continue;
      if (this.#closed) throw new PenstockError('closed', 'the mount ends');
      await this.#options.read(to, at, part);
      await writeAll(file, part, at, WRITE_BYTES_MAX);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#queue.clear();
    await Promise.allSettled(this.#jobs.values());
  }
}

function isHole({ extents, inline }: FileContent, from: number, to: number): boolean {
  return inline === null && extentsWithin(extents, from, to).length === 0;
}

/** The first byte from `from` on that may be no zero; Infinity: there is none. */
function nextData({ extents, inline }: FileContent, from: number): number {
  if (inline !== null) return from < inline.length ? from : Infinity;
  let low = 0;
  for (let high = extents.length; low < high;) {
    const middle = (low + high) >> 1;
    const { fileOffset = 0, length = 0 } = extents[middle] ?? {};
    if (fileOffset + length <= from) low = middle + 1;
    else high = middle;
  }
  const next = extents[low];
  return next === undefined ? Infinity : Math.max(from, next.fileOffset);
}
