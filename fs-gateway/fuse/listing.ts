/**
 * The reply of READDIR and READDIRPLUS: records packed into as many bytes as the kernel asked for. Each listing has a buffer of its own,
 * because an operation may wait between two entries while other listings go on.
 *
 * struct fuse_dirent, 24 bytes + name, padded to 8: 0 ino u64, 8 off u64 (the cookie behind it), 16 namelen u32, 20 type u32, 24 name.
 * struct fuse_direntplus: fuse_entry_out (128 bytes; nodeid 0: nothing looked up), then the fuse_dirent.
 */
import type { DirectoryEntry } from '../vfs/operations.ts';
import { alignRecord, DIRENT_HEADER_BYTES, ENTRY_OUT_BYTES, MAX_PAYLOAD_BYTES } from './protocol.ts';
import { putEntry, viewOf } from './reply.ts';

export class Listing {
  /** Inode numbers whose lookup count this listing raised: given back when the reply reaches nobody. */
  readonly looked: bigint[] = [];
  readonly plus: boolean;
  readonly #buffer: Buffer;
  readonly #view: DataView;
  #end = 0;

  constructor(size: number, plus: boolean) {
    this.#buffer = Buffer.allocUnsafe(Math.min(size, MAX_PAYLOAD_BYTES));
    this.#view = viewOf(this.#buffer);
    this.plus = plus;
  }

  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#end);
  }

  /** False when the entry does not fit any more. */
  readonly accept = (entry: DirectoryEntry): boolean => {
    const nameBytes = entry.name.length;
    const head = this.plus ? ENTRY_OUT_BYTES : 0;
    const recordBytes = alignRecord(head + DIRENT_HEADER_BYTES + nameBytes);
    if (this.#end + recordBytes > this.#buffer.length) return false;
    if (this.plus) this.#putLookup(entry);
    const view = this.#view;
    const at = this.#end + head;
    // The padding behind the name is within its last eight bytes.
    view.setBigUint64(this.#end + recordBytes - 8, 0n, true);
    view.setBigUint64(at, entry.ino, true);
    view.setBigUint64(at + 8, entry.cookie, true);
    view.setUint32(at + 16, nameBytes, true);
    view.setUint32(at + 20, entry.type, true);
    this.#buffer.write(entry.name, at + DIRENT_HEADER_BYTES, nameBytes, 'latin1');
    this.#end += recordBytes;
    return true;
  };

  /** The kernel links nothing for `.` and `..` and counts no lookup for them, so they are always sent without one. */
  #putLookup(entry: DirectoryEntry): void {
    if (entry.entry === undefined || entry.name === '.' || entry.name === '..') {
      this.#buffer.fill(0, this.#end, this.#end + ENTRY_OUT_BYTES);
      return;
    }
    putEntry(this.#view, this.#end, entry.entry);
    this.looked.push(entry.entry.attributes.ino);
  }
}
