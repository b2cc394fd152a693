/**
 * Replies: one preallocated buffer that a reply is built in and written from, synchronously, so that one buffer serves every
 * request. A reply is one write(2); bulk data (READ, listings) goes out by writev(2) beside the header, uncopied.
 *
 * Invariants
 * - Between `begin` and `send` nothing yields: a reply is encoded and written in one piece.
 * - The kernel takes a reply whole or not at all; a failed write leaves the request unanswered in its list.
 * Failure: ENOENT says that the caller is gone (killed, interrupted): the caller of `send` takes back what it handed out.
 */
import type { Attributes, Entry, OpenResult } from '../vfs/operations.ts';
import type { Native } from './native.ts';
import {
  ATTR_BYTES,
  FOPEN_CACHE_DIR,
  FOPEN_DIRECT_IO,
  FOPEN_KEEP_CACHE,
  FOPEN_PASSTHROUGH,
  OUT_HEADER_BYTES,
  XATTR_BYTES_MAX,
} from './protocol.ts';

/** Below this, copying behind the header is cheaper than the two addresses that writev(2) needs (measured: about 1 us). */
const COPY_BYTES_MAX = 16_384;
const NS_PER_S = 1_000_000_000n;
const U32 = 0x1_0000_0000;

/** Its setters are built into the engine, where those of a Buffer are JavaScript: 64 bits at a time cost a tenth. */
export function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
}

/** Writes a non-negative safe integer as u64. */
function putCount(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % U32, true);
  view.setUint32(at + 4, Math.floor(value / U32), true);
}

/** The time that was written last, in parts: those of one file are mostly the same. */
const last = { timeNs: 0n, seconds: 0n, nanoseconds: 0 };

/** Seconds at `secondsAt` (i64), nanoseconds at `nanosecondsAt` (u32); times before 1970 have positive nanoseconds, as in struct timespec. */
function putTime(view: DataView, secondsAt: number, nanosecondsAt: number, timeNs: bigint): void {
  if (timeNs !== last.timeNs) {
    last.timeNs = timeNs;
    last.seconds = timeNs / NS_PER_S;
    last.nanoseconds = Number(timeNs - last.seconds * NS_PER_S);
    if (last.nanoseconds < 0) {
      last.seconds -= 1n;
      last.nanoseconds += 1e9;
    }
  }
  view.setBigInt64(secondsAt, last.seconds, true);
  view.setUint32(nanosecondsAt, last.nanoseconds, true);
}

function putTtl(view: DataView, secondsAt: number, nanosecondsAt: number, ttlMs: number): void {
  const seconds = Math.floor(ttlMs / 1000);
  putCount(view, secondsAt, seconds);
  view.setUint32(nanosecondsAt, Math.round((ttlMs - seconds * 1000) * 1e6), true);
}

/**
 * struct fuse_attr, 88 bytes
 *   0 ino u64, 8 size u64, 16 blocks u64
 *  24 atime u64, 32 mtime u64, 40 ctime u64
 *  48 atimensec u32, 52 mtimensec u32, 56 ctimensec u32
 *  60 mode u32, 64 nlink u32, 68 uid u32, 72 gid u32, 76 rdev u32, 80 blksize u32, 84 flags u32
 */
function putAttributes(view: DataView, at: number, attributes: Attributes): void {
  view.setBigUint64(at, attributes.ino, true);
  view.setBigUint64(at + 8, attributes.size, true);
  view.setBigUint64(at + 16, attributes.blocks, true);
  putTime(view, at + 24, at + 48, attributes.atimeNs);
  putTime(view, at + 32, at + 52, attributes.mtimeNs);
  putTime(view, at + 40, at + 56, attributes.ctimeNs);
  view.setUint32(at + 60, attributes.mode, true);
  view.setUint32(at + 64, attributes.nlink, true);
  view.setUint32(at + 68, attributes.uid, true);
  view.setUint32(at + 72, attributes.gid, true);
  view.setUint32(at + 76, attributes.rdev, true);
  view.setUint32(at + 80, attributes.blockSize, true);
  view.setUint32(at + 84, 0, true);
}

/**
 * struct fuse_entry_out, 128 bytes
 *   0 nodeid u64, 8 generation u64
 *  16 entry_valid u64, 24 attr_valid u64, 32 entry_valid_nsec u32, 36 attr_valid_nsec u32
 *  40 attr fuse_attr
 */
