/**
 * The file-system operations as POSIX sees them: what fuse/ calls and what vfs/ implements. It knows neither FUSE's wire format
 * nor the metadata engine. Names, offsets and times are Linux's: names are latin1 byte strings (each char one byte), inode
 * numbers, sizes and offsets are bigint, times are nanoseconds since the epoch (bigint).
 *
 * An operation answers at once where it can (cached metadata: no promise, no turn of the event loop) or by a promise.
 * An operating error is thrown as `PosixError` (or rejects with it); anything else thrown is a bug, logged, and becomes EIO.
 * Handles are numbers chosen by vfs/; after a worker restart the device loop passes handles of the previous worker, so vfs/ must be
 * able to serve an unknown handle from the inode alone.
 */
export class PosixError extends Error {
  override readonly name = 'PosixError';
  readonly errno: number;
  constructor(errno: number, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.errno = errno;
  }
}

/** Linux errno values used by the file system (asm-generic/errno-base.h, errno.h). */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  ESTALE: 116,
  EDQUOT: 122,
} as const;

export interface Caller {
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  /** Identifies the request for the repeat ring: the same after a resend to a new worker. */
  readonly operation: string;
  /** Aborted by FUSE_INTERRUPT; created lazily, so touch it only in operations that wait. */
  readonly signal: AbortSignal;
}

export interface Attributes {
  readonly ino: bigint;
  readonly generation: bigint;
  /** File type and permission bits (st_mode). */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: bigint;
  /** 512-byte blocks. */
  readonly blocks: bigint;
  readonly blockSize: number;
  readonly atimeNs: bigint;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}

export interface Entry {
  readonly attributes: Attributes;
  /** How long the kernel may keep the name and the attributes, milliseconds. */
  readonly entryTtlMs: number;
  readonly attributesTtlMs: number;
}

/** ino 0 with a TTL: a negative entry that the kernel may cache. */
export type LookupResult = Entry | { readonly negativeTtlMs: number };

export interface OpenResult {
  readonly handle: bigint;
  /** Passthrough to this backing id (FOPEN_PASSTHROUGH); absent: through the daemon. */
  readonly backingId?: number;
  readonly directIo?: boolean;
  readonly keepCache?: boolean;
  /** Directories: the kernel may cache the listing. */
  readonly cacheDirectory?: boolean;
}

export interface SetAttributes {
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: bigint;
  readonly atimeNs?: bigint | 'now';
  readonly mtimeNs?: bigint | 'now';
  readonly ctimeNs?: bigint;
  readonly handle?: bigint;
  /** Clear setuid/setgid as write and truncate by a user without CAP_FSETID do (FATTR_KILL_SUIDGID). */
  readonly killSuidGid?: boolean;
}

export interface DirectoryEntry {
  readonly name: string;
  readonly ino: bigint;
  /** DT_* (the type bits of st_mode >> 12). */
  readonly type: number;
  /** Where a later call goes on behind this entry. */
  readonly cookie: bigint;
  /** Present for READDIRPLUS when known without another round trip. */
  readonly entry?: Entry;
}

export interface FileLock {
  readonly type: 'read' | 'write' | 'unlock';
  readonly start: bigint;
  /** Inclusive; 2^63 - 1 means to the end of the file. */
  readonly end: bigint;
  readonly pid: number;
}

export interface StatFs {
  readonly blocks: bigint;
  readonly blocksFree: bigint;
  readonly blocksAvailable: bigint;
  readonly files: bigint;
  readonly filesFree: bigint;
  readonly blockSize: number;
  readonly nameMax: number;
}

export type Result<T> = T | Promise<T>;

export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;

export interface Operations {
  lookup(caller: Caller, parent: bigint, name: string): Result<LookupResult>;
  forget(ino: bigint, count: bigint): void;
  getattr(caller: Caller, ino: bigint, handle: bigint | undefined): Result<Entry>;
  setattr(caller: Caller, ino: bigint, changes: SetAttributes): Result<Entry>;
  readlink(caller: Caller, ino: bigint): Result<Buffer>;
  /** `mode` comes before the umask (FUSE_DONT_MASK), here and in mkdir, create and tmpfile: a default ACL of the parent replaces the umask. */
  mknod(caller: Caller, parent: bigint, name: string, mode: number, rdev: number, umask: number): Result<Entry>;
  mkdir(caller: Caller, parent: bigint, name: string, mode: number, umask: number): Result<Entry>;
  symlink(caller: Caller, parent: bigint, name: string, target: Buffer): Result<Entry>;
  unlink(caller: Caller, parent: bigint, name: string): Result<void>;
  rmdir(caller: Caller, parent: bigint, name: string): Result<void>;
  rename(caller: Caller, parent: bigint, name: string, newParent: bigint, newName: string, flags: number): Result<void>;
  link(caller: Caller, ino: bigint, newParent: bigint, newName: string): Result<Entry>;

