import type { Key, Link } from './engine.ts';

/** The key that a record's first 8 bytes name under `link`; null when the value is shorter. */
export function linkTarget(value: Buffer, link: Link): Key | null {
  if (value.length < 8) return null;
  const id = value.readBigUInt64BE(0);
  const shift = BigInt(link.shift);
  return { bucket: `${link.bucketPrefix}${id >> shift}`, field: String(id & ((1n << shift) - 1n)) };
}
