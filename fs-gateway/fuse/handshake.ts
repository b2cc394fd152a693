/**
 * INIT, the one request of a mount that is answered by whoever made the mount and not by a worker: it comes once, right behind mount(2),
 * and is never sent again, so a supervisor that answered it can tell every later worker what was agreed.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { Native } from './native.ts';
import { FIRST_READY } from './native.ts';
import { INIT_OPCODE, MAX_PAGES, MAX_PAYLOAD_BYTES, OUT_HEADER_BYTES, REQUEST_BUFFER_BYTES } from './protocol.ts';
import { RequestReader } from './request.ts';

const PROTOCOL_MAJOR = 7;
/** The newest protocol whose structs this server knows (Linux 6.18). */
const PROTOCOL_MINOR_MAX = 45;
/** The oldest: 7.36 (Linux 5.16) is the first with the 64-byte INIT request that carries `flags2`. */
const PROTOCOL_MINOR_MIN = 36;
/** 7.44 (Linux 6.16) knows NOTIFY_INC_EPOCH. */
const INC_EPOCH_MINOR = 44;
const INIT_TIMEOUT_MS = 10_000;

export interface HandshakeChoices {
  /** vfs/ stores and checks `system.posix_acl_*` extended attributes. */
  readonly posixAcl: boolean;
  /** Opens may answer a backing id (FOPEN_PASSTHROUGH). Needs CAP_SYS_ADMIN. */
  readonly passthrough: boolean;
}

/** What the kernel and this server agreed on; handed from the supervisor to every worker. */
export interface Negotiated {
  readonly minor: number;
  /** Capability bits, `flags` and `flags2` of fuse_init_out. */
  readonly flags: number;
  readonly flags2: number;
  readonly setxattrExtended: boolean;
  readonly passthrough: boolean;
  readonly incrementEpoch: boolean;
  readonly resend: boolean;
}

/** fuse_init_in.flags: what is asked for and why. What is absent and could be expected is named below. */
const WANTED = {
  ASYNC_READ: 1 << 0, // several reads of one file at once; read-ahead is useless without
  POSIX_LOCKS: 1 << 1, // fcntl locks come here: they hold between nodes
  BIG_WRITES: 1 << 5, // writes above one page (implied since 4.20, asked for by older documentation)
  DONT_MASK: 1 << 6, // the umask comes with the request: a default ACL of the parent replaces it
  FLOCK_LOCKS: 1 << 10, // flock likewise
  DO_READDIRPLUS: 1 << 13, // listings carry attributes: one request instead of one per entry
  READDIRPLUS_AUTO: 1 << 14, // but only while somebody looks at them
  ASYNC_DIO: 1 << 15, // direct reads and writes in parallel
  PARALLEL_DIROPS: 1 << 18, // lookups and listings of one directory in parallel
  MAX_PAGES: 1 << 22, // requests of 1 MiB
  CACHE_SYMLINKS: 1 << 23, // a symlink's target never changes
  HANDLE_KILLPRIV_V2: 1 << 28, // setuid and setgid are cleared by the operation itself: no request of its own before each write
  SETXATTR_EXT: 1 << 29, // tells when an ACL must clear setgid
  INIT_EXT: 1 << 30, // flags2
} as const;
const POSIX_ACL = 1 << 20;
/** flags2: bits 32 and up of the header's constants. */
const WANTED2 = {
  DIRECT_IO_ALLOW_MMAP: 1 << 4, // a file opened for the daemon path can still be mapped
  HAS_RESEND: 1 << 7, // a new worker gets the requests of a dead one again
} as const;
const PASSTHROUGH2 = 1 << 5;

/*
 * Not asked for: ATOMIC_O_TRUNC (the file would be cut by OPEN, before the kernel finds that it is being executed: open(2) then says ETXTBSY
 * over an empty file, and the program dies of SIGBUS; the truncation comes as a SETATTR instead). WRITEBACK_CACHE (the kernel would keep size, mtime and dirty pages to itself; close-to-open between nodes needs every
 * write here before close returns). AUTO_INVAL_DATA (drops pages at each changed mtime, also our own; vfs/ decides at open by keepCache
 * and pushes invalidations). EXPLICIT_INVAL_DATA (would keep the pages of a file whose size changed elsewhere). EXPORT_SUPPORT (NFS re-export needs lookup of `.` and `..` by inode). NO_OPEN_SUPPORT (an open without a message
 * could not choose passthrough or revalidate). OVER_IO_URING (off by default in the kernel, and its queues want a thread each).
 */

