/**
 * The opcode table: one row per FUSE request with its name, how its arguments are decoded, which operation it calls and how the result
 * is encoded. Field offsets are those of the structs in linux/fuse.h, from the end of the header; each row draws its own.
 *
 * Invariants
 * - `decode` reads everything it needs: after it the request's bytes may be overwritten (WRITE's payload is the one view).
 * - `undo` takes back a result whose reply reached nobody, so that the kernel's lookup counts and ours agree.
 */
import { Errno, PosixError } from '../vfs/operations.ts';
import type {
  Caller,
  Entry,
  FileLock,
  LookupResult,
  OpenResult,
  Operations,
  Result,
  SetAttributes,
  StatFs,
} from '../vfs/operations.ts';
import { Listing } from './listing.ts';
import {
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  Fattr,
  FSYNC_FDATASYNC,
  GETATTR_FH,
  LK_FLOCK,
  RELEASE_FLOCK_UNLOCK,
  SETXATTR_ACL_KILL_SGID,
  WRITE_KILL_SUIDGID,
  XATTR_BYTES_MAX,
} from './protocol.ts';
import type { ReplyWriter } from './reply.ts';
import { MalformedRequest, type RequestReader } from './request.ts';

const SYMLINK_BYTES_MAX = 4095; // PATH_MAX with its zero
const U32_MAX = 0xffff_ffffn;

/**
 * Methods, not function properties: their parameters are bivariant, which lets rows of different argument types share one table.
 * It is sound because the loop hands a row only what the same row decoded or returned.
 */
export interface Opcode<A = unknown, R = unknown> {
  readonly name: string;
  /** FORGET and its kind: the kernel expects no answer. */
  readonly silent?: true;
  decode(request: RequestReader): A;
  call(ops: Operations, caller: Caller, ino: bigint, args: A): Result<R>;
  encode?(reply: ReplyWriter, result: R, args: A): void;
  undo?(ops: Operations, caller: Caller, ino: bigint, result: R, args: A): Result<void>;
}

const row = <A, R>(opcode: Opcode<A, R>): Opcode => opcode;
const nothing = (): undefined => undefined;
const firstName = (request: RequestReader): string => request.name(0);

/** Opcodes that this server does not serve: the kernel asks once for those it stops asking for at ENOSYS. */
const refused = (name: string, errno: number): Opcode =>
  row<undefined, undefined>({
    name,
    decode: nothing,
    call: () => {
      throw new PosixError(errno, name);
    },
  });

const entryReply = {
  encode: (reply: ReplyWriter, result: Entry) => reply.entry(result),
  undo: (ops: Operations, _caller: Caller, _ino: bigint, result: Entry) => ops.forget(result.attributes.ino, 1n),
};

/** 0 nlookup u64 */
const forget = row<bigint, unknown>({
  name: 'FORGET',
  silent: true,
  decode: (request) => request.u64(0),
  call: (ops, _caller, ino, count) => ops.forget(ino, count),
});

/** 0 count u32, 4 dummy u32, then count times { nodeid u64, nlookup u64 } */
const batchForget = row<readonly (readonly [bigint, bigint])[], unknown>({
  name: 'BATCH_FORGET',
  silent: true,
  decode(request) {
    const count = request.u32(0);
    if (8 + count * 16 > request.bodyBytes) throw new MalformedRequest(`BATCH_FORGET of ${count} entries`);
    return Array.from({ length: count }, (_, i) => [request.u64(8 + i * 16), request.u64(16 + i * 16)] as const);
  },
  call(ops, _caller, _ino, list) {
    for (const [ino, count] of list) ops.forget(ino, count);
  },
});

const lookup = row<string, LookupResult>({
  name: 'LOOKUP',
  decode: firstName,
  call: (ops, caller, ino, name) => ops.lookup(caller, ino, name),
  encode(reply, result) {
    if ('attributes' in result) reply.entry(result);
    else if (result.negativeTtlMs > 0) reply.negativeEntry(result.negativeTtlMs);
    else throw new PosixError(Errno.ENOENT, 'not found');
  },
  undo(ops, _caller, _ino, result) {
    if ('attributes' in result) ops.forget(result.attributes.ino, 1n);
  },
});

