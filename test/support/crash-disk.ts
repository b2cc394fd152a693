/**
 * A disk whose power can be cut at any moment, for code that writes by node:fs: every change below a folder is written down, and what a sync did not cover
 * may be on the disk or not, each write and each name by itself and in any combination (the model of ALICE, Pillai et al., OSDI '14).
 *
 * Import it before the code under test, which binds the functions of node:fs.
 *
 * Invariants
 * - A sync of a file covers its bytes as of the call, from its end on; names in a folder need a sync of the folder.
 * - Of one write the first or the second half may be on the disk, too.
 * - What stays is applied in the order in which it was done. Bytes behind a truncate that is lost are lost, too: a file system changes the extents of one inode in order.
 * - No sync is made while it is watched; one of the folder that does not block ends when the test says so (`endSync`).
 */
import fs from 'node:fs';
import promises from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { basename, dirname, join, relative } from 'node:path';

type Change =
  | { readonly kind: 'bytes'; readonly file: number; readonly offset: number; readonly bytes: Buffer }
  | { readonly kind: 'cut'; readonly file: number; readonly length: number }
  | {
      readonly kind: 'name';
      readonly path: string;
      readonly from: string | undefined;
      readonly file: number | undefined;
    };

/** Which of the changes that no sync covered stay. */
export type Keeps = (change: string, index: number) => boolean;

export interface CrashDisk {
  /** Of the changes that no sync covered: what they are, in order. */
  readonly unsynced: readonly string[];
  /** As long as it is, only blocks that have bytes already take some (ENOSPC). */
  isFull: boolean;
  /** Of the syncs under way the one that began first ends; false when there is none. */
  endSync(): boolean;
  /** What the disk has when the power is cut now, as a folder. */
  cut(folder: string, keeps: Keeps): void;
  stop(): void;
}

const BLOCK = 4096;
const real = { ...fs };
const realOpen = promises.open;
let disk: Disk | undefined;

class Disk implements CrashDisk {
  readonly #root: string;
  /** As programs see it. */
  readonly #files = new Map<string, number>();
  readonly #open = new Map<number, { readonly file: number; readonly path: string; readonly appends: boolean }>();
  readonly #lengths = new Map<number, number>();
  /** Of each file: the blocks that have bytes. */
  readonly #blocks = new Map<number, Set<number>>();
  readonly #synced: Change[] = [];
  #pending: Change[] = [];
  readonly #syncs: (() => void)[] = [];
  readonly #before: Disk | undefined;
  isFull = false;
  #count = 0;

  /** `before`: watched again behind this one. */
  constructor(root: string, before: Disk | undefined) {
    this.#root = root;
    this.#before = before;
    for (const entry of real.readdirSync(root, { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) this.#found(join(entry.parentPath, entry.name));
    }
  }

  /** An earlier cut has left it. */
  #found(path: string): void {
    const bytes = real.readFileSync(path);
    const file = this.#count++;
    this.#files.set(path, file);
    this.#lengths.set(file, bytes.length);
    this.#synced.push({ kind: 'name', path, from: undefined, file }, { kind: 'bytes', file, offset: 0, bytes });
  }

  get unsynced(): readonly string[] {
    return this.#pending.map((change) => this.#describe(change));
  }

  #describe(change: Change): string {
    if (change.kind !== 'name') return `${change.kind} of file ${change.file}`;
    const name = relative(this.#root, change.path);
    if (change.from !== undefined) return `rename ${basename(change.from)} to ${name}`;
    return `${change.file === undefined ? 'remove' : 'create'} ${name}`;
  }

  holds(path: string): boolean {
    return path.startsWith(`${this.#root}/`) || path === this.#root;
  }

  opened(fd: number, path: string, appends: boolean, truncates: boolean): void {
    let file = this.#files.get(path);
    if (file === undefined && !real.fstatSync(fd).isDirectory()) {
      file = this.#count++;
      this.#files.set(path, file);
      this.#lengths.set(file, 0);
      this.#pending.push({ kind: 'name', path, from: undefined, file });
    } else if (file !== undefined && truncates) this.truncated(file, 0);
    this.#open.set(fd, { file: file ?? -1, path, appends });
  }

  isOpen(fd: number): boolean {
    return this.#open.has(fd);
  }

  closed(fd: number): void {
    this.#open.delete(fd);
  }

  #place(fd: number, position: number | null | undefined): { readonly file: number; readonly offset: number } {
    const { file, appends } = this.#of(fd);
    const offset = appends || typeof position !== 'number' ? (this.#lengths.get(file) ?? 0) : position;
    return { file, offset };
  }

