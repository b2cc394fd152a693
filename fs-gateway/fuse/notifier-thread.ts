/**
 * The thread that writes notifications to /dev/fuse. It may block in the kernel for as long as a directory or a page is locked by a request
 * that the main thread has yet to answer, which is why it is a thread of its own and not one of libuv's pool,
 * and one of the supervisor, which is not killed for what a worker did.
 *
 * Every notification is fuse_out_header with unique 0 and the code in the error field, then:
 *   INVAL_INODE  struct fuse_notify_inval_inode_out: 0 ino u64, 8 off i64 (-1: attributes only), 16 len i64 (0: to the end)
 *   INVAL_ENTRY  struct fuse_notify_inval_entry_out: 0 parent u64, 8 namelen u32, 12 flags u32, 16 the name and a zero
 * ENOENT only says that the kernel does not hold the inode or name.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { native } from './native.ts';
import { NAME_BYTES_MAX, NotifyCode, OUT_HEADER_BYTES } from './protocol.ts';
import type { Notification } from './notifier.ts';

const sys = native();
// workerData is untyped by its nature; notification-writer.ts, which starts this thread, passes exactly this.
const { fd } = workerData as { readonly fd: number };
const buffer = Buffer.alloc(OUT_HEADER_BYTES + 16 + NAME_BYTES_MAX + 1);

function encode(notification: Notification): { readonly code: number; readonly bytes: number } {
  switch (notification.type) {
    case 'inode':
      buffer.writeBigUInt64LE(BigInt(notification.ino), OUT_HEADER_BYTES);
      buffer.writeBigInt64LE(BigInt(notification.offset), OUT_HEADER_BYTES + 8);
      buffer.writeBigInt64LE(BigInt(notification.length), OUT_HEADER_BYTES + 16);
      return { code: NotifyCode.INVAL_INODE, bytes: 24 };
    case 'entry': {
      const bytes = buffer.write(notification.name, OUT_HEADER_BYTES + 16, NAME_BYTES_MAX, 'latin1');
      buffer.writeBigUInt64LE(BigInt(notification.parent), OUT_HEADER_BYTES);
      buffer.writeUInt32LE(bytes, OUT_HEADER_BYTES + 8);
      buffer.writeUInt32LE(0, OUT_HEADER_BYTES + 12);
      buffer.writeUInt8(0, OUT_HEADER_BYTES + 16 + bytes);
      return { code: NotifyCode.INVAL_ENTRY, bytes: 16 + bytes + 1 };
    }
  }
}

parentPort?.on('message', (batch: readonly Notification[]) => {
  for (const notification of batch) {
    const { code, bytes } = encode(notification);
    buffer.writeUInt32LE(OUT_HEADER_BYTES + bytes, 0);
    buffer.writeInt32LE(code, 4);
    buffer.writeBigUInt64LE(0n, 8);
    sys.write(fd, buffer, OUT_HEADER_BYTES + bytes);
  }
  parentPort?.postMessage(batch.length);
});
