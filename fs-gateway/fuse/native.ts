/**
 * The system calls that Node does not offer, by koffi: the only file that imports it. Every call answers like the kernel does: a
 * value >= 0, or the negated errno. Nothing here throws for a failing call, because EAGAIN and ENOENT are everyday answers of
 * /dev/fuse and an exception costs more than the call.
 *
 * Invariants
 * - Only loaded when first used: `mountability()` must be able to say "not Linux" on a machine without libc.so.6.
 * - Buffers handed to a call stay referenced by the caller until it returns; all calls but `pollAsync` are synchronous.
 * Limits: Linux on a 64-bit little-endian machine (x86-64, arm64): the struct layouts below are LP64.
 */
import { closeSync } from 'node:fs';
import koffi from 'koffi';
import { Errno } from '../vfs/operations.ts';

export const O_NONBLOCK = 0o4000;
export const O_RDWR = 0o2;
export const MNT_FORCE = 1;
export const MNT_DETACH = 2;
export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_REMOUNT = 32;
export const MS_BIND = 4096;
const F_SETFL = 4;
const F_SETLEASE = 1024;
const F_RDLCK = 0;
const F_UNLCK = 2;
/** _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, u32) of linux/fuse.h. */
const FUSE_DEV_IOC_BACKING_OPEN = 0x4010e501;
const FUSE_DEV_IOC_BACKING_CLOSE = 0x4004e502;
/** _IOR('f', 1, long) and _IOW('f', 2, long) of linux/fs.h; both take an int. */
const FS_IOC_GETFLAGS = 0x80086601;
const FS_IOC_SETFLAGS = 0x40086602;
const FS_NOATIME_FL = 0x80;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
const POLLIN = 1;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const EFD_CLOEXEC = 0o2000000;

/** Which of the two descriptors of a `PollPair` are readable (or failed: the next read says how). */
export const FIRST_READY = 1;
export const SECOND_READY = 2;

export interface Native {
  mount(source: string, target: string, type: string, flags: number, data: string): number;
  umount2(target: string, flags: number): number;
  read(fd: number, into: Buffer, bytes: number): number;
  write(fd: number, from: Buffer, bytes: number): number;
  /** One write(2) of the first `headBytes` of `head` followed by all of `body`, without copying `body`. */
  writeBoth(fd: number, head: Buffer, headBytes: number, body: Buffer): number;
  setNonBlocking(fd: number): number;
  /** A counter to wake a poll with: readable once it was written. */
  eventfd(): number;
  /** libuv's own epoll descriptor of the main thread's loop: readable when libuv has something to do. */
  uvBackendFd(): number;
  pollPair(first: number, second: number): PollPair;
  /** /dev/fuse whose file system was unmounted or aborted; reads nothing. */
  hasEnded(fd: number): boolean;
  /** A connected pair of stream sockets, both close-on-exec. */
  socketPair(): readonly [number, number];
  /** Registers the file behind `fd` for passthrough on the connection of `device`: its backing id, or -errno. */
  backingOpen(device: number, fd: number): number;
  backingClose(device: number, id: number): number;
  /**
   * 0 when a read lease could be had on the file behind the read-only `fd` (it is given back at once): nobody has the file open or mapped for
   * writing. -EAGAIN otherwise. Whoever opens it in that moment breaks the lease, which sends SIGIO: the process must not die of that.
   */
  testReadLease(fd: number): number;
  /** What `chattr +A` does; -errno where the file system cannot. */
  omitAccessTimes(fd: number): number;
  /** lseek(2): moves the descriptor's offset, which nobody may use. */
  seek(fd: number, offset: number, whence: typeof SEEK_DATA | typeof SEEK_HOLE): number;
  /** A stream socket, close-on-exec, connected to the one at this path, or -errno. */
  connectUnix(path: string): number;
  /** One byte, and the descriptor by SCM_RIGHTS. */
  sendFd(socket: number, fd: number): number;
  /** The descriptor that a peer sent by SCM_RIGHTS with one byte, without waiting; -EAGAIN: nothing yet; -ENOENT: there was none, or the end. */
  receiveFd(socket: number): number;
}

