/**
 * Reading back: which of the batches that may have been sent are stored. Only the tail of the partition is read, from where the
 * oldest of them can lie, and only batches of their producers are decoded.
 */
import type { Log } from '../../lib/log/log.ts';
import { readBatchHeader } from '../../lib/log/record-batch.ts';
import { endedAt, type LogCut } from './known-end.ts';
import { firstSeqOf } from './reading-record.ts';
import type { SendIntent } from './send-intents.ts';

const FETCH_BYTES = 1 << 20;

/** The ids of the intents of one partition (of the topic as it is now) whose batches are stored. Throws what `fetch` throws. */
export async function findStored(
  log: Log,
  intents: readonly SendIntent[],
  signal: AbortSignal,
  onCut: (cut: LogCut) => void,
): Promise<ReadonlySet<number>> {
  const stored = new Set<number>();
  const [any] = intents;
  if (any === undefined) return stored;
  const { topic, partition } = any;
  const where = `${topic}/${partition}`;
  const { earliest, end } = await log.offsets(topic, partition);
  const from = await firstOffsetOf(log, intents, any, onCut);
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

/** Where the first of them can lie: where the log had got when it was made, or before that if the log was cut since, and what was cut off replaced. */
async function firstOffsetOf(
  log: Log,
  intents: readonly SendIntent[],
  { topic, partition, fromOffset }: SendIntent,
  onCut: (cut: LogCut) => void,
): Promise<bigint> {
  let first = fromOffset;
  for (const [epoch, ofEpoch] of Map.groupBy(intents, ({ fromEpoch }) => fromEpoch)) {
    const offsets = ofEpoch.map((intent) => intent.fromOffset).toSorted((a, b) => (a < b ? -1 : 1));
    const [least = first, most = first] = [offsets[0], offsets.at(-1)];
    const end = epoch === null ? most : await endedAt(log, topic, partition, { offset: most, epoch });
    if (end < most) onCut({ topic, partition, offset: end, end: most });
    for (const bound of [least, end]) if (bound < first) first = bound;
  }
  return first;
}
