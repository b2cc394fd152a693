/** What values a file may have in a column, by the statistics of its manifest entry: enough to tell that two files have none in common. */
import type { ColumnStats, DataFile } from '../../lib/table/data-file.ts';
import type { FieldType } from '../../lib/table/schema.ts';

/** Values of one column, whose `<` is the order of the column. */
type Value = number | bigint | string;

/** `none`: every row is null. `any`: not known. */
export type Range = { readonly lower: Value; readonly upper: Value } | 'none' | 'any';

export function rangeOf(file: DataFile, column: { readonly id: number; readonly type: FieldType }): Range {
  const stats = file.columnStats.get(column.id);
  if (stats === undefined) return 'any';
  if (stats.nullCount !== null && stats.nullCount === stats.valueCount) return 'none';
  if (typeof column.type !== 'string' || mayHoldNan(column.type, stats)) return 'any';
  const lower = stats.lower && valueOf(column.type, stats.lower);
  const upper = stats.upper && valueOf(column.type, stats.upper);
  return lower === null || upper === null ? 'any' : { lower, upper };
}

/** Bounds say nothing of NaN. */
function mayHoldNan(type: string, { nanCount }: ColumnStats): boolean {
  return (type === 'float' || type === 'double') && nanCount !== 0n;
}

/** False only when no value can be in both. */
export function mayShare(a: Range, b: Range): boolean {
  if (a === 'none' || b === 'none') return false;
  return a === 'any' || b === 'any' || (a.lower <= b.upper && b.lower <= a.upper);
}

/** As `mayShare`, but files of one order that meet at one value, as neighbours do, do not overlap. */
export function overlaps(a: Range, b: Range): boolean {
  if (a === 'none' || b === 'none') return false;
  return a === 'any' || b === 'any' || (a.lower < b.upper && b.lower < a.upper);
}

/** Whether all have one and the same value. */
export function isConstant(ranges: readonly Range[]): boolean {
  const [first] = ranges;
  if (first === undefined || typeof first === 'string' || first.lower !== first.upper) return false;
  return ranges.every(
    (range) => typeof range !== 'string' && range.lower === first.lower && range.upper === first.lower,
  );
}

/** From Iceberg's binary form (lib/table/single-value.ts). A bound that was written before its column was widened is as long as it was then. */
function valueOf(type: string, bound: Uint8Array): Value | null {
  const bytes = Buffer.from(bound.buffer, bound.byteOffset, bound.byteLength);
  switch (type) {
    case 'boolean':
      return bytes.length === 1 ? bytes.readUInt8() : null;
    case 'int':
    case 'date':
    case 'long':
    case 'time':
    case 'timestamp':
    case 'timestamptz':
      if (bytes.length === 4) return bytes.readInt32LE();
      return bytes.length === 8 ? bytes.readBigInt64LE() : null;
    case 'float':
    case 'double':
      if (bytes.length === 4) return bytes.readFloatLE();
      return bytes.length === 8 ? bytes.readDoubleLE() : null;
    default:
      if (type.startsWith('decimal')) {
        return bytes.length === 0 ? null : BigInt.asIntN(8 * bytes.length, BigInt(`0x${bytes.toString('hex')}`));
      }
      // A character for each byte: compares as the bytes do, which is the order of UTF-8.
      return bytes.toString('latin1');
  }
}
