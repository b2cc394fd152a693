/** Rows of the opcode table that work on the data and the locks of open files. Field offsets are those of linux/fuse.h, from the end of the header. */
import { constants } from 'node:fs';
import type { FileLock, OpenResult } from '../vfs/operations.ts';
import { row, type Opcode } from './opcode.ts';
import {
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  FSYNC_FDATASYNC,
  LK_FLOCK,
  RELEASE_FLOCK_UNLOCK,
  WRITE_KILL_SUIDGID,
  WRITE_LOCKOWNER,
} from './protocol.ts';
import type { ReplyWriter } from './reply.ts';
import { MalformedRequest, type RequestReader } from './request.ts';

/** 0 flags u32, 4 open_flags u32 */
export const open = row<number, OpenResult>({
  name: 'OPEN',
  decode: (request) => request.u32(0),
  call: (ops, caller, ino, flags) => ops.open(caller, ino, flags),
  encode: (reply, result) => reply.open(result),
  passesThrough: (result) => result.backingId !== undefined,
  undo: (ops, caller, ino, result) => ops.release(caller, ino, result.handle, undefined),
});

/** 0 fh u64, 8 offset u64, 16 size u32, 20 read_flags u32, 24 lock_owner u64, 32 flags u32, 36 padding u32 */
export const read = row<{ handle: bigint; offset: bigint; size: number; flags: number }, Buffer>({
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
  readBytes: (data, a) => Math.min(data.length, a.size),
});

interface WriteArgs {
  readonly handle: bigint;
  readonly offset: bigint;
  readonly data: Buffer;
  readonly flags: number;
  readonly killSuidGid: boolean;
}
/**
 * The flags of the open file, with O_DIRECT only if this write goes past the kernel's pages. F_SETFL may set it when the kernel has begun to write through
 * them, and it then has them locked until we answer. It names an owner of locks (`fuse_direct_io`) in direct writes only.
 */
function flagsOfWrite(request: RequestReader): number {
  const direct = (request.u32(20) & WRITE_LOCKOWNER) !== 0;
  return direct ? request.u32(32) : request.u32(32) & ~constants.O_DIRECT;
}

/** 0 fh u64, 8 offset u64, 16 size u32, 20 write_flags u32, 24 lock_owner u64, 32 flags u32, 36 padding u32, 40 the data */
export const write = row<WriteArgs, number>({
  name: 'WRITE',
  decode: (request) => ({
    handle: request.u64(0),
    offset: request.offset64(8),
    data: request.bytesView(40, request.u32(16)),
    flags: flagsOfWrite(request),
    killSuidGid: (request.u32(20) & WRITE_KILL_SUIDGID) !== 0,
  }),
  call: (ops, caller, ino, a) => ops.write(caller, ino, a.handle, a.offset, a.data, a.flags, a.killSuidGid),
  encode(reply, bytes) {
    reply.u32(bytes);
    reply.u32(0);
  },
  writtenBytes: (bytes) => bytes,
});

/** 0 fh u64, 8 unused u32, 12 padding u32, 16 lock_owner u64 */
export const flush = row<{ handle: bigint; owner: bigint }, unknown>({
  name: 'FLUSH',
  decode: (request) => ({ handle: request.u64(0), owner: request.u64(16) }),
  call: (ops, caller, ino, a) => ops.flush(caller, ino, a.handle, a.owner),
});

/** 0 fh u64, 8 flags u32, 12 release_flags u32, 16 lock_owner u64 */
export const release = row<{ handle: bigint; flockOwner: bigint | undefined }, unknown>({
  name: 'RELEASE',
  unhurried: (ops, ino, { handle, flockOwner }) => flockOwner === undefined && !ops.hasLocks(ino, handle),
  decode: (request) => ({
    handle: request.u64(0),
    flockOwner: (request.u32(12) & RELEASE_FLOCK_UNLOCK) === 0 ? undefined : request.u64(16),
  }),
  call: (ops, caller, ino, a) => ops.release(caller, ino, a.handle, a.flockOwner),
});

/** 0 fh u64, 8 fsync_flags u32, 12 padding u32 */
export const decodeFsync = (request: RequestReader): { handle: bigint; dataOnly: boolean } => ({
  handle: request.u64(0),
  dataOnly: (request.u32(8) & FSYNC_FDATASYNC) !== 0,
});
export const fsync = row<{ handle: bigint; dataOnly: boolean }, unknown>({
  name: 'FSYNC',
  decode: decodeFsync,
  call: (ops, caller, ino, a) => ops.fsync(caller, ino, a.handle, a.dataOnly),
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

export const getlk = row<LockArgs, FileLock>({
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

export const setlk = (name: string, wait: boolean): Opcode =>
  row<LockArgs, unknown>({
    name,
    decode: decodeLock,
    call: (ops, caller, ino, a) => ops.setlk(caller, ino, a.handle, a.owner, a.lock, { wait, flock: a.flock }),
  });

/** 0 fh u64, 8 offset u64, 16 length u64, 24 mode u32, 28 padding u32 */
export const fallocate = row<{ handle: bigint; offset: bigint; length: bigint; mode: number }, unknown>({
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
export const lseek = row<{ handle: bigint; offset: bigint; whence: number }, bigint>({
  name: 'LSEEK',
  // The only one whose offset a program may choose as it likes: a negative one is ENXIO.
  decode: (request) => ({ handle: request.u64(0), offset: request.i64(8), whence: request.u32(16) }),
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
export const copyFileRange = (name: string, encode: (reply: ReplyWriter, bytes: bigint) => void): Opcode =>
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