  /** `flags` are open(2)'s. */
  open(caller: Caller, ino: bigint, flags: number): Result<OpenResult>;
  create(
    caller: Caller,
    parent: bigint,
    name: string,
    mode: number,
    flags: number,
    umask: number,
  ): Result<{ readonly entry: Entry; readonly open: OpenResult }>;
  /** O_TMPFILE. */
  tmpfile(
    caller: Caller,
    parent: bigint,
    mode: number,
    flags: number,
    umask: number,
  ): Result<{ readonly entry: Entry; readonly open: OpenResult }>;
  /** Fewer bytes than asked only at the end of the file; true until the next turn of the event loop: copy what is kept. `flags` are the open file's. */
  read(caller: Caller, ino: bigint, handle: bigint, offset: bigint, size: number, flags: number): Result<Buffer>;
  /** `data` is only valid until the operation first yields: copy what is kept. `flags` are the open file's, O_DIRECT only of a write past the kernel's pages. */
  write(
    caller: Caller,
    ino: bigint,
    handle: bigint,
    offset: bigint,
    data: Buffer,
    flags: number,
    killSuidGid: boolean,
  ): Result<number>;
  /** At each close(2) of a descriptor; drops the owner's POSIX locks. */
  flush(caller: Caller, ino: bigint, handle: bigint, lockOwner: bigint): Result<void>;
  /** At the last close; `flockRelease` names the owner whose flock falls. */
  release(caller: Caller, ino: bigint, handle: bigint, flockOwner: bigint | undefined): Result<void>;
  fsync(caller: Caller, ino: bigint, handle: bigint, dataOnly: boolean): Result<void>;
  /** `mode` are FALLOC_FL_*. */
  fallocate(caller: Caller, ino: bigint, handle: bigint, mode: number, offset: bigint, length: bigint): Result<void>;
  /** whence: 3 SEEK_DATA, 4 SEEK_HOLE. */
  lseek(caller: Caller, ino: bigint, handle: bigint, offset: bigint, whence: number): Result<bigint>;
  copyFileRange(
    caller: Caller,
    source: { readonly ino: bigint; readonly handle: bigint; readonly offset: bigint },
    target: { readonly ino: bigint; readonly handle: bigint; readonly offset: bigint },
    length: bigint,
  ): Result<bigint>;

  opendir(caller: Caller, ino: bigint, flags: number): Result<OpenResult>;
  /**
   * Entries behind `cookie` (0: from the start, with `.` and `..`), as many as `accept` takes; it returns false when the
   * reply is full (that entry was not taken).
   */
  readdir(
    caller: Caller,
    ino: bigint,
    handle: bigint,
    cookie: bigint,
    plus: boolean,
    accept: (entry: DirectoryEntry) => boolean,
  ): Result<void>;
  releasedir(caller: Caller, ino: bigint, handle: bigint): Result<void>;
  fsyncdir(caller: Caller, ino: bigint, handle: bigint, dataOnly: boolean): Result<void>;
  statfs(caller: Caller, ino: bigint): Result<StatFs>;

  /** `flags` are XATTR_CREATE and XATTR_REPLACE; `killSgid`: clear setgid (an ACL set by one outside the file's group). */
  setxattr(caller: Caller, ino: bigint, name: string, value: Buffer, flags: number, killSgid: boolean): Result<void>;
  getxattr(caller: Caller, ino: bigint, name: string): Result<Buffer>;
  listxattr(caller: Caller, ino: bigint): Result<readonly string[]>;
  removexattr(caller: Caller, ino: bigint, name: string): Result<void>;

  /** Whether its release gives a lock back. */
  hasLocks(ino: bigint, handle: bigint): boolean;
  /** The lock that would block, or type 'unlock'. */
  getlk(caller: Caller, ino: bigint, handle: bigint, owner: bigint, lock: FileLock): Result<FileLock>;
  /** wait: F_SETLKW; flock: BSD lock over the whole file. EINTR when the caller's signal aborts a wait. */
  setlk(
    caller: Caller,
    ino: bigint,
    handle: bigint,
    owner: bigint,
    lock: FileLock,
    options: { readonly wait: boolean; readonly flock: boolean },
  ): Result<void>;

  /** Flushes what is dirty; called before an orderly unmount. */
  drain(): Promise<void>;
}

/** What vfs/ asks of the device: invalidations to the kernel. Those that may wait in the kernel are written by one dedicated thread; awaited by the grant of a lock, and of one inode by an open. */
export interface KernelNotifier {
  invalidateInode(ino: bigint, offset: bigint, length: bigint): void;
  invalidateEntry(parent: bigint, name: string): void;
  /** Drops every name the kernel holds, before it returns (FUSE_NOTIFY_INC_EPOCH). False: the kernel lacks it, and nothing was done. */
  incrementEpoch(): boolean;
  /** Resolves when the kernel has all that was asked for until now, or all of an inode; undefined: it has. */
  settled(ino?: bigint): Promise<void> | undefined;
}

/** What vfs/ asks of the device for passthrough (FUSE_PASSTHROUGH, Linux 6.9). Everything answers at once. */
export interface KernelBacking {
  /**
   * The backing id of the file behind a read-only descriptor, which may be closed afterwards; negative: an errno. The id belongs to the mount's
   * connection, not to this process: it is valid in the next worker.
   */
  register(fd: number): number;
  unregister(id: number): void;
  /**
   * Ids that a worker before this one registered and was killed before it had noted, or whose last close it had noted and not made: all of the latest ones
   * but these are given back. `path` is a file that can be registered.
   */
  unregisterOthers(path: string, used: ReadonlySet<number>): void;
  /** Nobody has the file open or mapped for writing (a shared mapping outlives close(2)). */
  isQuiet(fd: number): boolean;
  /** Of a file that is sparse: bytes [start, end) where it has no data, in order. What is not among them may have some. */
  holes(fd: number): readonly { readonly start: number; readonly end: number }[];
  /** Files and folders that are made in this folder from now on keep no times of access, where its file system can. */
  omitAccessTimes(dir: string): void;
}
