/** Rows of the opcode table that work on names and directories. Field offsets are those of linux/fuse.h, from the end of the header. */
import { Errno, PosixError } from '../vfs/operations.ts';
import type { Caller, Entry, LookupResult, OpenResult, Operations, Result } from '../vfs/operations.ts';
import { Listing } from './listing.ts';
import { entryReply, firstName, nothing, row, type Opcode } from './opcode.ts';
import { decodeFsync } from './opcodes-files.ts';
import type { ReplyWriter } from './reply.ts';
import { MalformedRequest, type RequestReader } from './request.ts';

const SYMLINK_BYTES_MAX = 4095; // PATH_MAX with its zero

/** 0 nlookup u64 */
export const forget = row<bigint, unknown>({
  name: 'FORGET',
  silent: true,
  decode: (request) => request.u64(0),
  call: (ops, _caller, ino, count) => ops.forget(ino, count),
});

/** 0 count u32, 4 dummy u32, then count times { nodeid u64, nlookup u64 } */
export const batchForget = row<readonly (readonly [bigint, bigint])[], unknown>({
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

export const lookup = row<string, LookupResult>({
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

export const readlink = row<undefined, Buffer>({
  name: 'READLINK',
  decode: nothing,
  call: (ops, caller, ino) => ops.readlink(caller, ino),
  encode: (reply, target) => reply.bytes(target),
});

export const symlink = row<readonly [string, string], Entry>({
  name: 'SYMLINK',
  decode: (request) => request.names(0, SYMLINK_BYTES_MAX),
  call: (ops, caller, parent, [name, target]) => ops.symlink(caller, parent, name, Buffer.from(target, 'latin1')),
  ...entryReply,
});

/** 0 mode u32, 4 rdev u32, 8 umask u32, 12 padding u32, 16 name */
export const mknod = row<{ name: string; mode: number; rdev: number; umask: number }, Entry>({
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
export const mkdir = row<{ name: string; mode: number; umask: number }, Entry>({
  name: 'MKDIR',
  decode: (request) => ({ name: request.name(8), mode: request.u32(0), umask: request.u32(4) }),
  call: (ops, caller, parent, a) => ops.mkdir(caller, parent, a.name, a.mode, a.umask),
  ...entryReply,
});

export const unlink = row<string, unknown>({
  name: 'UNLINK',
  decode: firstName,
  call: (ops, caller, parent, name) => ops.unlink(caller, parent, name),
});

export const rmdir = row<string, unknown>({
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
export const rename = row<RenameArgs, unknown>({
  name: 'RENAME',
  decode: (request) => ({ newParent: request.u64(0), flags: 0, names: request.names(8) }),
  call: callRename,
});

/** 0 newdir u64, 8 flags u32, 12 padding u32, 16 two names */
export const rename2 = row<RenameArgs, unknown>({
  name: 'RENAME2',
  decode: (request) => ({ newParent: request.u64(0), flags: request.u32(8), names: request.names(16) }),
  call: callRename,
});

/** 0 oldnodeid u64, 8 name; the header's node is the directory. */
export const link = row<{ ino: bigint; name: string }, Entry>({
  name: 'LINK',
  decode: (request) => ({ ino: request.u64(0), name: request.name(8) }),
  call: (ops, caller, parent, a) => ops.link(caller, a.ino, parent, a.name),
  ...entryReply,
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
  passesThrough: (result: Created) => result.open.backingId !== undefined,
  async undo(ops: Operations, caller: Caller, _parent: bigint, result: Created) {
    const { ino } = result.entry.attributes;
    await ops.release(caller, ino, result.open.handle, undefined);
    ops.forget(ino, 1n);
  },
};

export const create = row<CreateArgs, Created>({
  name: 'CREATE',
  call: (ops, caller, parent, a) => ops.create(caller, parent, a.name, a.mode, a.flags, a.umask),
  ...createReply,
});

export const tmpfile = row<CreateArgs, Created>({
  name: 'TMPFILE',
  call: (ops, caller, parent, a) => ops.tmpfile(caller, parent, a.mode, a.flags, a.umask),
  ...createReply,
});

export const opendir = row<number, OpenResult>({
  name: 'OPENDIR',
  decode: (request) => request.u32(0),
  call: (ops, caller, ino, flags) => ops.opendir(caller, ino, flags),
  encode: (reply, result) => reply.open(result),
  undo: (ops, caller, ino, result) => ops.releasedir(caller, ino, result.handle),
});

interface ListArgs {
  readonly handle: bigint;
  readonly cookie: bigint;
  readonly listing: Listing;
}
/** The struct of READ; offset is the cookie of the last entry seen. */
export const listing = (name: string, plus: boolean): Opcode =>
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

export const releasedir = row<bigint, unknown>({
  name: 'RELEASEDIR',
  decode: (request) => request.u64(0),
  call: (ops, caller, ino, handle) => ops.releasedir(caller, ino, handle),
});

export const fsyncdir = row<{ handle: bigint; dataOnly: boolean }, unknown>({
  name: 'FSYNCDIR',
  decode: decodeFsync,
  call: (ops, caller, ino, a) => ops.fsyncdir(caller, ino, a.handle, a.dataOnly),
});
