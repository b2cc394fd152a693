/** The names of the data files that we write, and what they tell of a file: all there is to go by in a table of another program that has no sort order. */
import { randomBytes } from 'node:crypto';
import type { DataFile } from '../table/data-file.ts';
import type { TableMetadata } from '../table/metadata.ts';

const FINGERPRINT_IN_NAME = /-([0-9a-f]{16})-[0-9a-f]{8}\.parquet$/;

/**
 * `<stem>-<fingerprint>-<nonce>.parquet`. The nonce makes a name belong to one attempt: were names used again, an orphan of a killed
 * run could be on its way to deletion while the next run commits the same name.
 */
export function parquetName(stem: string, fingerprint: string): string {
  return `${stem}-${fingerprint}-${randomBytes(4).toString('hex')}.parquet`;
}

/** In the names of what a compaction wrote, also when an erasure rewrote it since: it has no reading twice, nor one of another such file. */
export const COMPACTED = 'compacted';
/** In the names of what a compaction wrote while a finished file could not be read: it may have readings of that one. */
export const MERGED = 'merged';
const COMPACTED_NAME = new RegExp(`\\d{2}-${COMPACTED}-[^/]*$`);

export const isCompacted = (location: string): boolean =>
  COMPACTED_NAME.test(location) && fingerprintInName(location) !== null;

const WRITTEN_IN_ORDER = new RegExp(`\\d{2}-(${COMPACTED}|${MERGED})-[^/]*$`);

/** Of what a compaction wrote. */
const isInOrder = (location: string): boolean =>
  WRITTEN_IN_ORDER.test(location) && fingerprintInName(location) !== null;

/** The fingerprint that a name of ours carries; null for names of other writers. */
export function fingerprintInName(location: string): string | null {
  return FINGERPRINT_IN_NAME.exec(location)?.[1] ?? null;
}

/** Whether a file is in the order of its table, as what a compaction leaves is. In a table without one it is what a compaction wrote. */
export function isSortedIn(metadata: TableMetadata): (file: Pick<DataFile, 'location' | 'sortOrderId'>) => boolean {
  const orderId = metadata['default-sort-order-id'];
  return ({ location, sortOrderId }) => (orderId === 0 ? isInOrder(location) : sortOrderId === orderId);
}
