/** Data files as a table's manifests record them. Counts and sizes are 64-bit in Iceberg and bigint here. */

/** Statistics of one column of one file. null: not known. Bounds are Iceberg single values, see single-value.ts. */
export interface ColumnStats {
  /** Compressed bytes in the file. */
  readonly bytes: bigint | null;
  /** Values including nulls and NaNs. */
  readonly valueCount: bigint | null;
  readonly nullCount: bigint | null;
  readonly nanCount: bigint | null;
  /** No value is below it. */
  readonly lower: Uint8Array | null;
  /** No value is above it. */
  readonly upper: Uint8Array | null;
}

export interface DataFile {
  /** As `ObjectStore.location` gives it: `file:///...` or `s3://...`. */
  readonly location: string;
  /** The partition: hours of `_event_time` since 1970-01-01T00 UTC. */
  readonly hour: number;
  readonly recordCount: bigint;
  readonly bytes: bigint;
  /** By field id. */
  readonly columnStats: ReadonlyMap<number, ColumnStats>;
  /** The table's sort order that the file is sorted by; null or 0: none. */
  readonly sortOrderId: number | null;
  /** Offsets of row groups, ascending. */
  readonly splitOffsets?: readonly bigint[];
}

export interface LiveFile extends DataFile {
  /** Of the snapshot that added the data. */
  readonly sequenceNumber: bigint;
  readonly snapshotId: bigint;
}
