/**
 * Files that are whole on this node: one local file each, which the kernel reads (and in mode `full` writes) by itself, at `<dir>/<2 hex>/<ino>` and exactly as
 * long as the file. A *complete* one has a record of what it is the copy of, and nobody changes it. A *live* one, which programs may be changing, has its record as
 * of the last flush instead. (whole-records.ts)
 *
 * Invariants
 * - A record is written after the bytes are synced, and removed before they are changed. After a boot that the record does not know, the
 *   file counts as complete only when its blocks have been hashed again.
 * - A file that is open for passthrough, or live, is never evicted.
 * - A live file whose bytes somebody removes, or whose disk is not here any more, is found by what is open of it (live-bytes.ts); its records are where they were. It ends with its last
 *   handle, and is never complete.
 * Failure: a file without a record is removed by the next start, unless somebody has it open: then it is filled again. A live file of
 *   an earlier boot is removed, unless its bytes were promised: then it is what it was as of the kept record, which was synced behind the bytes, and newer.
 * Limits: at most `bytesMax` (local blocks, so holes are free); the least recently opened goes first.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import type { BigIntStats } from 'node:fs';
import { join } from 'node:path';
import { describeError, fromSystemError, isCode } from '../../lib/errors.ts';
import { Descriptors, readUpTo } from './descriptors.ts';
import { isAt } from './file-holder.ts';
import type { FileHolder } from './file-holder.ts';
import { contentKey } from './whole-record.ts';
import type { WholeRecord } from './whole-record.ts';
import { WholeRecords } from './whole-records.ts';
import type { NextBase } from './whole-records.ts';

/** In the folder of a mount. */
export const WHOLE_FOLDER = 'whole';
/** How old what is known of the disk's free space may be. */
const DISK_LOOK_MS = 1000;
const SECTOR_BYTES = 512;

export interface WholeFilesOptions {
  readonly dir: string;
  readonly bytesMax: number;
  /** Kept free on the disk. */
  readonly freeBytesMin: number;
  readonly bootId: string;
  /** Somebody has it open for passthrough. */
  isInUse(ino: number): boolean;
  readonly holder?: FileHolder | undefined;
  report(message: string): void;
}

interface Entry {
  bytes: number;
  /** Of the complete content; undefined while its record was not read. Null: no record, its content is unknown. */
  key: string | null | undefined;
  verified: boolean;
}

export class WholeFiles {
  readonly records: WholeRecords;
  readonly #options: WholeFilesOptions;
  /** In the order of use. */
  readonly #entries = new Map<number, Entry>();
  readonly #live = new Set<number>();
  /** Where the bytes of live files can be opened that are not at their paths any more. */
  readonly #removed: Map<number, string>;
  /** Those of them whose record the disk does not take. */
  readonly #unsaved = new Set<number>();
  readonly #descriptors = new Descriptors();
  #bytes = 0;
  #diskFree = 0;
  #diskSeenMs = -Infinity;

