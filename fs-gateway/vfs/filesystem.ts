/**
 * The virtual file system: POSIX over a volume view and its data. Each operation of operations.ts is one line here and its rules live
 * beside it: names in namespace.ts, content in files.ts, attributes in set-attributes.ts, listings in directories.ts.
 *
 * Invariants: inode numbers of the kernel are ours (the root is 1); answers come without a promise when the cache has them.
 */
import { DT_REG } from '../../lib/volume/dentry.ts';
import { FILE_BYTES_MAX, isRegular, S_IFDIR, S_IFMT, S_IFREG } from '../../lib/volume/inode.ts';
import { INODE_LISTING } from '../../lib/volume/inode.ts';
import type { Node } from '../meta/cache.ts';
import type { Name } from '../meta/record-reader.ts';
import type { Acls } from './acls.ts';
import { attributesOf, entryOfNode } from './attributes.ts';
import { missing, nodeOrThrow } from './context.ts';
import type { Context } from './context.ts';
import type { DirectWrites } from './direct-writes.ts';
import { Directories } from './directories.ts';
import { guard } from './errno.ts';
import type { Files } from './files.ts';
import type { Flushes } from './flushes.ts';
import type { FreshOpens } from './fresh-opens.ts';
import type { Locks } from './locks.ts';
import { LookAhead } from './look-ahead.ts';
import type { Made, Namespace } from './namespace.ts';
import { Errno, PosixError, RENAME_EXCHANGE } from './operations.ts';
import type {
  Caller,
  DirectoryEntry,
  Entry,
  FileLock,
  LookupResult,
  OpenResult,
  Operations,
  Result,
  SetAttributes,
  StatFs,
} from './operations.ts';
import type { Orphans } from './orphans.ts';
import { setAttributes } from './set-attributes.ts';
import { spaceOf } from './space.ts';
import type { ExtendedAttributes } from './xattrs.ts';

const O_APPEND = 0o2000;
const MODE_BITS = 0o7777;
const CREATABLE = new Set([0o140000, 0o100000, 0o060000, 0o020000, 0o010000]);

interface Created {
  readonly entry: Entry;
  readonly open: OpenResult;
}

export interface FileSystemParts {
  readonly context: Context;
  readonly namespace: Namespace;
  readonly files: Files;
  readonly freshOpens: FreshOpens;
  readonly directWrites: DirectWrites;
  readonly flushes: Flushes;
  readonly xattrs: ExtendedAttributes;
  readonly acls: Acls;
  readonly locks: Locks;
  readonly orphans: Orphans;
}

export class FileSystem implements Operations {
  readonly #parts: FileSystemParts;
  readonly #directories: Directories;
  readonly #lookAhead: LookAhead;
  readonly #report: (message: string) => void;

