/**
 * Files that are whole on this node: one local file each, which the kernel reads (and in mode `full` writes) by itself.
 *
 *   <dir>/<2 hex>/<ino>        the bytes, exactly as long as the file
 *   <dir>/<2 hex>/<ino>.ok     the record (whole-record.ts) of a *complete* file: nobody changes it
 *   <dir>/<2 hex>/<ino>.base   instead: the record as of the last flush of a *live* file, which programs may be changing
 *   <dir>/<2 hex>/<ino>.next.<id>.<file>  beside it, while a flush is being committed under this id: the record as of that flush, of the backing file
 *                              with this local inode and time of birth
 *   <dir>/<2 hex>/<ino>.kept   beside it: one that survives a power cut, of a live file whose bytes were promised (`-o writeback`)
 *   <dir>/<2 hex>/<ino>.tmp…   a record that is being written
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
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import type { BigIntStats } from 'node:fs';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describeError, fromSystemError, isCode, systemCode } from '../../lib/errors.ts';
import { Descriptors, readUpTo } from './descriptors.ts';
import { isAt } from './file-holder.ts';
import type { FileHolder } from './file-holder.ts';
import { contentKey, decodeWhole, encodeWhole } from './whole-record.ts';
import type { WholeRecord } from './whole-record.ts';

/** In the folder of a mount. */
export const WHOLE_FOLDER = 'whole';
const FOLDERS = 256;
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

/** The record of a live file as of a flush that is committed under this id. */
export interface NextBase {
  readonly id: bigint;
  readonly record: WholeRecord;
}

interface Entry {
  bytes: number;
  /** Of the complete content; undefined while its record was not read. Null: no record, its content is unknown. */
  key: string | null | undefined;
  verified: boolean;
}

export class WholeFiles {
  readonly #options: WholeFilesOptions;
  /** In the order of use. */
  readonly #entries = new Map<number, Entry>();
  readonly #live = new Set<number>();
  /** The next records that there are. */
  readonly #nexts = new Map<number, { readonly id: bigint; readonly path: string }>();
  /** Where the bytes of live files can be opened that are not at their paths any more. */
  readonly #removed: Map<number, string>;
  /** Those of them whose record the disk does not take. */
  readonly #unsaved = new Set<number>();
  readonly #descriptors = new Descriptors();
  #bytes = 0;
  #keeps = 0;
  #diskFree = 0;
  #diskSeenMs = -Infinity;

  constructor(options: WholeFilesOptions) {
    this.#options = options;
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
    if (this.base(ino) === null) this.drop(ino);
    for (const name of names) if (name.startsWith(`${ino}.next.`)) this.#adoptNext(ino, join(folder, name));
  }

  #adoptNext(ino: number, path: string): void {
    const id = BigInt(/\.next\.(\d+)\./.exec(path)?.[1] ?? 0);
    // One of a former backing file says nothing of this one.
    if (this.#live.has(ino) && path === this.#nextPath(ino, id, statSync(this.path(ino), { bigint: true })))
      this.#nexts.set(ino, { id, path });
    else rmSync(path, { force: true });
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
    if (this.base(ino) === null) this.drop(ino);
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
    return join(this.#options.dir, (ino % FOLDERS).toString(16).padStart(2, '0'), String(ino));
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
    const record = this.record(ino);
    entry.key = record === null ? null : contentKey(record.content);
    entry.verified = record?.bootId === this.#options.bootId;
  }

  /** The record of a complete file; null where there is none that can be read. */
  record(ino: number): WholeRecord | null {
    return this.#read(`${this.place(ino)}.ok`);
  }

  /** What a live file is compared with: as of this boot, or else as it was kept. */
  base(ino: number): WholeRecord | null {
    const base = this.#read(`${this.place(ino)}.base`);
    return base?.bootId === this.#options.bootId ? base : this.#read(`${this.place(ino)}.kept`);
  }

  #read(path: string): WholeRecord | null {
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch {
      return null;
    }
    try {
      return decodeWhole(bytes, path);
    } catch (error) {
      this.#options.report(describeError(error));
      return null;
    }
  }

  /** Its bytes are about to be written: from now on it is not complete. */
  begin(ino: number): void {
    mkdirSync(join(this.path(ino), '..'), { recursive: true, mode: 0o700 });
    rmSync(`${this.place(ino)}.ok`, { force: true });
    const entry = this.#entries.get(ino);
    if (entry === undefined) this.#entries.set(ino, { bytes: 0, key: null, verified: false });
    else entry.key = null;
  }

