/**
 * Reads one partition: offsets, where an epoch ends, and whole batches as the broker stores them.
 *
 * Invariants: `fetch` returns whole batches whose headers are well-formed and whose offsets ascend; their checksums are checked by who
 * decodes them (batch-reader.ts). A batch that the broker cut at the bound is left out and comes first in the next answer.
 * Failure: passing errors (a leader that moved, a connection that broke) are tried again within `callMs`.
 * Limits: Int32 for the bounds of a fetch, as in the protocol.
 */
import { PenstockError } from '../../errors.ts';
import type { FetchRequest, FetchResult, Isolation, PartitionOffsets } from '../log.ts';
import { BATCH_HEADER_BYTES, batchBytes, readBatchHeader } from '../record-batch.ts';
import { NO_ERROR, OFFSET_OUT_OF_RANGE, brokerError } from './broker-errors.ts';
import type { Cluster, Route } from './cluster.ts';
import { withoutAborted } from './committed-batches.ts';
import { EARLIEST, LATEST, fetchRequest, listOffsetsRequest, type FetchedPartition } from './fetch-request.ts';
import { epochEndRequest } from './leader-epoch-request.ts';

const INT32_MAX = 2 ** 31 - 1;

/** Runs `attempt` for a partition again after a passing error, with fresh metadata. */
function persistRouted<T>(
  cluster: Cluster,
  topic: string,
  attempt: () => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  return cluster.persist(async () => {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      cluster.forget(topic);
      throw error;
    }
  });
}

export async function readOffsets(
  cluster: Cluster,
  topic: string,
  partition: number,
  isolation: Isolation = 'uncommitted',
): Promise<PartitionOffsets> {
  return persistRouted(cluster, topic, async () => {
    const { node, leaderEpoch } = await cluster.route(topic, partition);
    const list = async (timestamp: bigint): Promise<bigint> => {
      const answer = await cluster.callNode(node, listOffsetsRequest(topic, partition, timestamp, isolation));
      if (answer.error !== NO_ERROR) throw brokerError(answer.error, `offsets of ${topic}/${partition}`);
      return answer.offset;
    };
    const [earliest, end] = await Promise.all([list(EARLIEST), list(LATEST)]);
    return { earliest, end, leaderEpoch };
  });
}

/** See `Log.epochEnd`. */
export function readEpochEnd(
  cluster: Cluster,
  topic: string,
  partition: number,
  epoch: number,
): Promise<bigint | null> {
  return persistRouted(cluster, topic, async () => {
    const { node, leaderEpoch } = await cluster.route(topic, partition);
    const answer = await cluster.callNode(node, epochEndRequest(topic, partition, leaderEpoch, epoch));
    if (answer.error !== NO_ERROR) throw brokerError(answer.error, `end of epoch ${epoch} in ${topic}/${partition}`);
    return answer.endOffset < 0n ? null : answer.endOffset;
  });
}

export function fetchBatches(cluster: Cluster, request: FetchRequest): Promise<FetchResult> {
  const { topic, partition, offset } = request;
  const where = `${topic}/${partition}`;
  const work = async (): Promise<FetchResult> => {
    const route = await cluster.route(topic, partition);
    if (request.topicId !== undefined && route.topicId !== request.topicId) {
      // What is known may be older than what the caller knows.
      const now = await cluster.describe(topic);
      if (now?.id === request.topicId)
        throw new PenstockError('unavailable', `${where}: its leader is asked for again`);
      throw new PenstockError('not-found', `topic ${topic} of id ${request.topicId} was deleted, and made anew`);
    }
    const { leaderEpoch } = route;
    const answer = await fetchOnce(cluster, route, request);
    if (answer.error === OFFSET_OUT_OF_RANGE) {
      const { earliest, end } = await readOffsets(cluster, topic, partition);
      throw new PenstockError('not-found', `${where} has offsets ${earliest} to ${end}, there is no ${offset}`);
    }
    if (answer.error !== NO_ERROR) throw brokerError(answer.error, `fetch of ${where}`);
    const { batches, nextOffset } = splitBatches(answer.records, offset, where);
    const { highWatermark: endOffset } = answer;
    const isCommitted = request.isolation === 'committed';
    return {
      batches: isCommitted ? withoutAborted(batches, answer.aborted, where) : batches,
      nextOffset,
      endOffset,
      lastStableOffset: isCommitted ? answer.lastStableOffset : endOffset,
      leaderEpoch,
    };
  };
  return untilAborted(request.signal, where, () => persistRouted(cluster, topic, work, request.signal));
}

/** Ends at once when the signal fires, whatever the work is waiting for; it sees the signal, too, and ends soon. */
function untilAborted<T>(signal: AbortSignal | undefined, where: string, work: () => Promise<T>): Promise<T> {
  if (signal === undefined) return work();
  return new Promise<T>((resolve, reject) => {
    const stop = (): void => {
      reject(new PenstockError('aborted', `the fetch of ${where} was aborted`, { cause: signal.reason }));
    };
    if (signal.aborted) {
      stop();
      return;
    }
    signal.addEventListener('abort', stop, { once: true });
    work()
      .then(resolve, reject)
      .finally(() => signal.removeEventListener('abort', stop));
  });
}

/** An abort gives the connection up: its answer may be far away. */
function fetchOnce(
  cluster: Cluster,
  { topicId, node, leaderEpoch }: Route,
  { partition, offset, maxBytes, maxWaitMs, isolation = 'uncommitted', signal }: FetchRequest,
): Promise<FetchedPartition> {
  const bounds = { maxBytes: Math.min(maxBytes, INT32_MAX), maxWaitMs: Math.min(maxWaitMs, INT32_MAX) };
  return cluster.withFetchLink(node, async (link) => {
    signal?.throwIfAborted();
    const stop = (): void => link.close();
    signal?.addEventListener('abort', stop, { once: true });
    try {
      const request = fetchRequest({ topicId, partition, leaderEpoch, offset, isolation, ...bounds });
      return await link.call(request, cluster.limits.requestMs + bounds.maxWaitMs);
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  });
}

function splitBatches(
  records: Buffer,
  offset: bigint,
  where: string,
): { readonly batches: Buffer[]; readonly nextOffset: bigint } {
  const batches: Buffer[] = [];
  let nextOffset = offset;
  for (let at = 0; records.length - at >= BATCH_HEADER_BYTES;) {
    const length = batchBytes(records, at);
    if (at + length > records.length) break;
    const header = readBatchHeader(records, at, where);
    const end = header.baseOffset + BigInt(header.lastOffsetDelta) + 1n;
    if (end <= nextOffset) {
      throw new PenstockError('corrupt', `${where}: the broker sent offsets up to ${end - 1n} for ${nextOffset}`);
    }
    batches.push(records.subarray(at, at + header.bytes));
    nextOffset = end;
    at += header.bytes;
  }
  if (batches.length === 0 && records.length > 0) {
    throw new PenstockError('corrupt', `${where}: the broker sent ${records.length} bytes without a whole batch`);
  }
  return { batches, nextOffset };
}