  constructor(options: WholeFilesOptions) {
    this.#options = options;
    this.records = new WholeRecords(options);
    this.#removed = new Map(options.holder?.held);
    mkdirSync(options.dir, { recursive: true, mode: 0o700 });
    for (const folder of readdirSync(options.dir)) this.#adoptFolder(folder);
    for (const ino of this.#removed.keys()) this.#adoptRemoved(ino);
    this.makeRoom(0);
  }

  #adoptFolder(folder: string): void {
    const names = new Set(readdirSync(join(this.#options.dir, folder)));
    const nexts = new Map<number, string>();
    for (const name of names) {
      const [number = '', kind] = name.split('.');
      const path = join(this.#options.dir, folder, name);
      const ino = Number(number);
      if (this.#removed.has(ino)) continue;
      const own = path.startsWith(this.path(ino));
      if (own && kind === undefined) this.#adopt(ino, names);
      else if (!own || kind === 'tmp' || !names.has(number)) rmSync(path, { force: true, recursive: true });
      else if (kind === 'next') nexts.set(ino, path);
    }
    for (const [ino, path] of nexts) this.#adoptNext(ino, path);
  }

  /** What is at its path is of another disk, or nothing; its records are its own. */
  #adoptRemoved(ino: number): void {
    const folder = join(this.place(ino), '..');
    const names = existsSync(folder) ? readdirSync(folder) : [];
    this.#entries.set(ino, { bytes: 0, key: null, verified: false });
    this.#live.add(ino);
    if (this.records.base(ino) === null) this.drop(ino);
    for (const name of names) if (name.startsWith(`${ino}.next.`)) this.#adoptNext(ino, join(folder, name));
  }

  #adoptNext(ino: number, path: string): void {
    if (!this.#live.has(ino) || !this.records.adoptNext(ino, path, statSync(this.path(ino), { bigint: true })))
      rmSync(path, { force: true });
  }

  #adopt(ino: number, names: ReadonlySet<string>): void {
    const complete = names.has(`${ino}.ok`);
    const live = !complete && (names.has(`${ino}.base`) || names.has(`${ino}.kept`));
    if (!live && !complete && !this.#options.isInUse(ino)) {
      rmSync(this.path(ino), { force: true });
      return;
    }
    const bytes = statSync(this.path(ino)).blocks * SECTOR_BYTES;
    this.#entries.set(ino, { bytes, key: complete ? undefined : null, verified: false });
    this.#bytes += bytes;
    if (!live) return;
    this.#live.add(ino);
    if (this.records.base(ino) === null) this.drop(ino);
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Files that programs may have changed since their record was written. */
  get live(): ReadonlySet<number> {
    return this.#live;
  }

  has(ino: number): boolean {
    return this.#entries.has(ino);
  }

  /** Where the bytes can be opened. */
  path(ino: number): string {
    return this.#removed.get(ino) ?? this.place(ino);
  }

  /** Where it belongs, with its records. */
  place(ino: number): string {
    return this.records.place(ino);
  }

  /** Where there is one, it can be opened. */
  isReachable(ino: number): boolean {
    return this.#entries.has(ino) && existsSync(this.path(ino));
  }

  /** The whole content of this key is here, synced, and has been verified since the machine was started. */
  isComplete(ino: number, key: string): boolean {
    const entry = this.#entries.get(ino);
    if (entry === undefined) return false;
    if (entry.key === undefined) this.#load(ino, entry);
    if (entry.key !== key || !entry.verified) return false;
    this.#entries.delete(ino);
    this.#entries.set(ino, entry);
    return true;
  }

  /** Fills the buffer from the whole file of this content; false when it is not here. */
  readSync(ino: number, key: string, from: number, target: Buffer): boolean {
    if (!this.#entries.has(ino) || !this.isComplete(ino, key)) return false;
    try {
      const { fd } = this.#descriptors.get(this.path(ino));
      return readUpTo(fd, target, from) === target.length;
    } catch {
      return false; // The directory was damaged under us: the blocks are fetched.
    }
  }

  #load(ino: number, entry: Entry): void {
    const record = this.records.complete(ino);
    entry.key = record === null ? null : contentKey(record.content);
    entry.verified = record?.bootId === this.#options.bootId;
  }

  /** Its bytes are about to be written: from now on it is not complete. */
  begin(ino: number): void {
    mkdirSync(join(this.path(ino), '..'), { recursive: true, mode: 0o700 });
    this.records.dropComplete(ino);
    const entry = this.#entries.get(ino);
    if (entry === undefined) this.#entries.set(ino, { bytes: 0, key: null, verified: false });
    else entry.key = null;
  }

  /** Its bytes are written and synced. */
  complete(ino: number, record: WholeRecord): void {
    this.records.saveComplete(ino, record);
    this.#settle(ino, contentKey(record.content));
  }

  #settle(ino: number, key: string | null): void {
    const entry = this.#entries.get(ino) ?? { bytes: 0, key, verified: true };
    const bytes = statSync(this.path(ino)).blocks * SECTOR_BYTES;
    this.#bytes += bytes - entry.bytes;
    entry.bytes = bytes;
    entry.key = key;
    entry.verified = true;
    this.#entries.delete(ino);
    this.#entries.set(ino, entry);
  }

  /** Somebody has removed the bytes of the live file, or their disk, and that is known. */
  isRemoved(ino: number): boolean {
    return this.#removed.has(ino);
  }

  /**
   * Whether its bytes, which are open here, are at their path no more, or its record: then they are found by the descriptor from here on, and the record, `base`, is
   * put back.
   */
  lookFor(ino: number, fd: number, base: WholeRecord): boolean {
    if (!this.#removed.has(ino)) {
      // Of one that has ended, the descriptor may be another file's by now.
      if (!this.#live.has(ino) || isAt(this.place(ino), fd)) return false;
      this.#options.holder?.hold(ino, fd);
      this.#removed.set(ino, `/proc/self/fd/${fd}`);
    } else if (!this.#unsaved.has(ino) && this.records.hasBase(ino)) return false;
    this.#saving(ino, () => this.records.saveBase(ino, base));
    return true;
  }

  /** Where a removed file belongs there may be nothing that takes its record: that is no reason to commit nothing, is told once, and tried again at each look. */
  #saving(ino: number, save: () => void): void {
    try {
      save();
      this.#unsaved.delete(ino);
    } catch (error) {
      if (!this.#removed.has(ino)) throw error;
      if (!this.#unsaved.has(ino))
        this.#options.report(`the next worker will not know inode ${ino}: ${describeError(error)}`);
      this.#unsaved.add(ino);
    }
  }

  /** A complete file becomes a live one. Throws Node's errors. */
  enliven(ino: number): void {
    this.records.enliven(ino);
    this.#live.add(ino);
    const entry = this.#entries.get(ino);
    if (entry !== undefined) entry.key = null;
  }

  /** A new live file with this content. Throws Node's errors. */
  createLive(ino: number, bytes: Uint8Array, record: (mtimeNs: bigint) => WholeRecord): void {
    mkdirSync(join(this.path(ino), '..'), { recursive: true, mode: 0o700 });
    this.drop(ino);
    writeFileSync(this.path(ino), bytes, { mode: 0o600 });
    this.records.saveBase(ino, record(statSync(this.path(ino), { bigint: true }).mtimeNs));
    this.#live.add(ino);
    this.#entries.set(ino, { bytes: 0, key: null, verified: true });
  }

  /** Before a commit. A full disk does not keep what is written here from where there is room, nor any a removed file: then there is none. */
  saveNext(ino: number, next: NextBase, backingFile: BigIntStats): void {
    try {
      this.records.saveNext(ino, next, backingFile);
    } catch (error) {
      if (!this.#removed.has(ino) && !isCode(fromSystemError(error, this.place(ino)), 'full')) throw error;
    }
  }

  /** That commit is made: the live file as of it. */
  takeNext(ino: number, record: WholeRecord): void {
    this.#saving(ino, () => this.records.takeNext(ino, record));
  }

  /** Nobody writes a live file any more, its bytes are synced, and its base says what they are: it is complete again. */
  calm(ino: number, record: WholeRecord): void {
    assert(!this.#removed.has(ino), `inode ${ino} was removed: nobody would find it`);
    this.records.calm(ino, record);
    this.#live.delete(ino);
    this.#settle(ino, contentKey(record.content));
  }

  drop(ino: number): void {
    this.#live.delete(ino);
    try {
      this.#dropFiles(ino);
    } finally {
      // Its descriptor is another file's the next moment.
      this.#unsaved.delete(ino);
      if (this.#removed.delete(ino)) this.#options.holder?.letGo(ino);
    }
  }

  #dropFiles(ino: number): void {
    const entry = this.#entries.get(ino);
    if (entry === undefined) return;
    this.#entries.delete(ino);
    this.#bytes -= entry.bytes;
    this.#descriptors.close(this.place(ino));
    // The bytes first: with one of its records they would be compared with an older content than the last.
    rmSync(this.place(ino), { force: true });
    this.records.drop(ino);
  }

  /** `bytes` more fit into the cache and leave the disk its reserve. */
  hasRoom(bytes: number): boolean {
    const nowMs = performance.now();
    if (nowMs - this.#diskSeenMs > DISK_LOOK_MS) {
      this.#diskFree = this.#lookAtDisk();
      this.#diskSeenMs = nowMs;
    }
    return this.#diskFree - bytes >= this.#options.freeBytesMin && this.makeRoom(bytes);
  }

  /** Free bytes: none where somebody has removed the folder, or its disk, and what is there takes no other. */
  #lookAtDisk(): number {
    try {
      mkdirSync(this.#options.dir, { recursive: true, mode: 0o700 });
      const { bavail, bsize } = statfsSync(this.#options.dir);
      return bavail * bsize;
    } catch {
      return 0; // Who watches the cache directory reports it (staging-watch.ts).
    }
  }

  /** Evicts until `bytes` more fit; false when what is in use does not leave the room. */
  makeRoom(bytes: number): boolean {
    while (this.#bytes + bytes > this.#options.bytesMax) if (!this.giveWay()) return false;
    return true;
  }

  /** Evicts the file that was opened longest ago; false when all that there are are in use. */
  giveWay(): boolean {
    for (const [ino, entry] of this.#entries) {
      // Without a record and not in use: it is being filled.
      if (entry.key === null || this.#live.has(ino) || this.#options.isInUse(ino)) continue;
      this.drop(ino);
      return true;
    }
    return false;
  }

  /** What is read behind that is opened anew. */
  close(): void {
    this.#descriptors.closeAll();
  }
}
