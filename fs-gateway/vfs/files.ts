/**
 * Open files and their content: reads from committed content with what is staged on top, writes into the staging area, flushes when
 * much is staged (and, by flushes.ts, at close and fsync).
 *
 * Invariants
 * - An inode is enough to serve a handle: a handle of a previous worker works like one of ours.
 * - A file that is removed while it is open stays readable and writable until its last close.
 * Limits: `stagedMax` bytes staged in all before writers wait (staged-bound.ts), STAGED_FILE_SHARE of them per file before it is flushed in the background.
 */
import type { Extent } from '../../lib/volume/extents.ts';
import { FILE_BYTES_MAX, INODE_IMMUTABLE, isDirectory, isRegular } from '../../lib/volume/inode.ts';
import { ReadAhead } from '../data/read-ahead.ts';
import type { StagedFile } from '../data/staged-file.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Node } from '../meta/cache.ts';
import { nodeOrThrow, refuseFrozen } from './context.ts';
import type { Context } from './context.ts';
import { admit } from './space.ts';
import type { Uncommitted } from './attributes.ts';
import type { DirectWrites } from './direct-writes.ts';
import type { EarlyUploads } from './early-uploads.ts';
import type { Flusher } from './flusher.ts';
import type { FreshOpens } from './fresh-opens.ts';
import type { Flushes } from './flushes.ts';
import type { Made, Namespace } from './namespace.ts';
import { Errno, PosixError } from './operations.ts';
import type { Caller, OpenResult, Result } from './operations.ts';
import type { Opened, Passthrough } from './passthrough.ts';
import { withoutSuidGid } from './ownership.ts';
import type { Orphans } from './orphans.ts';
import { StagedBound } from './staged-bound.ts';
import { seekFile } from './seek.ts';
import { copyRange } from './share-extents.ts';
import type { CopyEnd } from './share-extents.ts';

const O_ACCMODE = 3;
const O_EXCL = 0o200;
const O_TRUNC = 0o1000;
/**
 * Of what may be staged in all. With `writeback` that is the cache: the store then takes no CPU and disk from a program that writes. A file of less is
 * uploaded when it is closed or synced, however often a program writes over it meanwhile.
 */
const STAGED_FILE_SHARE = 1 / 4;
const HANDLES_MAX = 65_536;
/** So often a read begins again because the file changed under it; a file that changes faster is read as of some moment of the read. */
const READ_ATTEMPTS_MAX = 16;
/** So often a read waits for pieces that it may then see without a copy. */
const LOOKS_MAX = 2;
const EMPTY = Buffer.alloc(0);

/** A write to a file. */
export interface FileWrite {
  readonly offset: number;
  readonly data: Buffer;
  /** The id of the request, when it appends: the offset is then only where the kernel takes the end to be. */
  readonly append?: string | undefined;
  readonly killSuidGid: boolean;
}

export interface FilesParts {
  readonly context: Context;
  readonly namespace: Namespace;
  readonly flusher: Flusher;
  readonly orphans: Orphans;
  readonly passthrough: Passthrough;
  readonly flushes: Flushes;
  readonly earlyUploads: EarlyUploads;
  readonly freshOpens: FreshOpens;
  readonly directWrites: DirectWrites;
  /** Bytes staged in all before writers wait for the store. */
  readonly stagedMax: number;
  /** Commits what is staged of a file, in its turn. */
  commit(ino: number): Result<void>;
}

export class Files {
  readonly #context: Context;
  readonly #namespace: Namespace;
  readonly #flusher: Flusher;
  readonly #orphans: Orphans;
  readonly #passthrough: Passthrough;
  readonly #flushes: Flushes;
  readonly #earlyUploads: EarlyUploads;
  readonly #freshOpens: FreshOpens;
  readonly #directWrites: DirectWrites;
  readonly #stagedMax: number;
  readonly #bound: StagedBound;
  readonly #readAheads = new BoundedMap<bigint, ReadAhead>(HANDLES_MAX);

