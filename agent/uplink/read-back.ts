/**
 * Reading back: which of the batches that may have been sent are stored. Only the tail of the partition is read, from where the
 * oldest of them can lie, and only batches of their producers are decoded.
 */
import type { Log } from '../../lib/log/log.ts';
import { readBatchHeader } from '../../lib/log/record-batch.ts';
import { firstSeqOf } from './reading-record.ts';
import type { SendIntent } from './send-intents.ts';

const FETCH_BYTES = 1 << 20;

/** The ids of the intents of one partition (of the topic as it is now) whose batches are stored. Throws what `fetch` throws. */
export async function findStored(
  log: Log,
  intents: readonly SendIntent[],
  signal: AbortSignal,
): Promise<ReadonlySet<number>> {
  const stored = new Set<number>();
  const [any] = intents;
  if (any === undefined) return stored;
  const { topic, partition } = any;
  const where = `${topic}/${partition}`;
  const { earliest, end } = await log.offsets(topic, partition);
  const from = intents.reduce((least, { fromOffset }) => (fromOffset < least ? fromOffset : least), any.fromOffset);
  // Below `earliest` retention has taken what was there: not to be found, and not to be told from what never arrived.
  let next = from < earliest ? earliest : from;
  while (next < end && stored.size < intents.length) {
    const result = await log.fetch({ topic, partition, offset: next, maxBytes: FETCH_BYTES, maxWaitMs: 0, signal });
    for (const batch of result.batches) {
      const header = readBatchHeader(batch, 0, where);
      const match = intents.find(
        (intent) =>
          intent.producerId === header.producerId &&
          intent.producerEpoch === header.producerEpoch &&
          intent.baseSequence === header.baseSequence,
      );
      if (match !== undefined && firstSeqOf(batch, where, match.incarnation) === match.first) stored.add(match.id);
    }
    if (result.nextOffset <= next) break;
    next = result.nextOffset;
  }
  return stored;
}