/** 0 getattr_flags u32, 4 dummy u32, 8 fh u64 */
const getattr = row<bigint | undefined, Entry>({
  name: 'GETATTR',
  decode: (request) => ((request.u32(0) & GETATTR_FH) === 0 ? undefined : request.u64(8)),
  call: (ops, caller, ino, handle) => ops.getattr(caller, ino, handle),
  encode: (reply, result) => reply.attributes(result),
});

/**
 * 0 valid u32, 4 padding u32, 8 fh u64, 16 size u64, 24 lock_owner u64, 32 atime u64, 40 mtime u64, 48 ctime u64,
 * 56 atimensec u32, 60 mtimensec u32, 64 ctimensec u32, 68 mode u32, 72 unused u32, 76 uid u32, 80 gid u32, 84 unused u32
 */
const setattr = row<SetAttributes, Entry>({
  name: 'SETATTR',
  decode(request) {
    const valid = request.u32(0);
    request.u32(84); // The struct is whole, whichever of its fields are valid.
    const has = (bit: number): boolean => (valid & bit) !== 0;
    const timeNs = (seconds: number, nanoseconds: number): bigint =>
      BigInt.asIntN(64, request.u64(seconds)) * 1_000_000_000n + BigInt(request.u32(nanoseconds));
    return {
      ...(has(Fattr.MODE) && { mode: request.u32(68) }),
      ...(has(Fattr.UID) && { uid: request.u32(76) }),
      ...(has(Fattr.GID) && { gid: request.u32(80) }),
      ...(has(Fattr.SIZE) && { size: request.offset64(16) }),
      ...(has(Fattr.ATIME) && { atimeNs: has(Fattr.ATIME_NOW) ? ('now' as const) : timeNs(32, 56) }),
      ...(has(Fattr.MTIME) && { mtimeNs: has(Fattr.MTIME_NOW) ? ('now' as const) : timeNs(40, 60) }),
      ...(has(Fattr.CTIME) && { ctimeNs: timeNs(48, 64) }),
      ...(has(Fattr.FH) && { handle: request.u64(8) }),
      ...(has(Fattr.KILL_SUIDGID) && { killSuidGid: true }),
    };
  },
  call: (ops, caller, ino, changes) => ops.setattr(caller, ino, changes),
  encode: (reply, result) => reply.attributes(result),
});

const readlink = row<undefined, Buffer>({
  name: 'READLINK',
  decode: nothing,
  call: (ops, caller, ino) => ops.readlink(caller, ino),
  encode: (reply, target) => reply.bytes(target),
});

const symlink = row<readonly [string, string], Entry>({
  name: 'SYMLINK',
  decode: (request) => request.names(0, SYMLINK_BYTES_MAX),
  call: (ops, caller, parent, [name, target]) => ops.symlink(caller, parent, name, Buffer.from(target, 'latin1')),
  ...entryReply,
});

/** 0 mode u32, 4 rdev u32, 8 umask u32, 12 padding u32, 16 name */
const mknod = row<{ name: string; mode: number; rdev: number; umask: number }, Entry>({
  name: 'MKNOD',
  decode: (request) => ({
    name: request.name(16),
    mode: request.u32(0),
    rdev: request.u32(4),
    umask: request.u32(8),
  }),
  call: (ops, caller, parent, a) => ops.mknod(caller, parent, a.name, a.mode, a.rdev, a.umask),
  ...entryReply,
});

/** 0 mode u32, 4 umask u32, 8 name */
const mkdir = row<{ name: string; mode: number; umask: number }, Entry>({
  name: 'MKDIR',
  decode: (request) => ({ name: request.name(8), mode: request.u32(0), umask: request.u32(4) }),
  call: (ops, caller, parent, a) => ops.mkdir(caller, parent, a.name, a.mode, a.umask),
  ...entryReply,
});

const unlink = row<string, unknown>({
  name: 'UNLINK',
  decode: firstName,
  call: (ops, caller, parent, name) => ops.unlink(caller, parent, name),
});

const rmdir = row<string, unknown>({
  name: 'RMDIR',
  decode: firstName,
  call: (ops, caller, parent, name) => ops.rmdir(caller, parent, name),
});

interface RenameArgs {
  readonly newParent: bigint;
  readonly flags: number;
  readonly names: readonly [string, string];
}
const callRename = (ops: Operations, caller: Caller, parent: bigint, a: RenameArgs): Result<void> =>
  ops.rename(caller, parent, a.names[0], a.newParent, a.names[1], a.flags);