  constructor(parts: FilesParts) {
    const { context, namespace, flusher, orphans, passthrough, flushes, earlyUploads, freshOpens, stagedMax } = parts;
    this.#context = context;
    this.#namespace = namespace;
    this.#flusher = flusher;
    this.#orphans = orphans;
    this.#passthrough = passthrough;
    this.#flushes = flushes;
    this.#earlyUploads = earlyUploads;
    this.#freshOpens = freshOpens;
    this.#directWrites = parts.directWrites;
    this.#stagedMax = stagedMax;
    this.#bound = new StagedBound({ context, bytesMax: stagedMax, commit: (ino) => parts.commit(ino) });
  }

  isWritten(ino: number): boolean {
    return this.#context.staging.get(ino) !== undefined;
  }

  /** The kernel may be writing it: its size and times are true only for the moment. */
  isLive(ino: number): boolean {
    return this.#context.staging.get(ino)?.selfKept === true;
  }

  uncommitted(ino: number): Uncommitted | undefined {
    const file = this.#context.staging.get(ino);
    file?.look();
    return file;
  }

  /** utimensat sets another mtime: what is written until now leaves it, also a flush under way that commits behind it. */
  keepMtime(ino: number): void {
    const { staging, time } = this.#context;
    const file = staging.get(ino);
    if (file !== undefined) staging.keepMtime(file, time.nowNs());
  }

