/**
 * What READ_COMMITTED leaves to the reader: up to the last stable offset a broker sends the batches of aborted transactions, too, and says
 * which they are. Source: org.apache.kafka.clients.consumer.internals.CompletedFetch (nextFetchedRecord).
 *
 * Invariants: a batch is left out only by what an intact header says; a damaged one stays as it is, for who decodes it to report. What is
 * left out stays as a batch without records, so that the offsets of an answer have no gap.
 */
import { RecordBatchReader } from '../batch-reader.ts';
import { emptiedBatch, isBatchIntact, readBatchHeader } from '../record-batch.ts';

/** `ControlRecordType.ABORT`: the second INT16 of a marker's key, behind its version. */
const ABORT = 0;
const MARKER_KEY_BYTES = 4;

export interface AbortedTransaction {
  readonly producerId: bigint;
  readonly firstOffset: bigint;
}

/** `aborted`: all that overlap `batches`, in any order. */
export function withoutAborted(
  batches: readonly Buffer[],
  aborted: readonly AbortedTransaction[],
  where: string,
): readonly Buffer[] {
  if (aborted.length === 0) return batches;
  const ahead = [...aborted].sort((a, b) => Number(b.firstOffset - a.firstOffset));
  const open = new Set<bigint>();
  return batches.map((batch) => {
    const header = readBatchHeader(batch, 0, where);
    if (header.producerId < 0n || !isBatchIntact(batch, header)) return batch;
    const lastOffset = header.baseOffset + BigInt(header.lastOffsetDelta);
    for (let next = ahead.at(-1); next !== undefined && next.firstOffset <= lastOffset; next = ahead.at(-1)) {
      open.add(next.producerId);
      ahead.pop();
    }
    if (header.isControl) {
      if (isAbortMarker(batch, where)) open.delete(header.producerId);
      return batch;
    }
    return header.isTransactional && open.has(header.producerId) ? emptiedBatch(batch) : batch;
  });
}

/** Compaction may have taken the record of a marker: then it says nothing any more. */
function isAbortMarker(batch: Buffer, where: string): boolean {
  const reader = new RecordBatchReader();
  reader.open(batch, where, true);
  const key = reader.next() ? reader.key() : null;
  return key !== null && key.length >= MARKER_KEY_BYTES && key.readInt16BE(2) === ABORT;
}