  /** Throws ENOSPC. */
  writing(fd: number, bytes: number, position: number | null | undefined): void {
    if (!this.isFull) return;
    const { file, offset } = this.#place(fd, position);
    for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + bytes; block++) {
      if (this.#blocks.get(file)?.has(block) === true) continue;
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' });
    }
  }

  wrote(fd: number, bytes: Buffer, position: number | null | undefined): void {
    const { file, offset } = this.#place(fd, position);
    const length = this.#lengths.get(file) ?? 0;
    const blocks = this.#blocks.get(file) ?? new Set();
    for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + bytes.length; block++) blocks.add(block);
    this.#blocks.set(file, blocks);
    this.#lengths.set(file, Math.max(length, offset + bytes.length));
    const copy = Buffer.from(bytes);
    const half = bytes.length >> 1;
    if (half > 0) this.#pending.push({ kind: 'bytes', file, offset, bytes: copy.subarray(0, half) });
    this.#pending.push({ kind: 'bytes', file, offset: offset + half, bytes: copy.subarray(half) });
  }

  #of(fd: number): { readonly file: number; readonly path: string; readonly appends: boolean } {
    const open = this.#open.get(fd);
    if (open === undefined) throw new Error(`descriptor ${fd} was opened in a way that the crash disk does not see`);
    return open;
  }

  fileOf(fd: number): number {
    return this.#of(fd).file;
  }

  truncated(file: number, length: number): void {
    this.#lengths.set(file, length);
    const blocks = this.#blocks.get(file) ?? new Set();
    for (const block of blocks) if (block * BLOCK >= length) blocks.delete(block);
    this.#pending.push({ kind: 'cut', file, length });
  }

  renamed(from: string, path: string): void {
    const file = this.#files.get(from);
    if (file === undefined) throw new Error(`${from} is renamed, which the crash disk does not know`);
    this.#files.delete(from);
    this.#files.set(path, file);
    this.#pending.push({ kind: 'name', path, from, file });
  }

  removed(path: string): void {
    if (!this.#files.delete(path)) return;
    this.#pending.push({ kind: 'name', path, from: undefined, file: undefined });
  }

  /** Returns what is to be called when the sync has ended. */
  #begin(fd: number): () => void {
    const { file, path } = this.#of(fd);
    const covers = (change: Change): boolean =>
      change.kind === 'name' ? file === -1 && dirname(change.path) === path : change.file === file;
    const covered = new Set(this.#pending.filter((change) => covers(change)));
    return () => {
      this.#synced.push(...this.#pending.filter((change) => covered.has(change)));
      this.#pending = this.#pending.filter((change) => !covered.has(change));
    };
  }

  syncNow(fd: number): void {
    this.#begin(fd)();
  }

  sync(fd: number, done: () => void): void {
    const end = this.#begin(fd);
    this.#syncs.push(() => {
      end();
      done();
    });
  }

  endSync(): boolean {
    const end = this.#syncs.shift();
    end?.();
    return end !== undefined;
  }

  cut(folder: string, keeps: Keeps): void {
    const names = new Map<string, number>();
    const contents = new Map<number, Change[]>();
    const kept = this.#pending.filter((change, index) => keeps(this.#describe(change), index));
    const lost = new Set(this.#pending.filter((change) => change.kind === 'cut' && !kept.includes(change)));
    const torn = new Set<number>();
    for (const change of [...this.#synced, ...this.#pending]) {
      if (lost.has(change) && change.kind === 'cut') torn.add(change.file);
      const isPending = this.#pending.includes(change);
      if (isPending && !kept.includes(change)) continue;
      if (change.kind === 'name') {
        if (change.from !== undefined) names.delete(change.from);
        if (change.file === undefined) names.delete(change.path);
        else names.set(change.path, change.file);
      } else if (!torn.has(change.file)) {
        const changes = contents.get(change.file) ?? [];
        changes.push(change);
        contents.set(change.file, changes);
      }
    }
    for (const [path, file] of names) this.#lay(join(folder, relative(this.#root, path)), contents.get(file) ?? []);
  }

  #lay(path: string, changes: readonly Change[]): void {
    real.mkdirSync(dirname(path), { recursive: true });
    const fd = real.openSync(path, 'w', 0o600);
    for (const change of changes) {
      if (change.kind === 'bytes') real.writeSync(fd, change.bytes, 0, change.bytes.length, change.offset);
      else if (change.kind === 'cut') real.ftruncateSync(fd, change.length);
    }
    real.closeSync(fd);
  }

  stop(): void {
    disk = this.#before;
  }
}

function pathOf(path: fs.PathLike): string {
  return path instanceof URL ? path.pathname : path.toString();
}