/** 0 newdir u64, 8 two names */
const rename = row<RenameArgs, unknown>({
  name: 'RENAME',
  decode: (request) => ({ newParent: request.u64(0), flags: 0, names: request.names(8) }),
  call: callRename,
});

/** 0 newdir u64, 8 flags u32, 12 padding u32, 16 two names */
const rename2 = row<RenameArgs, unknown>({
  name: 'RENAME2',
  decode: (request) => ({ newParent: request.u64(0), flags: request.u32(8), names: request.names(16) }),
  call: callRename,
});

/** 0 oldnodeid u64, 8 name; the header's node is the directory. */
const link = row<{ ino: bigint; name: string }, Entry>({
  name: 'LINK',
  decode: (request) => ({ ino: request.u64(0), name: request.name(8) }),
  call: (ops, caller, parent, a) => ops.link(caller, a.ino, parent, a.name),
  ...entryReply,
});

/** 0 flags u32, 4 open_flags u32 */
const open = row<number, OpenResult>({
  name: 'OPEN',
  decode: (request) => request.u32(0),
  call: (ops, caller, ino, flags) => ops.open(caller, ino, flags),
  encode: (reply, result) => reply.open(result),
  undo: (ops, caller, ino, result) => ops.release(caller, ino, result.handle, undefined),
});

const opendir = row<number, OpenResult>({
  name: 'OPENDIR',
  decode: (request) => request.u32(0),
  call: (ops, caller, ino, flags) => ops.opendir(caller, ino, flags),
  encode: (reply, result) => reply.open(result),
  undo: (ops, caller, ino, result) => ops.releasedir(caller, ino, result.handle),
});

interface CreateArgs {
  readonly name: string;
  readonly mode: number;
  readonly flags: number;
  readonly umask: number;
}
interface Created {
  readonly entry: Entry;
  readonly open: OpenResult;
}
/** 0 flags u32, 4 mode u32, 8 umask u32, 12 open_flags u32, 16 name. The answer is fuse_entry_out and fuse_open_out. */
const createReply = {
  decode: (request: RequestReader): CreateArgs => ({
    name: request.name(16),
    mode: request.u32(4),
    flags: request.u32(0),
    umask: request.u32(8),
  }),
  encode(reply: ReplyWriter, result: Created) {
    reply.entry(result.entry);
    reply.open(result.open);
  },
  async undo(ops: Operations, caller: Caller, _parent: bigint, result: Created) {
    const { ino } = result.entry.attributes;
    await ops.release(caller, ino, result.open.handle, undefined);
    ops.forget(ino, 1n);
  },
};

const create = row<CreateArgs, Created>({
  name: 'CREATE',
  call: (ops, caller, parent, a) => ops.create(caller, parent, a.name, a.mode, a.flags, a.umask),
  ...createReply,
});

const tmpfile = row<CreateArgs, Created>({
  name: 'TMPFILE',
  call: (ops, caller, parent, a) => ops.tmpfile(caller, parent, a.mode, a.flags, a.umask),
  ...createReply,
});

/** 0 fh u64, 8 offset u64, 16 size u32, 20 read_flags u32, 24 lock_owner u64, 32 flags u32, 36 padding u32 */
const read = row<{ handle: bigint; offset: bigint; size: number; flags: number }, Buffer>({
  name: 'READ',
  decode: (request) => ({
    handle: request.u64(0),
    offset: request.offset64(8),
    size: request.u32(16),
    flags: request.u32(32),
  }),
  call: (ops, caller, ino, a) => ops.read(caller, ino, a.handle, a.offset, a.size, a.flags),
  encode(reply, data, a) {
    // More than asked would be refused by the kernel (EINVAL) and leave the reader waiting for ever.
    reply.bytes(data.length > a.size ? data.subarray(0, a.size) : data);
  },
});

interface WriteArgs {
  readonly handle: bigint;
  readonly offset: bigint;
  readonly data: Buffer;
  readonly flags: number;
  readonly killSuidGid: boolean;
}
/** 0 fh u64, 8 offset u64, 16 size u32, 20 write_flags u32, 24 lock_owner u64, 32 flags u32, 36 padding u32, 40 the data */
const write = row<WriteArgs, number>({
  name: 'WRITE',
  decode: (request) => ({
    handle: request.u64(0),
    offset: request.offset64(8),
    data: request.bytesView(40, request.u32(16)),
    flags: request.u32(32),
    killSuidGid: (request.u32(20) & WRITE_KILL_SUIDGID) !== 0,
  }),
  call: (ops, caller, ino, a) => ops.write(caller, ino, a.handle, a.offset, a.data, a.flags, a.killSuidGid),
  encode(reply, bytes) {
    reply.u32(bytes);
    reply.u32(0);
  },
});

