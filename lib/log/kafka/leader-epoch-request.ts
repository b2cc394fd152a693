/**
 * OffsetForLeaderEpoch v3 (KIP-320): up to where the log of the leader has the records of a leader epoch and those before it.
 *
 *    request    replicaId INT32 -1 | 1 topic { name, 1 partition { partition INT32, currentLeaderEpoch INT32, leaderEpoch INT32 } }
 *    answer     throttleMs INT32 | topics { name, partitions { error INT16, partition INT32, leaderEpoch INT32, endOffset INT64 } }
 *
 * `endOffset` is where the next epoch begins that the leader knows, or the log's end in its own; -1: it cannot tell.
 */
import { CONSUMER, OFFSET_FOR_LEADER_EPOCH, type ApiRequest } from './request.ts';
import { WireWriter } from './wire.ts';

export interface EpochEndAnswer {
  readonly error: number;
  readonly endOffset: bigint;
}

/** `currentEpoch`: of the leader that is asked; another one refuses to answer. */
export function epochEndRequest(
  topic: string,
  partition: number,
  currentEpoch: number,
  epoch: number,
): ApiRequest<EpochEndAnswer> {
  const writer = new WireWriter().int32(CONSUMER).int32(1).string(topic);
  writer.int32(1).int32(partition).int32(currentEpoch).int32(epoch);
  return {
    api: OFFSET_FOR_LEADER_EPOCH,
    body: [writer.finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      const answers = reader.array(() => {
        if (reader.string() !== topic) reader.flaw('it is about another topic');
        return reader.array(() => {
          const error = reader.int16();
          if (reader.int32() !== partition) reader.flaw('it is about another partition');
          reader.int32();
          return { error, endOffset: reader.int64() };
        });
      });
      reader.end();
      const [answer, ...others] = answers.flat();
      return answer === undefined || others.length > 0 ? reader.flaw('it is not about one partition') : answer;
    },
  };
}