function combine(bits: Readonly<Record<string, number>>): number {
  return Object.values(bits).reduce((sum, bit) => sum | bit, 0);
}

/**
 * Reads INIT from a fresh mount and answers it. The descriptor must be in non-blocking mode.
 *
 * struct fuse_init_in: 0 major u32, 4 minor u32, 8 max_readahead u32, 12 flags u32, 16 flags2 u32, 20 unused u32[11]
 * Throws `unsupported` for a kernel that is too old, `io` when the kernel does not ask.
 */
export function answerInit(sys: Native, fd: number, choices: HandshakeChoices): Negotiated {
  const buffer = Buffer.alloc(REQUEST_BUFFER_BYTES);
  const request = new RequestReader(buffer, true);
  const ready = sys.pollPair(fd, -1).wait(INIT_TIMEOUT_MS);
  const length = (ready & FIRST_READY) === 0 ? 0 : sys.read(fd, buffer, buffer.length);
  if (length <= 0 || !request.load(length) || request.opcode !== INIT_OPCODE) {
    throw new PenstockError('io', `the kernel sent no FUSE INIT after the mount (read: ${length})`);
  }
  const kernel = { major: request.u32(0), minor: request.u32(4), readahead: request.u32(8) };
  if (kernel.major !== PROTOCOL_MAJOR || kernel.minor < PROTOCOL_MINOR_MIN) {
    throw new PenstockError(
      'unsupported',
      `the kernel speaks FUSE ${kernel.major}.${kernel.minor}; at least ${PROTOCOL_MAJOR}.${PROTOCOL_MINOR_MIN} (Linux 5.16) is needed`,
    );
  }
  const flags = request.u32(12) & (combine(WANTED) | (choices.posixAcl ? POSIX_ACL : 0));
  const flags2 = request.u32(16) & (combine(WANTED2) | (choices.passthrough ? PASSTHROUGH2 : 0));
  const minor = Math.min(kernel.minor, PROTOCOL_MINOR_MAX);
  const passthrough = (flags2 & PASSTHROUGH2) !== 0;
  const reply = encodeInit(request, { minor, readahead: kernel.readahead, flags, flags2, passthrough });
  const written = sys.write(fd, reply, reply.length);
  if (written !== reply.length)
    throw new PenstockError('io', `the kernel refused the answer to FUSE INIT: errno ${-written}`);
  return {
    minor,
    flags,
    flags2,
    passthrough,
    setxattrExtended: (flags & WANTED.SETXATTR_EXT) !== 0,
    incrementEpoch: kernel.minor >= INC_EPOCH_MINOR,
    resend: (flags2 & WANTED2.HAS_RESEND) !== 0,
  };
}

/**
 * struct fuse_init_out, 64 bytes: 0 major u32, 4 minor u32, 8 max_readahead u32, 12 flags u32, 16 max_background u16,
 * 18 congestion_threshold u16, 20 max_write u32, 24 time_gran u32, 28 max_pages u16, 30 map_alignment u16, 32 flags2 u32,
 * 36 max_stack_depth u32, 40 request_timeout u16, 42 unused u16[11]
 */
function encodeInit(
  request: RequestReader,
  agreed: { minor: number; readahead: number; flags: number; flags2: number; passthrough: boolean },
): Buffer {
  const reply = Buffer.alloc(OUT_HEADER_BYTES + 64);
  const body = reply.subarray(OUT_HEADER_BYTES);
  reply.writeUInt32LE(reply.length, 0);
  reply.writeUInt32LE(request.uniqueLow, 8);
  reply.writeUInt32LE(request.uniqueHigh, 12);
  body.writeUInt32LE(PROTOCOL_MAJOR, 0);
  body.writeUInt32LE(agreed.minor, 4);
  body.writeUInt32LE(Math.max(agreed.readahead, MAX_PAYLOAD_BYTES), 8);
  body.writeUInt32LE(agreed.flags >>> 0, 12);
  // Read-ahead and asynchronous direct I/O in flight: enough for 64 MiB; more only lengthens the queue of one thread.
  body.writeUInt16LE(64, 16);
  body.writeUInt16LE(48, 18);
  body.writeUInt32LE(MAX_PAYLOAD_BYTES, 20);
  body.writeUInt32LE(1, 24); // Times are kept in nanoseconds.
  body.writeUInt16LE(MAX_PAGES, 28);
  body.writeUInt32LE(agreed.flags2 >>> 0, 32);
  body.writeUInt32LE(agreed.passthrough ? 1 : 0, 36); // A backing file lies on a plain file system, one level down.
  return reply;
}