/** 0 fh u64, 8 unused u32, 12 padding u32, 16 lock_owner u64 */
const flush = row<{ handle: bigint; owner: bigint }, unknown>({
  name: 'FLUSH',
  decode: (request) => ({ handle: request.u64(0), owner: request.u64(16) }),
  call: (ops, caller, ino, a) => ops.flush(caller, ino, a.handle, a.owner),
});

/** 0 fh u64, 8 flags u32, 12 release_flags u32, 16 lock_owner u64 */
const release = row<{ handle: bigint; flockOwner: bigint | undefined }, unknown>({
  name: 'RELEASE',
  decode: (request) => ({
    handle: request.u64(0),
    flockOwner: (request.u32(12) & RELEASE_FLOCK_UNLOCK) === 0 ? undefined : request.u64(16),
  }),
  call: (ops, caller, ino, a) => ops.release(caller, ino, a.handle, a.flockOwner),
});

const releasedir = row<bigint, unknown>({
  name: 'RELEASEDIR',
  decode: (request) => request.u64(0),
  call: (ops, caller, ino, handle) => ops.releasedir(caller, ino, handle),
});

/** 0 fh u64, 8 fsync_flags u32, 12 padding u32 */
const decodeFsync = (request: RequestReader): { handle: bigint; dataOnly: boolean } => ({
  handle: request.u64(0),
  dataOnly: (request.u32(8) & FSYNC_FDATASYNC) !== 0,
});
const fsync = row<{ handle: bigint; dataOnly: boolean }, unknown>({
  name: 'FSYNC',
  decode: decodeFsync,
  call: (ops, caller, ino, a) => ops.fsync(caller, ino, a.handle, a.dataOnly),
});
const fsyncdir = row<{ handle: bigint; dataOnly: boolean }, unknown>({
  name: 'FSYNCDIR',
  decode: decodeFsync,
  call: (ops, caller, ino, a) => ops.fsyncdir(caller, ino, a.handle, a.dataOnly),
});

interface ListArgs {
  readonly handle: bigint;
  readonly cookie: bigint;
  readonly listing: Listing;
}
/** The struct of READ; offset is the cookie of the last entry seen. */
const listing = (name: string, plus: boolean): Opcode =>
  row<ListArgs, unknown>({
    name,
    decode: (request) => ({
      handle: request.u64(0),
      cookie: request.u64(8),
      listing: new Listing(request.u32(16), plus),
    }),
    call: (ops, caller, ino, a) => ops.readdir(caller, ino, a.handle, a.cookie, plus, a.listing.accept),
    encode: (reply, _result, a) => reply.bytes(a.listing.bytes),
    undo(ops, _caller, _ino, _result, a) {
      for (const ino of a.listing.looked) ops.forget(ino, 1n);
    },
  });

/**
 * struct fuse_kstatfs, 80 bytes: 0 blocks u64, 8 bfree u64, 16 bavail u64, 24 files u64, 32 ffree u64,
 * 40 bsize u32, 44 namelen u32, 48 frsize u32, 52 padding u32, 56 spare u32[6]
 */
const statfs = row<undefined, StatFs>({
  name: 'STATFS',
  decode: nothing,
  call: (ops, caller, ino) => ops.statfs(caller, ino),
  encode(reply, s) {
    for (const count of [s.blocks, s.blocksFree, s.blocksAvailable, s.files, s.filesFree]) reply.u64(count);
    for (const value of [s.blockSize, s.nameMax, s.blockSize, 0, 0, 0, 0, 0, 0, 0]) reply.u32(value);
  },
});

