/**
 * A directory entry:  u64 big-endian inode number (so that `MetaEngine.follow` reads the inode in the same round trip), u8 type
 * (DT_*: the type bits of st_mode >> 12). Nine bytes; a damaged one is `corrupt` with the name of the entry.
 */
import { PenstockError } from '../errors.ts';

export interface Dentry {
  readonly ino: number;
  readonly type: number;
}

const DENTRY_BYTES = 9;

export function encodeDentry(ino: number, type: number): Buffer {
  const value = Buffer.allocUnsafe(DENTRY_BYTES);
  value.writeUInt32BE(Math.floor(ino / 2 ** 32), 0);
  value.writeUInt32BE(ino % 2 ** 32, 4);
  value[8] = type;
  return value;
}

/** Throws `corrupt`. */
export function decodeDentry(value: Buffer, parent: number, name: string): Dentry {
  if (value.length !== DENTRY_BYTES || value.readUInt32BE(0) >= 2 ** 21) {
    throw new PenstockError('corrupt', `directory entry '${name}' of inode ${parent} is damaged`);
  }
  return { ino: value.readUInt32BE(0) * 2 ** 32 + value.readUInt32BE(4), type: value.readUInt8(8) };
}