/** What `write` and `openSync` take, as far as the code under test uses it. */
function bytesOf(data: NodeJS.ArrayBufferView, offset = 0, length = data.byteLength - offset): Buffer {
  return Buffer.from(data.buffer, data.byteOffset + offset, length);
}

function flagsOf(flags: fs.OpenMode | undefined): { readonly appends: boolean; readonly truncates: boolean } {
  if (typeof flags === 'string') return { appends: flags.startsWith('a'), truncates: flags.startsWith('w') };
  const bits = flags ?? 0;
  return { appends: (bits & real.constants.O_APPEND) !== 0, truncates: (bits & real.constants.O_TRUNC) !== 0 };
}

const seen: Pick<
  typeof fs,
  | 'openSync'
  | 'closeSync'
  | 'ftruncateSync'
  | 'writevSync'
  | 'fsyncSync'
  | 'fdatasyncSync'
  | 'renameSync'
  | 'rmSync'
  | 'writeFileSync'
> = {
  openSync(path, flags, mode) {
    const fd = real.openSync(path, flags, mode);
    const { appends, truncates } = flagsOf(flags);
    if (disk?.holds(pathOf(path)) === true) disk.opened(fd, pathOf(path), appends, truncates);
    return fd;
  },
  closeSync(fd) {
    disk?.closed(fd);
    real.closeSync(fd);
  },
  ftruncateSync(fd, length) {
    real.ftruncateSync(fd, length);
    if (disk?.isOpen(fd) === true) disk.truncated(disk.fileOf(fd), length ?? 0);
  },
  writevSync(fd, buffers, position) {
    const bytes = buffers.reduce((sum, part) => sum + part.byteLength, 0);
    if (disk?.isOpen(fd) === true) disk.writing(fd, bytes, position);
    const written = real.writevSync(fd, buffers, position);
    if (disk?.isOpen(fd) === true) disk.wrote(fd, Buffer.concat(buffers.map((part) => bytesOf(part))), position);
    return written;
  },
  fsyncSync(fd) {
    if (disk?.isOpen(fd) === true) disk.syncNow(fd);
    else if (disk === undefined) real.fsyncSync(fd);
  },
  fdatasyncSync(fd) {
    if (disk?.isOpen(fd) === true) disk.syncNow(fd);
    else if (disk === undefined) real.fdatasyncSync(fd);
  },
  renameSync(from, to) {
    real.renameSync(from, to);
    if (disk?.holds(pathOf(to)) === true) disk.renamed(pathOf(from), pathOf(to));
  },
  rmSync(path, options) {
    real.rmSync(path, options);
    if (disk?.holds(pathOf(path)) === true) disk.removed(pathOf(path));
  },
  writeFileSync(path, data, options) {
    real.writeFileSync(path, data, options);
    if (typeof path === 'number' || disk?.holds(pathOf(path)) !== true) return;
    const fd = real.openSync(path, 'r');
    disk.opened(fd, pathOf(path), false, true);
    disk.wrote(fd, typeof data === 'string' ? Buffer.from(data) : bytesOf(data), 0);
    disk.closed(fd);
    real.closeSync(fd);
  },
};

/** Only what takes a part of a buffer. */
function writeSync(fd: number, data: NodeJS.ArrayBufferView, offset = 0, length?: number, position?: number): number {
  if (disk?.isOpen(fd) === true) disk.writing(fd, length ?? data.byteLength - offset, position);
  const written = real.writeSync(fd, data, offset, length, position);
  if (disk?.isOpen(fd) === true) disk.wrote(fd, bytesOf(data, offset, written), position);
  return written;
}

function fdatasync(fd: number, done: fs.NoParamCallback): void {
  if (disk?.isOpen(fd) === true) disk.sync(fd, () => done(null));
  else if (disk === undefined) real.fdatasync(fd, done);
  else setImmediate(done, null);
}

/** Its steps take no time, so that a test is the same each time. */
async function open(path: fs.PathLike, flags?: string | number, mode?: fs.Mode): Promise<Partial<FileHandle>> {
  if (disk?.holds(pathOf(path)) !== true) return realOpen(path, flags, mode);
  const fd = seen.openSync(path, flags ?? 'r', mode);
  const sync = (): Promise<void> => new Promise((resolve) => disk?.sync(fd, resolve));
  return { fd, sync, datasync: sync, close: async () => seen.closeSync(fd) };
}

Object.assign(fs, seen, { writeSync, fdatasync });
Object.assign(promises, { open });
syncBuiltinESMExports();

/** Everything below `folder` from now on until `stop`; what is there is synced. Another one is watched meanwhile, and no more until then. */
export function crashDisk(folder: string): CrashDisk {
  real.mkdirSync(folder, { recursive: true });
  disk = new Disk(folder, disk);
  return disk;
}