interface SetXattrArgs {
  readonly name: string;
  readonly value: Buffer;
  readonly flags: number;
  readonly killSgid: boolean;
}
/** 0 size u32, 4 flags u32, with SETXATTR_EXT 8 setxattr_flags u32 and 12 padding u32; then name and value */
const setxattr = row<SetXattrArgs, unknown>({
  name: 'SETXATTR',
  decode(request) {
    const bytes = request.u32(0);
    const extended = request.setxattrExtended;
    const { text, end } = request.string(extended ? 16 : 8, 255);
    if (bytes > XATTR_BYTES_MAX) throw new MalformedRequest(`extended attribute of ${bytes} bytes`);
    const killSgid = extended && (request.u32(8) & SETXATTR_ACL_KILL_SGID) !== 0;
    return { name: text, value: request.bytesCopy(end, bytes), flags: request.u32(4), killSgid };
  },
  call: (ops, caller, ino, a) => ops.setxattr(caller, ino, a.name, a.value, a.flags, a.killSgid),
});

/** struct fuse_getxattr_out { size u32, padding u32 } when the caller only asks how long it is; else the bytes, or ERANGE. */
function encodeXattr(reply: ReplyWriter, value: Buffer, sizeMax: number): void {
  if (sizeMax === 0) {
    reply.u32(value.length);
    reply.u32(0);
  } else if (value.length > sizeMax) {
    throw new PosixError(Errno.ERANGE, `${value.length} bytes do not fit in ${sizeMax}`);
  } else {
    reply.bytes(value);
  }
}

/** 0 size u32, 4 padding u32, 8 name */
const getxattr = row<{ sizeMax: number; name: string }, Buffer>({
  name: 'GETXATTR',
  decode: (request) => ({ sizeMax: request.u32(0), name: request.name(8) }),
  call: (ops, caller, ino, a) => ops.getxattr(caller, ino, a.name),
  encode: (reply, value, a) => encodeXattr(reply, value, a.sizeMax),
});

const listxattr = row<number, readonly string[]>({
  name: 'LISTXATTR',
  decode: (request) => request.u32(0),
  call: (ops, caller, ino) => ops.listxattr(caller, ino),
  encode(reply, names, sizeMax) {
    encodeXattr(reply, Buffer.from(names.map((name) => `${name}\0`).join(''), 'latin1'), sizeMax);
  },
});

const removexattr = row<string, unknown>({
  name: 'REMOVEXATTR',
  decode: firstName,
  call: (ops, caller, ino, name) => ops.removexattr(caller, ino, name),
});

const LOCK_TYPES = { [F_RDLCK]: 'read', [F_WRLCK]: 'write', [F_UNLCK]: 'unlock' } as const;
const LOCK_CODES = { read: F_RDLCK, write: F_WRLCK, unlock: F_UNLCK } as const;

interface LockArgs {
  readonly handle: bigint;
  readonly owner: bigint;
  readonly lock: FileLock;
  readonly flock: boolean;
}
/** 0 fh u64, 8 owner u64, 16 lk { start u64, end u64, type u32, pid u32 }, 40 lk_flags u32, 44 padding u32 */
function decodeLock(request: RequestReader): LockArgs {
  const code = request.u32(32);
  if (code !== F_RDLCK && code !== F_WRLCK && code !== F_UNLCK) throw new MalformedRequest(`lock type ${code}`);
  return {
    handle: request.u64(0),
    owner: request.u64(8),
    lock: { type: LOCK_TYPES[code], start: request.offset64(16), end: request.offset64(24), pid: request.u32(36) },
    flock: (request.u32(40) & LK_FLOCK) !== 0,
  };
}

const getlk = row<LockArgs, FileLock>({
  name: 'GETLK',
  decode: decodeLock,
  call: (ops, caller, ino, a) => ops.getlk(caller, ino, a.handle, a.owner, a.lock),
  encode(reply, lock) {
    reply.u64(lock.start);
    reply.u64(lock.end);
    reply.u32(LOCK_CODES[lock.type]);
    reply.u32(lock.pid);
  },
});

const setlk = (name: string, wait: boolean): Opcode =>
  row<LockArgs, unknown>({
    name,
    decode: decodeLock,
    call: (ops, caller, ino, a) => ops.setlk(caller, ino, a.handle, a.owner, a.lock, { wait, flock: a.flock }),
  });

/** 0 fh u64, 8 offset u64, 16 length u64, 24 mode u32, 28 padding u32 */
const fallocate = row<{ handle: bigint; offset: bigint; length: bigint; mode: number }, unknown>({
  name: 'FALLOCATE',
  decode: (request) => ({
    handle: request.u64(0),
    offset: request.offset64(8),
    length: request.offset64(16),
    mode: request.u32(24),
  }),
  call: (ops, caller, ino, a) => ops.fallocate(caller, ino, a.handle, a.mode, a.offset, a.length),
});

