/**
 * A directory entry:  u64 big-endian inode number (so that `MetaEngine.follow` reads the inode in the same round trip), u8 type
 * (DT_*). Nine bytes; a damaged one is `corrupt` with the name of the entry.
 */
import { PenstockError } from '../errors.ts';
import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from './inode.ts';

export interface Dentry {
  readonly ino: number;
  readonly type: number;
}

const DENTRY_BYTES = 9;

/** The type that readdir(3) gives an entry (`IFTODT` of dirent.h): DT_*, from st_mode. */
export function dentryType(mode: number): number {
  return (mode & S_IFMT) >> 12;
}

export const DT_DIR = dentryType(S_IFDIR);
export const DT_REG = dentryType(S_IFREG);
export const DT_LNK = dentryType(S_IFLNK);

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
