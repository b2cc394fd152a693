/** From a finished Parquet file on the scratch disk to an object of a table. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { type Footer, readFooter, type SqlRunner } from '../lib/sql/parquet-footer.ts';
import { columnStats } from '../lib/table/column-stats.ts';
import type { DataFile } from '../lib/table/data-file.ts';
import type { Schema } from '../lib/table/schema.ts';

/** In the metadata of the lander's files, where their rows are traced: contexts of spans, as `traceparent`, with spaces between. */
export const TRACES_KEY = 'penstock.traces';

/** Event hours as in `dt=2026-01-31/hour=07`. */
export function hourFolder(hour: number): string {
  const text = new Date(hour * 3_600_000).toISOString();
  return `dt=${text.slice(0, 10)}/hour=${text.slice(11, 13)}`;
}

/** `2026-01-31T07`, as the command line takes it. */
export function hourName(hour: number): string {
  return new Date(hour * 3_600_000).toISOString().slice(0, 13);
}

/** A larger read does not make hashing cheaper. */
const READ_BYTES = 1 << 18;
/**
 * Buffers between two files, as many as were ever read at a time: one for each of thousands of small files would wait for the garbage
 * collector, a hundred megabytes of them in an hour of 1,000 files.
 */
const idleBuffers: Buffer[] = [];

/** 64 bits of SHA-256: names files by their content; equal names are equal bytes. */
export async function fileFingerprint(
  path: string,
  signal?: AbortSignal,
): Promise<{ readonly hash: string; readonly bytes: number }> {
  const handle = await open(path, 'r');
  const buffer = idleBuffers.pop() ?? Buffer.allocUnsafeSlow(READ_BYTES);
  try {
    const hash = createHash('sha256');
    let bytes = 0;
    for (;;) {
      signal?.throwIfAborted();
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, bytes);
      if (bytesRead === 0) break;
      hash.update(buffer.subarray(0, bytesRead));
      bytes += bytesRead;
    }
    return { hash: hash.digest('hex').slice(0, 16), bytes };
  } finally {
    idleBuffers.push(buffer);
    await handle.close();
  }
}

/** The name under which a file is listed in its hour's directory. */
export const fileNameOf = (location: string): string => location.slice(location.lastIndexOf('/') + 1);

export interface FileFacts {
  readonly location: string;
  readonly hour: number;
  readonly bytes: number;
  readonly schema: Schema;
  readonly sortOrderId: number | null;
  /** True where no value can be NaN (JSON has none). */
  readonly hasNoNan: boolean;
}

/** The manifest entry of a file that we wrote, with the statistics of its own footer. `recordCount` is the footer's. */
export async function describeDataFile(sql: SqlRunner, path: string, facts: FileFacts): Promise<DataFile> {
  return dataFileOf(await readFooter(sql, path), facts);
}

export function dataFileOf(footer: Footer, facts: FileFacts): DataFile {
  const hasNan = facts.hasNoNan ? false : null;
  return {
    location: facts.location,
    hour: facts.hour,
    recordCount: BigInt(footer.rows),
    bytes: BigInt(facts.bytes),
    columnStats: columnStats(
      facts.schema,
      footer.columns.map((column) => ({ ...column, hasNan })),
    ),
    sortOrderId: facts.sortOrderId,
    splitOffsets: footer.splitOffsets,
  };
}