/** 0 fh u64, 8 offset u64, 16 whence u32, 20 padding u32; the answer is { offset u64 } */
const lseek = row<{ handle: bigint; offset: bigint; whence: number }, bigint>({
  name: 'LSEEK',
  decode: (request) => ({ handle: request.u64(0), offset: request.offset64(8), whence: request.u32(16) }),
  call: (ops, caller, ino, a) => ops.lseek(caller, ino, a.handle, a.offset, a.whence),
  encode: (reply, offset) => reply.u64(offset),
});

interface CopyArgs {
  readonly handle: bigint;
  readonly offset: bigint;
  readonly target: { readonly ino: bigint; readonly handle: bigint; readonly offset: bigint };
  readonly length: bigint;
}
/** 0 fh_in u64, 8 off_in u64, 16 nodeid_out u64, 24 fh_out u64, 32 off_out u64, 40 len u64, 48 flags u64 */
const copyFileRange = (name: string, encode: (reply: ReplyWriter, bytes: bigint) => void): Opcode =>
  row<CopyArgs, bigint>({
    name,
    decode: (request) => ({
      handle: request.u64(0),
      offset: request.offset64(8),
      target: { ino: request.u64(16), handle: request.u64(24), offset: request.offset64(32) },
      length: request.offset64(40),
    }),
    call: (ops, caller, ino, a) =>
      ops.copyFileRange(caller, { ino, handle: a.handle, offset: a.offset }, a.target, a.length),
    encode,
  });

/** SYNCFS: everything dirty of this mount becomes durable. */
const syncfs = row<undefined, unknown>({ name: 'SYNCFS', decode: nothing, call: (ops) => ops.drain() });

/** The mount ends; the loop sees ENODEV next. */
const destroy = row<undefined, undefined>({ name: 'DESTROY', decode: nothing, call: nothing });

/** Answers to NOTIFY_RETRIEVE, which this server never sends. */
const notifyReply = row<undefined, undefined>({ name: 'NOTIFY_REPLY', silent: true, decode: nothing, call: nothing });

/** INTERRUPT (0 unique u64) is handled by the device loop, which owns the requests in flight; its decoder stands here. */
export const INTERRUPT = 36;
export function decodeInterrupt(request: RequestReader): { readonly low: number; readonly high: number } {
  return { low: request.u32(0), high: request.u32(4) };
}

/** By opcode number; a hole is answered ENOSYS. INIT (26) is answered at mount time, see handshake.ts. */
export const OPCODES: readonly (Opcode | undefined)[] = Object.assign(
  new Array<Opcode | undefined>(54).fill(undefined),
  {
    1: lookup,
    2: forget,
    3: getattr,
    4: setattr,
    5: readlink,
    6: symlink,
    8: mknod,
    9: mkdir,
    10: unlink,
    11: rmdir,
    12: rename,
    13: link,
    14: open,
    15: read,
    16: write,
    17: statfs,
    18: release,
    20: fsync,
    21: setxattr,
    22: getxattr,
    23: listxattr,
    24: removexattr,
    25: flush,
    27: opendir,
    28: listing('READDIR', false),
    29: releasedir,
    30: fsyncdir,
    31: getlk,
    32: setlk('SETLK', false),
    33: setlk('SETLKW', true),
    34: refused('ACCESS', Errno.ENOSYS), // The kernel checks by default_permissions and does not ask.
    35: create,
    37: refused('BMAP', Errno.ENOSYS),
    38: destroy,
    39: refused('IOCTL', Errno.ENOTTY),
    40: refused('POLL', Errno.ENOSYS),
    41: notifyReply,
    42: batchForget,
    43: fallocate,
    44: listing('READDIRPLUS', true),
    45: rename2,
    46: lseek,
    // fuse_write_out { size u32, padding u32 }: a longer copy is cut, which copy_file_range(2) allows.
    47: copyFileRange('COPY_FILE_RANGE', (reply, bytes) => {
      reply.u32(Number(bytes > U32_MAX ? U32_MAX : bytes));
      reply.u32(0);
    }),
    50: syncfs,
    51: tmpfile,
    52: refused('STATX', Errno.ENOSYS), // The kernel falls back to GETATTR, which has all but btime.
    53: copyFileRange('COPY_FILE_RANGE_64', (reply, bytes) => reply.u64(bytes)),
  },
);
