/**
 * The block cache: pieces of objects on the local disk, one file each, `<dir>/<1 hex>/<piece name>` (piece-trailer.ts).
 *
 * Invariants
 * - A file is trusted only after its checksum was verified by this process, or it was written by it; a damaged one is removed and counts as absent.
 * - A file is written under its own name from its beginning to its end, never cut, and not fsynced: what a kill or a power loss tears, and what another mount of the same folder
 *   is still writing, has another length or fails its checksum. Two that write one file write the same bytes to the same places.
 * - At most `bytesMax`, and never so much that the disk has less than `freeBytesMin` left; the least recently used goes first.
 * Failure: a full or broken disk makes the cache smaller or useless, never wrong; `put` then does nothing.
 */
import { hash } from 'node:crypto';
import {
  close,
  constants,
  mkdirSync,
  open as openFile,
  readdirSync,
  readSync,
  rmSync,
  statfsSync,
  statSync,
  writev,
} from 'node:fs';
import { open, readFile, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { Descriptors } from './descriptors.ts';
import type { Piece } from './pieces.ts';
import { bytesWithTrailer, trailerOf, withoutTrailer } from './piece-trailer.ts';

/** What others keep on the disk of the cache, within its bound. */
type Sharer = 'whole files' | 'staging';

/** Asking the disk for its free space costs a system call; once per so many bytes written is enough. */
const FREE_CHECK_BYTES = 64 * 2 ** 20;

/**
 * The page cache takes the largest folios that a write fills. Those of 2 MiB are what a hypervisor takes back from its guests when they are free (free page
 * reporting), and each has to be had from it again: a GiB that was written by 4 MiB took 0.8 to 1.9 s of CPU, and 0.5 by 1 MiB.
 */
export const WRITE_BYTES_MAX = 2 ** 20;

// A FileHandle costs as much CPU again as the file.
const openAsync = promisify(openFile);
const writevAsync = promisify(writev);
const closeAsync = promisify(close);

export interface BlockCacheOptions {
  readonly dir: string;
  readonly bytesMax: number;
  readonly freeBytesMin: number;
}

interface CachedFile {
  readonly bytes: number;
  verified: boolean;
}

export class BlockCache {
  readonly #options: BlockCacheOptions;
  /** In the order of use. */
  readonly #files = new Map<string, CachedFile>();
  readonly #descriptors = new Descriptors();
  #bytes = 0;
  readonly #others = new Map<Sharer, number>();
  #sinceFreeCheck = FREE_CHECK_BYTES;
  /** Those that were there when they were wanted last. */
  readonly #folders = new Set<string>();

  constructor(options: BlockCacheOptions) {
    this.#options = options;
    mkdirSync(options.dir, { recursive: true });
    for (const folder of readdirSync(options.dir, { withFileTypes: true })) {
      if (!folder.isDirectory()) continue;
      const path = join(options.dir, folder.name);
      this.#folders.add(path);
      for (const name of readdirSync(path)) this.#adopt(join(path, name), name);
    }
    this.#evict(0);
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** What others keep in the same directory counts against the same bound. */
  share(sharer: Sharer, bytes: number): void {
    this.#others.set(sharer, bytes);
    this.#evict(0);
  }

  get #bytesMax(): number {
    let others = 0;
    for (const bytes of this.#others.values()) others += bytes;
    return Math.max(0, this.#options.bytesMax - others);
  }

  /** The disk has what it is to keep free. */
  hasReserve(): boolean {
    try {
      return this.#diskFree() >= this.#options.freeBytesMin;
    } catch {
      return false; // A directory that is gone.
    }
  }

  #diskFree(): number {
    const disk = statfsSync(this.#options.dir);
    return disk.bavail * disk.bsize;
  }

  /** On a full disk: what is staged matters more. False when there is nothing left to give. */
  giveWay(): boolean {
    if (this.#files.size === 0) return false;
    this.#evict(FREE_CHECK_BYTES);
    return true;
  }

  /** The piece is not needed any more. */
  forget(piece: Piece): void {
    this.#forget(piece.name);
  }

  #adopt(path: string, name: string): void {
    if (path !== this.#path(name)) {
      rmSync(path, { recursive: true, force: true }); // Of an earlier version.
      return;
    }
    const { size } = statSync(path);
    this.#files.set(name, { bytes: size, verified: false });
    this.#bytes += size;
  }

  /** Reads a part of a piece into `target`; false when the piece is not here (verified). */
  readSync(piece: Piece, pieceOffset: number, target: Buffer, at: number, length: number): boolean {
    const file = this.#files.get(piece.name);
    if (file?.verified !== true) return false;
    this.#files.delete(piece.name);
    this.#files.set(piece.name, file);
    try {
      const { fd } = this.#descriptors.get(this.#path(piece.name));
      if (readSync(fd, target, at, length, pieceOffset) === length) return true;
    } catch {
      // The cache directory was damaged under us; the piece is fetched again.
    }
    this.#forget(piece.name);
    return false;
  }

  has(piece: Piece): boolean {
    return this.#files.has(piece.name);
  }

  /** `readSync` will find it. */
  isVerified(piece: Piece): boolean {
    return this.#files.get(piece.name)?.verified === true;
  }

  /** Verifies a file of an earlier process. False: it was not here, or was damaged and is now gone. */
  async verify(piece: Piece): Promise<boolean> {
    const file = this.#files.get(piece.name);
    if (file === undefined) return false;
    if (file.verified) return true;
    const content = await readFile(this.#path(piece.name)).catch(() => Buffer.alloc(0));
    if (withoutTrailer(piece, content) === null) {
      this.#forget(piece.name);
      return false;
    }
    file.verified = true;
    return true;
  }

  /** The file of a verified piece, with its trailer. The caller closes it. Null when it is gone. */
  async open(piece: Piece): Promise<FileHandle | null> {
    return open(this.#path(piece.name), 'r').catch(() => null);
  }

  /** Keeps a verified piece. Never throws: a cache that cannot be written is a smaller cache. */
  async put(piece: Piece, data: Buffer): Promise<void> {
    const bytes = bytesWithTrailer(piece);
    if (this.#files.has(piece.name)) return;
    const path = this.#path(piece.name);
    try {
      if (!this.#makeRoom(bytes)) return;
      await this.#write(path, data, trailerOf(piece, data));
    } catch {
      // Perhaps the folder was removed under us: the next piece makes it anew.
      this.#folders.delete(dirname(path));
      await rm(path, { force: true }).catch(() => undefined);
      return;
    }
    this.#files.set(piece.name, { bytes, verified: true });
    this.#bytes += bytes;
    this.#evict(0);
  }

  /** Throws Node's errors, and when the disk takes a part only. */
  async #write(path: string, data: Buffer, trailer: Buffer): Promise<void> {
    const folder = dirname(path);
    if (!this.#folders.has(folder)) mkdirSync(folder, { recursive: true });
    this.#folders.add(folder);
    // Not cut (`w`): between two writes of another mount that would leave zeros in a file of the right length.
    const fd = await openAsync(path, constants.O_WRONLY | constants.O_CREAT);
    try {
      for (let at = 0; at < data.length; at += WRITE_BYTES_MAX) {
        const part = data.subarray(at, at + WRITE_BYTES_MAX);
        const parts = at + part.length < data.length ? [part] : [part, trailer];
        const { bytesWritten } = await writevAsync(fd, parts, at);
        if (bytesWritten !== parts.reduce((sum, { length }) => sum + length, 0))
          throw new Error(`${path} is too short`);
      }
    } finally {
      await closeAsync(fd);
    }
  }

  #makeRoom(bytes: number): boolean {
    this.#sinceFreeCheck += bytes;
    if (this.#sinceFreeCheck >= FREE_CHECK_BYTES) {
      this.#sinceFreeCheck = 0;
      const free = this.#diskFree();
      if (free - FREE_CHECK_BYTES < this.#options.freeBytesMin) {
        this.#sinceFreeCheck = FREE_CHECK_BYTES;
        this.#evict(this.#options.freeBytesMin + FREE_CHECK_BYTES - free);
        if (this.#diskFree() < this.#options.freeBytesMin) return false;
      }
    }
    this.#evict(bytes - (this.#bytesMax - this.#bytes));
    return this.#bytes + bytes <= this.#bytesMax;
  }

  /** Removes the oldest files until `bytes` are freed and the cache is within its bound. */
  #evict(bytes: number): void {
    let toFree = Math.max(bytes, this.#bytes - this.#bytesMax);
    for (const [name, file] of this.#files) {
      if (toFree <= 0) return;
      toFree -= file.bytes;
      this.#forget(name);
    }
  }

  #forget(name: string): void {
    const file = this.#files.get(name);
    if (file === undefined) return;
    this.#files.delete(name);
    this.#bytes -= file.bytes;
    const path = this.#path(name);
    this.#descriptors.close(path);
    try {
      rmSync(path, { force: true });
    } catch {
      // A disk that became read-only, or is broken: the next start finds the file again, and counts it.
    }
  }

  #path(name: string): string {
    // More of them would be made one by one while a new mount reads its first files: on ext4 a folder costs more than a file.
    const folder = hash('md5', name).slice(0, 1);
    return join(this.#options.dir, folder, name);
  }

  /** What is read behind that is opened anew. */
  close(): void {
    this.#descriptors.closeAll();
  }
}
