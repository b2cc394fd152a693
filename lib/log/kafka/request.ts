/**
 * A request of Kafka's protocol, apart from how it is carried. The versions are the newest in the classic encoding, or the first with
 * what we need; Kafka 3.7 to 4.x take all of them (4.0 removed the versions below those of Kafka 2.1, KIP-896).
 */
import type { WireReader } from './wire.ts';

export interface Api {
  readonly name: string;
  readonly key: number;
  readonly version: number;
  /** Headers with tagged fields: request header v2, response header v1. */
  readonly isFlexible: boolean;
}

export interface ApiRequest<T> {
  readonly api: Api;
  /** What follows the request header. Large parts are not copied: they must stay as they are until the answer. */
  readonly body: readonly Uint8Array[];
  /** Reads what follows the response header. `throttleMs` of the answer goes to `throttle`. */
  decode(reader: WireReader, throttle: (ms: number) => void): T;
}

const classic = (name: string, key: number, version: number): Api => ({ name, key, version, isFlexible: false });

export const PRODUCE = classic('Produce', 0, 8);
/** The first by topic id instead of name. */
export const FETCH: Api = { name: 'Fetch', key: 1, version: 13, isFlexible: true };
export const LIST_OFFSETS = classic('ListOffsets', 2, 5);
export const METADATA: Api = { name: 'Metadata', key: 3, version: 12, isFlexible: true };
export const OFFSET_COMMIT = classic('OffsetCommit', 8, 7);
export const FIND_COORDINATOR = classic('FindCoordinator', 10, 2);
export const CREATE_TOPICS = classic('CreateTopics', 19, 4);
export const DELETE_TOPICS = classic('DeleteTopics', 20, 3);
export const INIT_PRODUCER_ID = classic('InitProducerId', 22, 1);
export const OFFSET_FOR_LEADER_EPOCH = classic('OffsetForLeaderEpoch', 23, 3);

/** In the place of a replica's id: who asks is none. */
export const CONSUMER = -1;

/** Every one of them must be in the range that a broker offers. */
export const OUR_APIS: readonly Api[] = [
  PRODUCE,
  FETCH,
  LIST_OFFSETS,
  METADATA,
  OFFSET_COMMIT,
  FIND_COORDINATOR,
  CREATE_TOPICS,
  DELETE_TOPICS,
  INIT_PRODUCER_ID,
  OFFSET_FOR_LEADER_EPOCH,
];

interface PartitionAnswer<T> {
  readonly topic: string;
  readonly partition: number;
  readonly value: T;
}

/** Reads topics { name, partitions { partition INT32, ... } }. */
export function readPartitions<T>(reader: WireReader, read: () => T): PartitionAnswer<T>[] {
  return reader
    .array(() => ({
      topic: reader.string(),
      partitions: reader.array(() => ({ partition: reader.int32(), value: read() })),
    }))
    .flatMap((entry) => entry.partitions.map((of) => ({ topic: entry.topic, ...of })));
}

/** The same of an answer that must be about one topic and one partition. */
export function readOnlyPartition<T>(reader: WireReader, topic: string, partition: number, read: () => T): T {
  const [answer, ...others] = readPartitions(reader, read);
  if (answer?.topic !== topic || answer.partition !== partition || others.length > 0) {
    return reader.flaw(`it is not about ${topic}/${partition} alone`);
  }
  return answer.value;
}