  constructor(parts: FileSystemParts) {
    this.#parts = parts;
    this.#report = (message) => parts.context.report(message);
    this.#lookAhead = new LookAhead(parts.context);
    parts.context.view.listen({
      inodeChanged: (ino) => this.#directories.changed(ino),
      entryChanged: (parent) => {
        this.#directories.changed(parent);
        this.#lookAhead.changed(parent);
      },
      everythingChanged: () => this.#directories.everythingChanged(),
    });
    this.#directories = new Directories(parts.context, (ino) => {
      if (!parts.files.isWritten(ino)) return undefined;
      const node = parts.context.view.cachedNode(ino);
      return node && this.#entry(node);
    });
  }

  #guard<T>(run: () => Result<T>): Result<T> {
    return guard(this.#report, run);
  }

  #entry(node: Node): Entry {
    const { files, context } = this.#parts;
    const entry = entryOfNode(node, context.ttlMs, files.uncommitted(node.ino));
    return files.isLive(node.ino) ? { ...entry, attributesTtlMs: 0 } : entry;
  }

  /** What a request made. Of what was made before, the kernel asks again before it believes the name. */
  #made(parent: bigint, name: string, { node, again }: Made): Entry {
    const entry = this.#named(Number(parent), name, node);
    return again ? { ...entry, entryTtlMs: 0 } : entry;
  }

  lookup(caller: Caller, parent: bigint, name: string): Result<LookupResult> {
    return this.#guard(() => {
      const directory = Number(parent);
      const { namespace, freshOpens, context } = this.#parts;
      if (freshOpens.looksAgain(caller)) context.view.forgetEntry(directory, name);
      const found = namespace.lookup(directory, name);
      if (!(found instanceof Promise)) {
        this.#lookAhead.hit(directory);
        return this.#looked(caller, directory, name, found);
      }
      return found.then((node) => {
        this.#lookAhead.missed(directory, node !== null);
        return this.#looked(caller, directory, name, node);
      });
    });
  }

  #looked(caller: Caller, parent: number, name: string, node: Node | null): LookupResult {
    this.#parts.freshOpens.hasLooked(caller, node);
    return node === null ? { negativeTtlMs: this.#parts.context.ttlMs } : this.#named(parent, name, node);
  }

  /** The kernel knows the inode by this name from now on. */
  #named(parent: number, name: string, node: Node): Entry {
    if (isRegular(node.inode)) {
      const { told, view } = this.#parts.context;
      const entry = view.cachedEntry(parent, name);
      told.tell(node.ino, { parent, name }, entry?.ino === node.ino ? entry.heldAt : undefined);
    }
    return this.#entry(node);
  }

  /** Nothing is kept per lookup: an inode is found again by its number. */
  forget(): void {
    return;
  }

  getattr(_caller: Caller, ino: bigint, _handle: bigint | undefined): Result<Entry> {
    return this.#guard(() => {
      const node = this.#parts.context.view.node(Number(ino));
      if (node instanceof Promise) return node.then((read) => this.#attributes(read ?? this.#removed(ino)));
      return this.#attributes(node ?? this.#removed(ino));
    });
  }

  #removed(ino: bigint): Node {
    return this.#parts.namespace.removedDirectories.get(Number(ino)) ?? missing(Number(ino));
  }

  #attributes(node: Node): Result<Entry> {
    if ((node.inode.flags & INODE_LISTING) === 0) return this.#entry(node);
    return this.#listingEntry(node);
  }

  /** A lake directory's mtime is that of its listing. */
  async #listingEntry(node: Node): Promise<Entry> {
    const { pointer } = await this.#parts.context.view.lake.get(node.ino);
    const changedNs = BigInt(pointer.changedMs) * 1_000_000n;
    const attributes = attributesOf({ ...node, entriesChangedNs: changedNs });
    return { ...this.#entry(node), attributes };
  }

  setattr(caller: Caller, ino: bigint, changes: SetAttributes): Result<Entry> {
    return this.#guard(async () => this.#entry(await setAttributes(this.#parts, caller, Number(ino), changes)));
  }

  readlink(_caller: Caller, ino: bigint): Result<Buffer> {
    return this.#guard(() => {
      const node = nodeOrThrow(this.#parts.context.view, Number(ino));
      return node instanceof Promise ? node.then(targetOf) : targetOf(node);
    });
  }

  mknod(caller: Caller, parent: bigint, name: string, mode: number, rdev: number, umask: number): Result<Entry> {
    return this.#guard(async () => {
      const type = mode & S_IFMT;
      const full = (type === 0 ? S_IFREG : type) | (mode & MODE_BITS);
      if (!CREATABLE.has(full & S_IFMT)) throw new PosixError(Errno.EINVAL, `mode 0${mode.toString(8)}`);
      const made = await this.#parts.namespace.make(caller, Number(parent), name, full, umask, { rdev });
      return this.#made(parent, name, made);
    });
  }

  mkdir(caller: Caller, parent: bigint, name: string, mode: number, umask: number): Result<Entry> {
    return this.#guard(async () => {
      const full = S_IFDIR | (mode & MODE_BITS);
      return this.#made(parent, name, await this.#parts.namespace.make(caller, Number(parent), name, full, umask));
    });
  }

  symlink(caller: Caller, parent: bigint, name: string, target: Buffer): Result<Entry> {
    return this.#guard(async () =>
      this.#made(parent, name, await this.#parts.namespace.symlink(caller, Number(parent), name, target)),
    );
  }

  unlink(caller: Caller, parent: bigint, name: string): Result<void> {
    return this.#guard(() => this.#parts.namespace.unlink(caller, Number(parent), name));
  }

  rmdir(caller: Caller, parent: bigint, name: string): Result<void> {
    return this.#guard(() => this.#parts.namespace.rmdir(caller, Number(parent), name));
  }

  rename(
    caller: Caller,
    parent: bigint,
    name: string,
    newParent: bigint,
    newName: string,
    flags: number,
  ): Result<void> {
    return this.#guard(async () => {
      await this.#parts.flushes.beforeNaming(Number(parent), name);
      await this.#parts.namespace.rename(caller, Number(parent), name, Number(newParent), newName, flags);
      const [from, to] = [
        { parent: Number(parent), name },
        { parent: Number(newParent), name: newName },
      ];
      this.#moved(from, to);
      if ((flags & RENAME_EXCHANGE) !== 0) this.#moved(to, from);
    });
  }

  /** The kernel moves what it holds. What the cache no longer has is found out at the file's next open. */
  #moved(from: Name, to: Name): void {
    const { view, told } = this.#parts.context;
    const entry = view.cachedEntry(to.parent, to.name);
    if (entry?.type === DT_REG) told.move(entry.ino, from, to, entry.heldAt);
  }

  link(caller: Caller, ino: bigint, newParent: bigint, newName: string): Result<Entry> {
    return this.#guard(async () => {
      const made = await this.#parts.namespace.link(caller, Number(ino), Number(newParent), newName);
      return this.#made(newParent, newName, made);
    });
  }

  open(caller: Caller, ino: bigint, flags: number): Result<OpenResult> {
    return this.#guard(() => this.#parts.files.open(caller, Number(ino), flags));
  }

  create(caller: Caller, parent: bigint, name: string, mode: number, flags: number, umask: number): Result<Created> {
    return this.#guard(async () => {
      const full = S_IFREG | (mode & MODE_BITS);
      const made = await this.#parts.files.create(caller, Number(parent), name, full, flags, umask);
      if (made.gone) return this.#unnamed(caller, Number(parent), full, flags, umask);
      const entry = this.#made(parent, name, made);
      return { entry, open: await this.#parts.files.opened(caller, made.node, flags) };
    });
  }

  tmpfile(caller: Caller, parent: bigint, mode: number, flags: number, umask: number): Result<Created> {
    return this.#guard(() => this.#unnamed(caller, Number(parent), S_IFREG | (mode & MODE_BITS), flags, umask));
  }

  async #unnamed(caller: Caller, parent: number, mode: number, flags: number, umask: number): Promise<Created> {
    const { namespace, files, orphans } = this.#parts;
    const node = await namespace.makeUnnamed(caller, parent, mode, umask);
    try {
      // It has no name that the kernel could believe.
      const entry = { ...this.#entry(node), entryTtlMs: 0 };
      return { entry, open: await files.opened(caller, node, flags) };
    } finally {
      orphans.opened(node.ino);
    }
  }

  read(_caller: Caller, ino: bigint, handle: bigint, offset: bigint, size: number): Result<Buffer> {
    return this.#guard(() => this.#parts.files.read(Number(ino), handle, Number(offset), size));
  }

  write(
    caller: Caller,
    ino: bigint,
    _handle: bigint,
    offset: bigint,
    data: Buffer,
    flags: number,
    killSuidGid: boolean,
  ): Result<number> {
    const append = (flags & O_APPEND) === 0 ? undefined : caller.operation;
    const { files, directWrites } = this.#parts;
    const write = { offset: Number(offset), data, append, killSuidGid };
    return this.#guard(() =>
      directWrites.answer(Number(ino), flags, write.offset, data.length, files.write(Number(ino), write)),
    );
  }

  flush(_caller: Caller, ino: bigint, handle: bigint, lockOwner: bigint): Result<void> {
    const { context, locks, flushes } = this.#parts;
    const inode = Number(ino);
    // Giving locks back commits.
    const run = (): Result<void> => locks.release(inode, lockOwner) ?? flushes.settle(inode);
    return this.#guard(() => context.handles.closing(inode, handle, run));
  }

  release(caller: Caller, ino: bigint, handle: bigint, flockOwner: bigint | undefined): Result<void> {
    return this.#guard(() => {
      const { context, files, locks } = this.#parts;
      const released = (): void => {
        context.handles.released(handle);
        files.release(caller, Number(ino), handle);
      };
      const unlocked = locks.closed(Number(ino), handle, flockOwner);
      if (unlocked !== undefined) return unlocked.finally(released);
      released();
      return undefined;
    });
  }

  fsync(_caller: Caller, ino: bigint, handle: bigint): Result<void> {
    const { context, flushes } = this.#parts;
    return this.#guard(() => context.handles.syncing(Number(ino), handle, () => flushes.fsync(Number(ino))));
  }

  fallocate(_caller: Caller, ino: bigint, _handle: bigint, mode: number, offset: bigint, length: bigint): Result<void> {
    return this.#guard(() => this.#parts.files.fallocate(Number(ino), mode, offset, length));
  }

  lseek(_caller: Caller, ino: bigint, _handle: bigint, offset: bigint, whence: number): Result<bigint> {
    return this.#guard(() => this.#parts.files.seek(Number(ino), offset, whence));
  }

  copyFileRange(
    _caller: Caller,
    source: { readonly ino: bigint; readonly handle: bigint; readonly offset: bigint },
    target: { readonly ino: bigint; readonly handle: bigint; readonly offset: bigint },
    length: bigint,
  ): Result<bigint> {
    return this.#guard(async () => {
      const from = { ino: Number(source.ino), offset: Number(source.offset) };
      const to = { ino: Number(target.ino), offset: Number(target.offset) };
      const bytes = Number(length > BigInt(FILE_BYTES_MAX) ? BigInt(FILE_BYTES_MAX) : length);
      return BigInt(await this.#parts.files.copy(from, to, bytes));
    });
  }

  opendir(_caller: Caller, ino: bigint): Result<OpenResult> {
    return this.#guard(() => {
      const node = nodeOrThrow(this.#parts.context.view, Number(ino));
      const open = (found: Node): OpenResult => this.#directories.open(this.#parts.context.handles.next(), found);
      return node instanceof Promise ? node.then(open) : open(node);
    });
  }

  readdir(
    _caller: Caller,
    ino: bigint,
    handle: bigint,
    cookie: bigint,
    plus: boolean,
    accept: (entry: DirectoryEntry) => boolean,
  ): Result<void> {
    return this.#guard(() => this.#directories.read(Number(ino), handle, cookie, plus, accept));
  }

  releasedir(_caller: Caller, _ino: bigint, handle: bigint): Result<void> {
    this.#directories.release(handle);
  }

  fsyncdir(_caller: Caller, ino: bigint): Result<void> {
    return this.#guard(() => this.#parts.context.view.flush(Number(ino)));
  }

  statfs(_caller: Caller, ino: bigint): Result<StatFs> {
    return this.#guard(() => spaceOf(this.#parts.context.view, Number(ino)));
  }

  setxattr(caller: Caller, ino: bigint, name: string, value: Buffer, flags: number, killSgid: boolean): Result<void> {
    return this.#guard(() => this.#parts.xattrs.set(caller, Number(ino), name, value, flags, killSgid));
  }

  getxattr(_caller: Caller, ino: bigint, name: string): Result<Buffer> {
    return this.#guard(() => this.#parts.xattrs.get(Number(ino), name));
  }

  listxattr(_caller: Caller, ino: bigint): Result<readonly string[]> {
    return this.#guard(() => this.#parts.xattrs.list(Number(ino)));
  }

  removexattr(caller: Caller, ino: bigint, name: string): Result<void> {
    return this.#guard(() => this.#parts.xattrs.remove(caller, Number(ino), name));
  }

  hasLocks(ino: bigint, handle: bigint): boolean {
    return this.#parts.locks.hasLocks(Number(ino), handle);
  }

  getlk(_caller: Caller, ino: bigint, handle: bigint, owner: bigint, lock: FileLock): Result<FileLock> {
    return this.#guard(() => this.#parts.locks.test(Number(ino), handle, owner, lock));
  }

  setlk(
    caller: Caller,
    ino: bigint,
    handle: bigint,
    owner: bigint,
    lock: FileLock,
    options: { readonly wait: boolean; readonly flock: boolean },
  ): Result<void> {
    const { context, locks } = this.#parts;
    return this.#guard(() => {
      const setting = locks.set(caller, Number(ino), handle, owner, lock, options);
      if (lock.type !== 'unlock') return setting;
      if (setting instanceof Promise) return setting.then(() => context.handles.tellLostLock(handle));
      context.handles.tellLostLock(handle);
    });
  }

  async drain(): Promise<void> {
    await this.#parts.flushes.drain();
    await this.#parts.orphans.settle();
  }
}

function targetOf(node: Node): Buffer {
  if (node.inode.target === null) throw new PosixError(Errno.EINVAL, `inode ${node.ino} is not a symbolic link`);
  return node.inode.target;
}