export function putEntry(view: DataView, at: number, entry: Entry): void {
  view.setBigUint64(at, entry.attributes.ino, true);
  view.setBigUint64(at + 8, entry.attributes.generation, true);
  putTtl(view, at + 16, at + 32, entry.entryTtlMs);
  putTtl(view, at + 24, at + 36, entry.attributesTtlMs);
  putAttributes(view, at + 40, entry.attributes);
}

export class ReplyWriter {
  readonly #sys: Native;
  readonly #fd: number;
  readonly #buffer = Buffer.alloc(OUT_HEADER_BYTES + XATTR_BYTES_MAX);
  readonly #view = viewOf(this.#buffer);
  #end = OUT_HEADER_BYTES;
  #body: Buffer | undefined;

  constructor(sys: Native, fd: number) {
    this.#sys = sys;
    this.#fd = fd;
  }

  begin(): void {
    this.#end = OUT_HEADER_BYTES;
    this.#body = undefined;
  }

  u32(value: number): void {
    this.#end = this.#buffer.writeUInt32LE(value, this.#end);
  }

  u64(value: bigint): void {
    this.#end = this.#buffer.writeBigUInt64LE(value, this.#end);
  }

  entry(entry: Entry): void {
    putEntry(this.#view, this.#end, entry);
    this.#end += 40 + ATTR_BYTES;
  }

  /** nodeid 0 with a TTL: the name is known to be absent. */
  negativeEntry(ttlMs: number): void {
    this.#buffer.fill(0, this.#end, this.#end + 40 + ATTR_BYTES);
    putTtl(this.#view, this.#end + 16, this.#end + 32, ttlMs);
    this.#end += 40 + ATTR_BYTES;
  }

  /** struct fuse_attr_out, 104 bytes: 0 attr_valid u64, 8 attr_valid_nsec u32, 12 dummy u32, 16 attr fuse_attr. */
  attributes(entry: Entry): void {
    putTtl(this.#view, this.#end, this.#end + 8, entry.attributesTtlMs);
    this.#buffer.writeUInt32LE(0, this.#end + 12);
    putAttributes(this.#view, this.#end + 16, entry.attributes);
    this.#end += 16 + ATTR_BYTES;
  }

  /** struct fuse_open_out, 16 bytes: 0 fh u64, 8 open_flags u32, 12 backing_id i32. */
  open(open: OpenResult): void {
    this.u64(open.handle);
    this.u32(
      (open.directIo === true ? FOPEN_DIRECT_IO : 0) |
        (open.keepCache === true ? FOPEN_KEEP_CACHE : 0) |
        (open.cacheDirectory === true ? FOPEN_CACHE_DIR : 0) |
        (open.backingId === undefined ? 0 : FOPEN_PASSTHROUGH),
    );
    this.u32(open.backingId ?? 0);
  }

  /** Data behind what was written so far: small pieces are copied, a large one goes out as it is and must be the last. */
  bytes(data: Buffer): void {
    if (data.length > COPY_BYTES_MAX) this.#body = data;
    else this.#end += data.copy(this.#buffer, this.#end);
  }

  /** Writes the reply. The bytes written, or -errno: -ENOENT when nobody waits for it any more. */
  send(uniqueLow: number, uniqueHigh: number): number {
    return this.#write(uniqueLow, uniqueHigh, 0);
  }

  sendError(uniqueLow: number, uniqueHigh: number, errno: number): number {
    this.begin();
    return this.#write(uniqueLow, uniqueHigh, errno);
  }

  #write(uniqueLow: number, uniqueHigh: number, errno: number): number {
    const buffer = this.#buffer;
    const body = this.#body;
    buffer.writeUInt32LE(this.#end + (body?.length ?? 0), 0);
    buffer.writeInt32LE(-errno, 4);
    buffer.writeUInt32LE(uniqueLow, 8);
    buffer.writeUInt32LE(uniqueHigh, 12);
    if (body === undefined) return this.#sys.write(this.#fd, buffer, this.#end);
    this.#body = undefined;
    return this.#sys.writeBoth(this.#fd, buffer, this.#end, body);
  }
}
