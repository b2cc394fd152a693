import type { ReadingPlace } from '../../../agent/spool/spool-reader.ts';

/** Key and value as the spool has them in memory, behind something else. */
export function placeOf(key: Buffer | null, value: Buffer): ReadingPlace {
  const bytes = Buffer.concat([Buffer.from('..'), key ?? Buffer.alloc(0), value]);
  return { bytes, start: 2, keyBytes: key?.length ?? -1, valueBytes: value.length };
}
