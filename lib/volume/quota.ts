/**
 * Quotas. A directory with a quota is a *quota root*; every inode below it says which root it counts to (`Inode.quota`, inherited at
 * creation), so what an operation has to count is known from the inodes that it compares anyway. Roots nest: usage of an inner one is
 * part of the usage of its outer ones. The root itself counts to the outer ones only.
 *
 * Record {v}u <ino>:  u8 format (1), u8 flags (1: is being counted), varint outer root (0: none), varint bytes limit + 1 (0: none), varint
 * inodes limit + 1 (0: none), u32 CRC32C.  The record of ROOT_INO holds the limits of the whole volume; its usage is that of {v}n.
 */
import { PenstockError } from '../errors.ts';
import { ByteReader, ByteWriter } from './bytes.ts';

export interface Quota {
  /** The next quota root above; 0: none. */
  readonly outer: number;
  /** Null: no limit. */
  readonly bytesMax: number | null;
  readonly inodesMax: number | null;
  /** What was there before the quota is still being counted; no limit is enforced. */
  readonly counting: boolean;
}

/** One more is written, and the sum of that has to be exact. */
export const QUOTA_MAX = Number.MAX_SAFE_INTEGER - 1;
const FORMAT = 1;
const COUNTING = 1;

/** Throws `usage` for a limit above QUOTA_MAX. */
export function encodeQuota({ outer, bytesMax, inodesMax, counting }: Quota): Buffer {
  const most = Math.max(bytesMax ?? 0, inodesMax ?? 0);
  if (most > QUOTA_MAX) throw new PenstockError('usage', `a limit of ${most}: at most ${QUOTA_MAX}`);
  return new ByteWriter()
    .u8(FORMAT)
    .u8(counting ? COUNTING : 0)
    .varint(outer)
    .varint(bytesMax === null ? 0 : bytesMax + 1)
    .varint(inodesMax === null ? 0 : inodesMax + 1)
    .finish();
}

/** Throws `corrupt` naming the directory. */
export function decodeQuota(record: Buffer, ino: number): Quota {
  const reader = new ByteReader(record, `quota of directory ${ino}`);
  if (reader.u8() !== FORMAT) throw reader.damaged('unknown format');
  const flags = reader.u8();
  const [outer, bytes, inodes] = [reader.varint(), reader.varint(), reader.varint()];
  reader.end();
  const limit = (value: number): number | null => (value === 0 ? null : value - 1);
  return { outer, bytesMax: limit(bytes), inodesMax: limit(inodes), counting: (flags & COUNTING) !== 0 };
}
