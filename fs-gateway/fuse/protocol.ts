/**
 * The FUSE wire format as constants: what `include/uapi/linux/fuse.h` of Linux 6.18 (protocol 7.45) defines and this server uses. All fields are
 * little-endian on the machines we run on. Each struct is drawn field by field above the code that reads or writes it:
 * requests in `opcodes.ts`, replies in `reply.ts`, INIT in `handshake.ts`, notifications in `notifier.ts`.
 */

/**
 * struct fuse_in_header, 40 bytes
 *   0 len u32            the whole request
 *   4 opcode u32
 *   8 unique u64         bit 63: sent again after NOTIFY_RESEND; bit 0 marks an INTERRUPT
 *  16 nodeid u64
 *  24 uid u32, 28 gid u32, 32 pid u32
 *  36 total_extlen u16   8-byte units of extensions behind the arguments (none are negotiated)
 *  38 padding u16
 */
export const IN_HEADER_BYTES = 40;
export const IN_OPCODE = 4;
export const IN_UNIQUE = 8;
export const IN_NODEID = 16;
export const IN_UID = 24;
export const IN_GID = 28;
export const IN_PID = 32;
/** In the high half of `unique`. */
export const UNIQUE_RESEND_HIGH = 0x8000_0000;

/** struct fuse_out_header, 16 bytes: 0 len u32, 4 error i32 (0 or -errno; the code of a notification), 8 unique u64 (0: notification). */
export const OUT_HEADER_BYTES = 16;

/** Payload bytes of the largest WRITE and READ: 256 pages, the kernel's default `max_pages_limit`. */
export const MAX_PAYLOAD_BYTES = 1 << 20;
export const MAX_PAGES = 256;
/** A request is at most a WRITE: header, fuse_write_in and the payload; one page of room as the kernel asks for. */
export const REQUEST_BUFFER_BYTES = MAX_PAYLOAD_BYTES + 4096;

export const NAME_BYTES_MAX = 255;
/** XATTR_SIZE_MAX of linux/limits.h: the kernel never sends a larger value. */
export const XATTR_BYTES_MAX = 65_536;

export const ATTR_BYTES = 88;
export const ENTRY_OUT_BYTES = 128;
export const DIRENT_HEADER_BYTES = 24;

/** open_flags of fuse_open_out. */
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;
export const FOPEN_CACHE_DIR = 1 << 3;
export const FOPEN_PASSTHROUGH = 1 << 7;

/** fuse_setattr_in.valid */
export const Fattr = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  FH: 1 << 6,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
  CTIME: 1 << 10,
  KILL_SUIDGID: 1 << 11,
} as const;

export const GETATTR_FH = 1 << 0;
export const WRITE_LOCKOWNER = 1 << 1;
export const WRITE_KILL_SUIDGID = 1 << 2;
export const RELEASE_FLOCK_UNLOCK = 1 << 1;
export const LK_FLOCK = 1 << 0;
export const FSYNC_FDATASYNC = 1 << 0;
export const SETXATTR_ACL_KILL_SGID = 1 << 0;

/** l_type of fuse_file_lock (asm-generic/fcntl.h). */
export const F_RDLCK = 0;
export const F_WRLCK = 1;
export const F_UNLCK = 2;

export const NotifyCode = { INVAL_INODE: 2, INVAL_ENTRY: 3, RESEND: 7, INC_EPOCH: 8 } as const;

export const INIT_OPCODE = 26;
/** FUSE_DIRENT_ALIGN: records of a listing start at multiples of 8 bytes. */
export function alignRecord(bytes: number): number {
  return (bytes + 7) & ~7;
}
