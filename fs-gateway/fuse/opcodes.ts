/**
 * The opcode table: one row per FUSE request with its name, how its arguments are decoded, which operation it calls and how the result
 * is encoded. The rows themselves stand by what they work on: names and directories, file data and locks, attributes.
 *
 * Invariants
 * - `decode` reads everything it needs: after it the request's bytes may be overwritten (WRITE's payload is the one view).
 * - `undo` takes back a result whose reply reached nobody, so that the kernel's lookup counts and ours agree.
 */
import { Errno } from '../vfs/operations.ts';
import { nothing, refused, row, type Opcode } from './opcode.ts';
import { getattr, getxattr, listxattr, removexattr, setattr, setxattr, statfs } from './opcodes-attributes.ts';
import {
  copyFileRange,
  fallocate,
  flush,
  fsync,
  getlk,
  lseek,
  open,
  read,
  release,
  setlk,
  write,
} from './opcodes-files.ts';
import {
  batchForget,
  create,
  forget,
  fsyncdir,
  link,
  listing,
  lookup,
  mkdir,
  mknod,
  opendir,
  readlink,
  releasedir,
  rename,
  rename2,
  rmdir,
  symlink,
  tmpfile,
  unlink,
} from './opcodes-names.ts';
import type { RequestReader } from './request.ts';

const U32_MAX = 0xffff_ffffn;

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