  open(caller: Caller, ino: number, flags: number): Result<OpenResult> {
    return this.#orTakeBack(caller, ino, () => {
      const node = this.#freshOpens.node(caller, ino);
      if (node instanceof Promise) return node.then((read) => this.#open(caller, read, flags));
      return this.#open(caller, node, flags);
    });
  }

  #open(caller: Caller, node: Node, flags: number): Result<OpenResult> {
    const writes = isForWriting(flags);
    if (isDirectory(node.inode) && writes) throw new PosixError(Errno.EISDIR, `inode ${node.ino} is a directory`);
    if (writes) refuseFrozen(node);
    if (writes && (node.inode.flags & INODE_IMMUTABLE) !== 0) {
      throw new PosixError(Errno.EPERM, `inode ${node.ino} belongs to a table of the lake`);
    }
    return this.#opened(caller, node, flags);
  }

  /** Makes a handle; cuts the file first where open(2) asks for it. */
  opened(caller: Caller, node: Node, flags: number): Result<OpenResult> {
    return this.#orTakeBack(caller, node.ino, () => this.#opened(caller, node, flags));
  }

  #opened({ operation }: Caller, node: Node, flags: number): Result<OpenResult> {
    const writes = isForWriting(flags);
    const opened = this.#passthrough.open(node, flags, writes, operation);
    if (opened instanceof Promise) return opened.then((later) => this.#handle(node, flags, later));
    return this.#handle(node, flags, opened);
  }

  /** An open that fails is not counted, also where the worker before this one has counted it. */
  #orTakeBack({ operation }: Caller, ino: number, open: () => Result<OpenResult>): Result<OpenResult> {
    const refuse = (error: unknown): never => {
      this.#flushes.takeBack(ino, operation);
      throw error;
    };
    try {
      const opened = open();
      return opened instanceof Promise ? opened.catch(refuse) : opened;
    } catch (error) {
      return refuse(error);
    }
  }

  #handle(node: Node, flags: number, opened: Opened | null): Result<OpenResult> {
    // It is counted: from here on it stays. It may have been unlinked a moment ago, though, and its removal have begun before.
    const removal = node.inode.nlink === 0 ? this.#orphans.removal(node.ino) : undefined;
    if (removal === undefined) return this.#present(node, flags, opened);
    return removal
      .then(() => nodeOrThrow(this.#context.view, node.ino))
      .then((now) => this.#present(now, flags, opened));
  }

  #present(node: Node, flags: number, opened: Opened | null): OpenResult {
    if (node.inode.nlink === 0) this.#orphans.inodeChanged(node.ino); // by its descriptor in /proc, or unlinked at this moment
    if ((flags & O_TRUNC) !== 0) this.#truncateStaged(node, 0);
    if ((flags & O_ACCMODE) !== 0) this.#earlyUploads.watch(node.ino);
    const handle = this.#context.handles.next();
    this.#directWrites.opened(node.ino, handle, flags);
    if (opened !== null) return { handle, ...opened };
    return { handle, keepCache: this.#flushes.keepsPages(node) };
  }

  async create(
    caller: Caller,
    parent: number,
    name: string,
    mode: number,
    flags: number,
    umask: number,
  ): Promise<Made> {
    // Else an empty file would stay of each try.
    if (isForWriting(flags)) this.#context.staging.expectWritable();
    try {
      return await this.#namespace.make(caller, parent, name, mode, umask);
    } catch (error) {
      if (!(error instanceof PosixError) || error.errno !== Errno.EEXIST || (flags & O_EXCL) !== 0) throw error;
    }
    // Another client made it between the kernel's lookup and now: open(2) without O_EXCL opens that one.
    this.#context.view.forgetEntry(parent, name);
    const node = await this.#namespace.lookup(parent, name);
    if (node === null) throw new PosixError(Errno.ENOENT, `'${name}' was removed at once`);
    if (!isRegular(node.inode)) throw new PosixError(Errno.EEXIST, `'${name}' exists`);
    return { node: await this.#freshOpens.looked(node.ino), again: false, gone: false };
  }

  read(ino: number, handle: bigint, offset: number, size: number): Result<Buffer> {
    const node = nodeOrThrow(this.#context.view, ino);
    if (node instanceof Promise) return node.then((read) => this.#read(read, handle, offset, size));
    return this.#read(node, handle, offset, size);
  }

  #read(node: Node, handle: bigint, offset: number, size: number, attempt = 0): Result<Buffer> {
    const staged = this.#context.staging.get(node.ino);
    const fileSize = staged?.size ?? node.inode.size;
    const end = Math.min(offset + size, fileSize);
    if (end <= offset) return EMPTY;
    if (staged?.covers(offset, end) === true) {
      const target = Buffer.allocUnsafe(end - offset);
      staged.overlay(offset, target);
      return target;
    }
    if (attempt === 0) {
      this.#passthrough.wasRead(node, end - offset);
      this.#readAhead(node, handle, offset, end);
    }
    const found = staged === undefined ? this.#flusher.lookCommitted(node, offset, end) : undefined;
    if (Buffer.isBuffer(found)) return found;
    if (found !== undefined && attempt < LOOKS_MAX) {
      return found.then(async () => this.#read(await this.#now(node), handle, offset, size, attempt + 1));
    }
    // It was brought here, and is gone again: it is read into memory of its own, and what cannot be brought fails there.
    found?.catch(() => undefined);
    const target = Buffer.allocUnsafe(end - offset);
    const reading = this.#flusher.readCommitted(node, offset, target);
    if (reading instanceof Promise) {
      return reading.then(async () => {
        // A flush that was committed meanwhile took its staged bytes away: they are in the content of the new version.
        const now = await this.#now(node);
        if (now.version === node.version || attempt >= READ_ATTEMPTS_MAX) {
          return this.#withStaged(node.ino, offset, target);
        }
        return this.#read(now, handle, offset, size, attempt + 1);
      });
    }
    return this.#withStaged(node.ino, offset, target);
  }

  /** The node as it is now; as it was, where it is gone: who reads has it open. */
  async #now(node: Node): Promise<Node> {
    return (await this.#context.view.node(node.ino)) ?? node;
  }

  #withStaged(ino: number, offset: number, target: Buffer): Buffer {
    this.#context.staging.get(ino)?.overlay(offset, target);
    return target;
  }

  #readAhead(node: Node, handle: bigint, from: number, to: number): void {
    const { content, reader } = this.#context;
    if (node.inode.size <= to - from) return;
    const readAhead = this.#readAheads.get(handle) ?? new ReadAhead();
    this.#readAheads.set(handle, readAhead);
    const window = readAhead.after(from, to, node.inode.size);
    if (window === null) return;
    const fetch = (extents: readonly Extent[]): void => {
      readAhead.reached(reader.prefetch(extents, window.from, window.to));
    };
    const extents = content.extents(node, window.from, window.to);
    if (!(extents instanceof Promise)) fetch(extents);
    else extents.then(fetch).catch(() => undefined); // The reader meets it.
  }

  write(ino: number, write: FileWrite): Result<number> {
    const { view, staging } = this.#context;
    // An append whose answer died with the worker before this one comes again, and must not be appended twice.
    if (write.append !== undefined && staging.appends.has(ino, write.append)) return write.data.length;
    const node = view.cachedNode(ino);
    const staged = staging.get(ino);
    const clears = write.killSuidGid && (node === undefined || withoutSuidGid(node.inode.mode) !== node.inode.mode);
    const waits = node === undefined || clears || this.#isMuch(staged) || this.#isAbove(staged);
    const admitted = waits ? undefined : admit(view, node, endOf(node, staged, write));
    if (waits || admitted !== undefined) {
      return this.#writeLater(ino, admitted, { ...write, data: Buffer.from(write.data) });
    }
    return this.#write(node, write);
  }

  /** All that is staged is too much for another write. Who writes to a live file, or one without names, stages nothing that could be committed. */
  #isAbove(file: StagedFile | undefined): boolean {
    return file?.selfKept !== true && this.#bound.isReached();
  }

  /** It is to be flushed now. */
  #isMuch(file: StagedFile | undefined): boolean {
    if (file === undefined || (file.flushing !== undefined && !file.isUnsettled)) return false;
    return file.stagedBytes >= this.#stagedMax * STAGED_FILE_SHARE;
  }

  async #writeLater(ino: number, admitted: Promise<void> | undefined, write: FileWrite): Promise<number> {
    const { view, staging } = this.#context;
    await admitted;
    if (write.killSuidGid) await this.#clearSuidGid(ino);
    if (this.#isMuch(staging.get(ino))) void this.#flushes.start(ino);
    while (true) {
      const node = await nodeOrThrow(view, ino);
      await admit(view, node, endOf(node, staging.get(ino), write));
      if (node.inode.nlink === 0 || !this.#isAbove(staging.get(ino))) return this.#write(node, write);
      // A writer goes at the speed of the store.
      await this.#bound.room(ino);
    }
  }

  #write(node: Node, write: FileWrite): number {
    const { staging, time } = this.#context;
    const { offset, data, append } = write;
    if (endOf(node, staging.get(node.ino), write) > FILE_BYTES_MAX)
      throw new PosixError(Errno.EFBIG, `a file of more than ${FILE_BYTES_MAX} bytes`);
    this.#stage(node, (file) => {
      if (append === undefined) {
        staging.write(file, offset, data, time.nowNs());
        this.#earlyUploads.wrote(file, offset, data);
      } else staging.append(file, data, time.nowNs(), append);
    });
    this.#bound.wrote(data.length);
    return data.length;
  }

  /** Stages a change of the file. */
  #stage(node: Node, change: (file: StagedFile) => void): void {
    const { staging, away, time } = this.#context;
    const file = staging.begin(node.ino, node.inode.size);
    try {
      away.staging(file, node);
      change(file);
    } catch (error) {
      staging.refused(file, time.nowNs());
      throw error;
    }
  }

  async #clearSuidGid(ino: number): Promise<void> {
    const { view, time } = this.#context;
    await view.change(undefined, async (change) => {
      const node = await nodeOrThrow(view, ino);
      const mode = withoutSuidGid(node.inode.mode);
      if (mode !== node.inode.mode) change.updateNode(node, { ...node.inode, mode, ctimeNs: time.nowNs() });
    });
  }

  async truncate(ino: number, size: bigint, killSuidGid: boolean): Promise<void> {
    if (size > BigInt(FILE_BYTES_MAX)) throw new PosixError(Errno.EFBIG, `a file of ${size} bytes`);
    const node = await nodeOrThrow(this.#context.view, ino);
    if (isDirectory(node.inode)) throw new PosixError(Errno.EISDIR, `inode ${ino} is a directory`);
    refuseFrozen(node);
    if ((node.inode.flags & INODE_IMMUTABLE) !== 0) throw new PosixError(Errno.EPERM, `inode ${ino} is immutable`);
    await admit(this.#context.view, node, Number(size));
    if (killSuidGid) await this.#clearSuidGid(ino);
    await this.#passthrough.beforeChange(ino);
    this.#truncateStaged(await nodeOrThrow(this.#context.view, ino), Number(size));
    // Without an open handle no close will flush it.
    if (!this.#context.staging.opens.has(ino)) await this.#flushes.settle(ino);
    this.#passthrough.calmLater(ino);
  }

  #truncateStaged(node: Node, size: number): void {
    const { staging, time } = this.#context;
    this.#stage(node, (file) => staging.resize(file, size, true, time.nowNs()));
  }

  async fallocate(ino: number, mode: number, offset: bigint, length: bigint): Promise<void> {
    const KEEP_SIZE = 1;
    const PUNCH_HOLE = 2;
    const ZERO_RANGE = 16;
    if ((mode & ~(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE)) !== 0)
      throw new PosixError(Errno.EOPNOTSUPP, `fallocate ${mode}`);
    if (offset + length > BigInt(FILE_BYTES_MAX))
      throw new PosixError(Errno.EFBIG, `a file of ${offset + length} bytes`);
    const { staging, time, view } = this.#context;
    await this.#passthrough.beforeChange(ino);
    const node = await nodeOrThrow(view, ino);
    if ((mode & (KEEP_SIZE | PUNCH_HOLE)) === 0) await admit(view, node, Number(offset + length));
    const start = Number(offset);
    const end = start + Number(length);
    const nowNs = time.nowNs();
    this.#stage(node, (file) => {
      // Space in the store cannot be reserved: allocation is the size, and nothing where the size stays.
      if ((mode & (PUNCH_HOLE | ZERO_RANGE)) !== 0)
        staging.punch(file, start, Math.min(end, Math.max(file.size, start)), nowNs);
      if ((mode & (KEEP_SIZE | PUNCH_HOLE)) === 0 && end > file.size) staging.resize(file, end, false, nowNs);
    });
    if (!staging.opens.has(ino)) await this.#flushes.settle(ino);
  }

  async seek(ino: number, offset: bigint, whence: number): Promise<bigint> {
    const node = await nodeOrThrow(this.#context.view, ino);
    return seekFile(this.#flusher, node, this.#context.staging.get(ino), offset, whence);
  }

  copy(source: CopyEnd, target: CopyEnd, length: number): Promise<number> {
    return copyRange(this.#context, this, this.#flushes, source, target, length);
  }

  release({ operation }: Caller, ino: number, handle: bigint): void {
    this.#readAheads.delete(handle);
    this.#directWrites.released(ino, handle);
    this.#flushes.release(ino, operation);
  }
}

function isForWriting(flags: number): boolean {
  return (flags & O_ACCMODE) !== 0 || (flags & O_TRUNC) !== 0;
}

/** Where a write ends. */
function endOf(node: Node, staged: StagedFile | undefined, { offset, data, append }: FileWrite): number {
  const start = append === undefined ? offset : (staged?.size ?? node.inode.size);
  return start + data.length;
}