export interface PollPair {
  /** Waits up to `timeoutMs` (0: looks only) on the calling thread; the bits FIRST_READY and SECOND_READY. */
  wait(timeoutMs: number): number;
  /** The same on a thread of libuv's pool. */
  waitAsync(timeoutMs: number): Promise<number>;
}

type Call = (...args: unknown[]) => number | bigint;
type AsyncCall = Call & { async(...args: unknown[]): void };

let loaded: Native | undefined;

export function native(): Native {
  loaded ??= load();
  return loaded;
}

function load(): Native {
  const libc = koffi.load('libc.so.6');
  const self = koffi.load(null);
  const bind = (prototype: string): AsyncCall => libc.func(prototype);
  const ownCall = (prototype: string): Call => self.func(prototype);
  const result = (value: number | bigint): number => (Number(value) < 0 ? -koffi.errno() : Number(value));

  const mount = bind('int mount(const char*, const char*, const char*, unsigned long, const char*)');
  const umount2 = bind('int umount2(const char*, int)');
  const read = bind('long read(int, void*, unsigned long)');
  const write = bind('long write(int, void*, unsigned long)');
  const writev = bind('long writev(int, void*, int)');
  const fcntl = bind('int fcntl(int, int, int)');
  const lseek = bind('long lseek(int, long, int)');
  const ioctl = bind('int ioctl(int, unsigned long, void*)');
  const eventfd = bind('int eventfd(unsigned int, int)');
  const poll = bind('int poll(void*, unsigned long, int)');
  const socketpair = bind('int socketpair(int, int, int, void*)');
  const socket = bind('int socket(int, int, int)');
  const connect = bind('int connect(int, void*, unsigned int)');
  const sendmsg = bind('long sendmsg(int, void*, int)');
  const recvmsg = bind('long recvmsg(int, void*, int)');

  // struct iovec iov[2]: { u64 base; u64 length } each.
  const iov = Buffer.alloc(32);
  let addressedHead: Buffer | undefined;

  return {
    mount: (source, target, type, flags, data) => result(mount(source, target, type, flags, data)),
    umount2: (target, flags) => result(umount2(target, flags)),
    read: (fd, into, bytes) => result(read(fd, into, bytes)),
    write: (fd, from, bytes) => result(write(fd, from, bytes)),
    writeBoth(fd, head, headBytes, body) {
      if (addressedHead !== head) {
        iov.writeBigUInt64LE(koffi.address(head), 0);
        addressedHead = head;
      }
      iov.writeBigUInt64LE(BigInt(headBytes), 8);
      iov.writeBigUInt64LE(koffi.address(body), 16);
      iov.writeBigUInt64LE(BigInt(body.length), 24);
      return result(writev(fd, iov, 2));
    },
    setNonBlocking: (fd) => result(fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK)),
    eventfd: () => result(eventfd(0, EFD_CLOEXEC | O_NONBLOCK)),
    uvBackendFd: () => Number(ownCall('int uv_backend_fd(void*)')(ownCall('void* uv_default_loop()')())),
    pollPair: (first, second) => makePollPair(poll, first, second),
    hasEnded(fd) {
      const fds = Buffer.alloc(8); // no events asked for: only POLLERR and POLLHUP are answered
      fds.writeInt32LE(fd, 0);
      return Number(poll(fds, 1, 0)) > 0;
    },
    socketPair() {
      const pair = Buffer.alloc(8);
      const status = result(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
      if (status < 0) throw new Error(`socketpair: errno ${-status}`);
      return [pair.readInt32LE(0), pair.readInt32LE(4)];
    },
    backingOpen(device, fd) {
      // struct fuse_backing_map, 16 bytes: 0 fd i32, 4 flags u32, 8 padding u64.
      const map = Buffer.alloc(16);
      map.writeInt32LE(fd, 0);
      return result(ioctl(device, FUSE_DEV_IOC_BACKING_OPEN, map));
    },
    backingClose(device, id) {
      const number = Buffer.alloc(4);
      number.writeUInt32LE(id, 0);
      return result(ioctl(device, FUSE_DEV_IOC_BACKING_CLOSE, number));
    },
    testReadLease(fd) {
      const taken = result(fcntl(fd, F_SETLEASE, F_RDLCK));
      if (taken === 0) fcntl(fd, F_SETLEASE, F_UNLCK);
      return taken;
    },
    omitAccessTimes(fd) {
      const flags = Buffer.alloc(8);
      const status = result(ioctl(fd, FS_IOC_GETFLAGS, flags));
      if (status < 0) return status;
      flags.writeUInt32LE((flags.readUInt32LE(0) | FS_NOATIME_FL) >>> 0, 0);
      return result(ioctl(fd, FS_IOC_SETFLAGS, flags));
    },
    seek: (fd, offset, whence) => result(lseek(fd, offset, whence)),
    connectUnix(path) {
      // struct sockaddr_un: u16 family, the path and a zero.
      const address = Buffer.alloc(110);
      address.writeUInt16LE(AF_UNIX, 0);
      if (address.write(path, 2, 107) !== Buffer.byteLength(path)) return -Errno.ENAMETOOLONG;
      const fd = result(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (fd < 0) return fd;
      const connected = result(connect(fd, address, address.length));
      if (connected === 0) return fd;
      closeSync(fd);
      return connected;
    },
    sendFd(peer, fd) {
      const { header, control } = makeMessage();
      control.writeBigUInt64LE(20n, 0);
      control.writeInt32LE(SOL_SOCKET, 8);
      control.writeInt32LE(SCM_RIGHTS, 12);
      control.writeInt32LE(fd, 16);
      return result(sendmsg(peer, header, MSG_NOSIGNAL));
    },
    receiveFd(peer) {
      const { header, control } = makeMessage();
      const received = result(recvmsg(peer, header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
      if (received < 0) return received;
      const truncated = (header.readInt32LE(48) & MSG_CTRUNC) !== 0;
      const rights = control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS;
      return received > 0 && !truncated && rights ? control.readInt32LE(16) : -Errno.ENOENT;
    },
  };
}

/** struct pollfd fds[2]: { i32 fd; i16 events; i16 revents } each. */
function makePollPair(poll: AsyncCall, first: number, second: number): PollPair {
  const fds = Buffer.alloc(16);
  fds.writeInt32LE(first, 0);
  fds.writeInt16LE(POLLIN, 4);
  fds.writeInt32LE(second, 8);
  fds.writeInt16LE(POLLIN, 12);
  // revents is read byte by byte: every bit poll(2) can answer here is in the low one.
  const ready = (): number => (fds[6] === 0 ? 0 : FIRST_READY) | (fds[14] === 0 ? 0 : SECOND_READY);
  return {
    wait: (timeoutMs) => (Number(poll(fds, 2, timeoutMs)) > 0 ? ready() : 0),
    waitAsync: (timeoutMs) =>
      new Promise((resolve, reject) => {
        poll.async(fds, 2, timeoutMs, (error: Error | null, count: number | bigint) => {
          if (error === null) resolve(Number(count) > 0 ? ready() : 0);
          else reject(error);
        });
      }),
  };
}

/**
 * struct msghdr, 56 bytes: 0 name*, 8 namelen u32, 16 iov*, 24 iovlen u64, 32 control*, 40 controllen u64, 48 flags i32 (out).
 * struct cmsghdr: 0 len u64, 8 level i32, 12 type i32, 16 the descriptor, padded to 24 bytes. One byte of payload travels with it.
 */
function makeMessage(): { header: Buffer; control: Buffer; iov: Buffer; payload: Buffer } {
  const header = Buffer.alloc(56);
  const iov = Buffer.alloc(16);
  const control = Buffer.alloc(24);
  const payload = Buffer.alloc(1);
  iov.writeBigUInt64LE(koffi.address(payload), 0);
  iov.writeBigUInt64LE(1n, 8);
  header.writeBigUInt64LE(koffi.address(iov), 16);
  header.writeBigUInt64LE(1n, 24);
  header.writeBigUInt64LE(koffi.address(control), 32);
  header.writeBigUInt64LE(BigInt(control.length), 40);
  return { header, control, iov, payload };
}
