/** Rows of the opcode table that work on attributes. Field offsets are those of linux/fuse.h, from the end of the header. */
import { Errno, PosixError } from '../vfs/operations.ts';
import type { Entry, SetAttributes, StatFs } from '../vfs/operations.ts';
import { firstName, nothing, row } from './opcode.ts';
import { Fattr, GETATTR_FH, SETXATTR_ACL_KILL_SGID, XATTR_BYTES_MAX } from './protocol.ts';
import type { ReplyWriter } from './reply.ts';
import { MalformedRequest } from './request.ts';

/** 0 getattr_flags u32, 4 dummy u32, 8 fh u64 */
export const getattr = row<bigint | undefined, Entry>({
  name: 'GETATTR',
  decode: (request) => ((request.u32(0) & GETATTR_FH) === 0 ? undefined : request.u64(8)),
  call: (ops, caller, ino, handle) => ops.getattr(caller, ino, handle),
  encode: (reply, result) => reply.attributes(result),
});

/**
 * 0 valid u32, 4 padding u32, 8 fh u64, 16 size u64, 24 lock_owner u64, 32 atime u64, 40 mtime u64, 48 ctime u64,
 * 56 atimensec u32, 60 mtimensec u32, 64 ctimensec u32, 68 mode u32, 72 unused u32, 76 uid u32, 80 gid u32, 84 unused u32
 */
export const setattr = row<SetAttributes, Entry>({
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

/**
 * struct fuse_kstatfs, 80 bytes: 0 blocks u64, 8 bfree u64, 16 bavail u64, 24 files u64, 32 ffree u64,
 * 40 bsize u32, 44 namelen u32, 48 frsize u32, 52 padding u32, 56 spare u32[6]
 */
export const statfs = row<undefined, StatFs>({
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
export const setxattr = row<SetXattrArgs, unknown>({
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
export const getxattr = row<{ sizeMax: number; name: string }, Buffer>({
  name: 'GETXATTR',
  decode: (request) => ({ sizeMax: request.u32(0), name: request.name(8) }),
  call: (ops, caller, ino, a) => ops.getxattr(caller, ino, a.name),
  encode: (reply, value, a) => encodeXattr(reply, value, a.sizeMax),
});

export const listxattr = row<number, readonly string[]>({
  name: 'LISTXATTR',
  decode: (request) => request.u32(0),
  call: (ops, caller, ino) => ops.listxattr(caller, ino),
  encode(reply, names, sizeMax) {
    encodeXattr(reply, Buffer.from(names.map((name) => `${name}\0`).join(''), 'latin1'), sizeMax);
  },
});

export const removexattr = row<string, unknown>({
  name: 'REMOVEXATTR',
  decode: firstName,
  call: (ops, caller, ino, name) => ops.removexattr(caller, ino, name),
});
