/** Topics (CreateTopics v4, DeleteTopics v3) and a group's hint (FindCoordinator v2, OffsetCommit v7). The layouts stand at each. */
import type { TopicOptions } from '../log.ts';
import {
  CREATE_TOPICS,
  DELETE_TOPICS,
  FIND_COORDINATOR,
  OFFSET_COMMIT,
  readPartitions,
  type ApiRequest,
} from './request.ts';
import { WireWriter, type WireReader } from './wire.ts';

const BROKER_DEFAULT = -1;
const GROUP = 0;
/** A commit from outside the group's protocol, as Kafka's own tools make it. */
const NO_GENERATION = -1;

export interface TopicAnswer {
  readonly error: number;
  readonly message: string | null;
}

/**
 * 1 topic { name, partitions INT32, replicationFactor INT16, 0 assignments, configs { name, value } } | timeoutMs INT32 | validateOnly BOOL
 * -> throttleMs INT32 | topics { name, error INT16, message }
 *
 * LogAppendTime: a sensor's clock may be wrong by years, and a broker refuses records from the future and deletes those from the past
 * by their time; the time of the event is a header.
 */
export function createTopicRequest(name: string, options: TopicOptions, timeoutMs: number): ApiRequest<TopicAnswer> {
  const configs = [
    ['retention.ms', String(options.retentionMs)],
    ['message.timestamp.type', 'LogAppendTime'],
  ] as const;
  const writer = new WireWriter().int32(1).string(name).int32(options.partitions).int16(BROKER_DEFAULT).int32(0);
  writer.array(configs, ([key, value]) => writer.string(key).string(value));
  return {
    api: CREATE_TOPICS,
    body: [writer.int32(timeoutMs).boolean(false).finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      return readOnlyTopic(reader, name, () => ({ error: reader.int16(), message: reader.nullableString() }));
    },
  };
}

/** names { name } | timeoutMs INT32 -> throttleMs INT32 | topics { name, error INT16 } */
export function deleteTopicRequest(name: string, timeoutMs: number): ApiRequest<TopicAnswer> {
  return {
    api: DELETE_TOPICS,
    body: [new WireWriter().int32(1).string(name).int32(timeoutMs).finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      return readOnlyTopic(reader, name, () => ({ error: reader.int16(), message: null }));
    },
  };
}

function readOnlyTopic<T>(reader: WireReader, name: string, read: () => T): T {
  const [answer, ...others] = reader.array(() => ({ name: reader.string(), value: read() }));
  if (answer?.name !== name || others.length > 0) reader.flaw(`it is not about topic ${name} alone`);
  reader.end();
  return answer.value;
}

export interface CoordinatorAnswer {
  readonly error: number;
  readonly message: string | null;
  readonly node: number;
}

/** key STRING | keyType INT8 -> throttleMs INT32 | error INT16 | message | nodeId INT32 | host | port INT32 */
export function findCoordinatorRequest(group: string): ApiRequest<CoordinatorAnswer> {
  return {
    api: FIND_COORDINATOR,
    body: [new WireWriter().string(group).int8(GROUP).finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      const answer = { error: reader.int16(), message: reader.nullableString(), node: reader.int32() };
      reader.string();
      reader.int32();
      reader.end();
      return answer;
    },
  };
}

/**
 * group | generation INT32 -1 | member STRING "" | instance STRING null
 * | 1 topic { name, partitions { partition INT32, offset INT64, leaderEpoch INT32 -1, metadata STRING } }
 * -> throttleMs INT32 | topics { name, partitions { partition INT32, error INT16 } }: the errors
 */
export function offsetCommitRequest(
  group: string,
  topic: string,
  nextOffsets: ReadonlyMap<number, bigint>,
): ApiRequest<readonly number[]> {
  const writer = new WireWriter().string(group).int32(NO_GENERATION).string('').string(null);
  writer
    .int32(1)
    .string(topic)
    .array([...nextOffsets], ([partition, nextOffset]) => {
      writer.int32(partition).int64(nextOffset).int32(-1).string(null);
    });
  return {
    api: OFFSET_COMMIT,
    body: [writer.finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      const answers = readPartitions(reader, () => reader.int16());
      reader.end();
      const isAsked = answers.every((answer) => answer.topic === topic && nextOffsets.has(answer.partition));
      if (!isAsked || answers.length !== nextOffsets.size) reader.flaw(`it is not about the partitions of ${topic}`);
      return answers.map(({ value }) => value);
    },
  };
}