  /** Its bytes are written and synced. */
  complete(ino: number, record: WholeRecord): void {
    this.#write(`${this.place(ino)}.ok`, ino, record);
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

  #write(path: string, ino: number, record: WholeRecord): void {
    const temporary = `${this.place(ino)}.tmp`;
    const write = (): void => {
      writeFileSync(temporary, encodeWhole(record), { mode: 0o600 });
      renameSync(temporary, path);
    };
    try {
      write();
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
      // Somebody has removed the folder.
      mkdirSync(join(path, '..'), { recursive: true, mode: 0o700 });
      write();
    }
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
    } else if (!this.#unsaved.has(ino) && existsSync(`${this.place(ino)}.base`)) return false;
    this.#saving(ino, () => this.saveBase(ino, base));
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
    renameSync(`${this.place(ino)}.ok`, `${this.place(ino)}.base`);
    this.#live.add(ino);
    const entry = this.#entries.get(ino);
    if (entry !== undefined) entry.key = null;
  }

  /** A new live file with this content. Throws Node's errors. */
  createLive(ino: number, bytes: Uint8Array, record: (mtimeNs: bigint) => WholeRecord): void {
    mkdirSync(join(this.path(ino), '..'), { recursive: true, mode: 0o700 });
    this.drop(ino);
    writeFileSync(this.path(ino), bytes, { mode: 0o600 });
    this.saveBase(ino, record(statSync(this.path(ino), { bigint: true }).mtimeNs));
    this.#live.add(ino);
    this.#entries.set(ino, { bytes: 0, key: null, verified: true });
  }

  /** The live file as of a flush that was committed. */
  saveBase(ino: number, record: WholeRecord): void {
    this.#write(`${this.place(ino)}.base`, ino, { ...record, bootId: this.#options.bootId });
  }

  /** Before that commit. A full disk does not keep what is written here from where there is room, nor any a removed file: then there is none. */
  saveNext(ino: number, { id, record }: NextBase, backingFile: BigIntStats): void {
    const path = this.#nextPath(ino, id, backingFile);
    try {
      this.dropNext(ino);
      this.#write(path, ino, { ...record, bootId: this.#options.bootId });
      this.#nexts.set(ino, { id, path });
    } catch (error) {
      if (!this.#removed.has(ino) && !isCode(fromSystemError(error, path), 'full')) throw error;
    }
  }

  /** That commit is made: the live file as of it. */
  takeNext(ino: number, record: WholeRecord): void {
    const next = this.#nexts.get(ino);
    this.#nexts.delete(ino);
    this.#saving(ino, () => {
      if (next === undefined || !this.#take(next.path, `${this.place(ino)}.base`)) this.saveBase(ino, record);
    });
  }

  /** False: somebody has removed it. */
  #take(path: string, to: string): boolean {
    try {
      renameSync(path, to);
      return true;
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
      return false;
    }
  }

  /** Of a flush that the worker before this one did not live to hear of. */
  next(ino: number): NextBase | undefined {
    const next = this.#nexts.get(ino);
    if (next === undefined) return undefined;
    const record = this.#read(next.path);
    if (record?.bootId === this.#options.bootId) return { id: next.id, record };
    this.dropNext(ino);
    return undefined;
  }

  /** It was not committed. */
  dropNext(ino: number): void {
    const next = this.#nexts.get(ino);
    if (next === undefined) return;
    this.#nexts.delete(ino);
    rmSync(next.path, { force: true });
  }

  #nextPath(ino: number, id: bigint, { ino: file, birthtimeNs }: BigIntStats): string {
    return `${this.place(ino)}.next.${id}.${file}-${birthtimeNs}`;
  }

  isKept(ino: number): boolean {
    return existsSync(`${this.place(ino)}.kept`);
  }

  /** The same for bytes that are synced: it survives a power cut when this resolves, unless the file is not live any more (`isWanted`). */
  async keepBase(ino: number, record: WholeRecord, isWanted: () => boolean): Promise<void> {
    // The file may become live anew while the record of its last life is being written.
    const temporary = `${this.place(ino)}.tmp.${this.#keeps++}`;
    try {
      await writeFile(temporary, encodeWhole(record), { mode: 0o600, flush: true });
      if (!isWanted()) return;
      renameSync(temporary, `${this.place(ino)}.kept`);
    } finally {
      rmSync(temporary, { force: true });
    }
    const folder = await open(join(temporary, '..'), 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }

  /** Nobody writes a live file any more, its bytes are synced, and its base says what they are: it is complete again. */
  calm(ino: number, record: WholeRecord): void {
    assert(!this.#removed.has(ino), `inode ${ino} was removed: nobody would find it`);
    this.dropNext(ino);
    this.saveBase(ino, record);
    // All of it is committed: a power cut from here on loses nothing with it.
    rmSync(`${this.place(ino)}.kept`, { force: true });
    renameSync(`${this.place(ino)}.base`, `${this.place(ino)}.ok`);
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
    for (const suffix of ['', '.ok', '.base', '.kept']) rmSync(`${this.place(ino)}${suffix}`, { force: true });
    this.dropNext(ino);
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
