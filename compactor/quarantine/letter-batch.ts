/** A dead letter as the record batch that it came in, so that it is staged by the same code as on its first way. */
import { HeaderBlock, RecordBatchBuilder } from '../../lib/log/batch-builder.ts';
import { BATCH_HEADER_BYTES, NO_PRODUCER } from '../../lib/log/record-batch.ts';
import type { DeadLetter } from './dead-letter-reader.ts';

/** More than the lengths of all fields of a record, or of a header, take. */
const VARINTS_BYTES_MAX = 64;

/** One record at its own offset: the offsets of dead letters have gaps, those of a batch have none. */
export function letterBatch({ offset, timestampMs, key, value, headers }: DeadLetter): Buffer {
  const fields = headers.map(([name, text]) => [name, text === null ? null : Buffer.from(text, 'base64')] as const);
  const headerBytes = fields.reduce(
    (sum, [name, bytes]) => sum + Buffer.byteLength(name) + (bytes?.length ?? 0) + VARINTS_BYTES_MAX,
    0,
  );
  const block = new HeaderBlock(headerBytes);
  for (const [name, bytes] of fields) block.add(name, bytes);
  const builder = new RecordBatchBuilder(
    BATCH_HEADER_BYTES + VARINTS_BYTES_MAX + headerBytes + (key?.length ?? 0) + (value?.length ?? 0),
  );
  builder.add(timestampMs, key, value, block);
  const batch = builder.seal(NO_PRODUCER, 'none');
  // The base offset is not under the checksum.
  batch.writeBigInt64BE(BigInt(offset), 0);
  return batch;
}
