/**
 * Metadata v12: brokers, and topics with their ids and leaders.
 *
 *    request    topics: COMPACT_ARRAY { topicId UUID, name COMPACT_NULLABLE_STRING, tags }, null: all
 *               | allowAutoTopicCreation BOOL | includeTopicAuthorizedOperations BOOL | tags
 *    answer     throttleMs INT32
 *               | brokers { nodeId INT32, host, port INT32, rack, tags } | clusterId | controllerId INT32
 *               | topics { error INT16, name, topicId UUID, isInternal BOOL,
 *                          partitions { error INT16, partition INT32, leader INT32, leaderEpoch INT32, replicas, isr, offline, tags },
 *                          authorizedOperations INT32, tags } | tags
 */
import type { HostPort } from '../../urls.ts';
import { METADATA, type ApiRequest } from './request.ts';
import { WireWriter, type WireReader } from './wire.ts';

const NO_UUID = Buffer.alloc(16);

export interface PartitionMetadata {
  readonly error: number;
  /** The node id of the leader, -1 while there is none. */
  readonly leader: number;
  readonly leaderEpoch: number;
}

export interface TopicMetadata {
  readonly error: number;
  readonly name: string;
  /** Base64url, as Kafka's own tools print it. */
  readonly id: string;
  readonly isInternal: boolean;
  readonly partitions: ReadonlyMap<number, PartitionMetadata>;
}

export interface ClusterMetadata {
  readonly nodes: ReadonlyMap<number, HostPort>;
  readonly controller: number;
  readonly topics: readonly TopicMetadata[];
}

/** `topics` null: every topic. Nothing is created by asking. */
export function metadataRequest(topics: readonly string[] | null): ApiRequest<ClusterMetadata> {
  const writer = new WireWriter().uvarint(topics === null ? 0 : topics.length + 1);
  for (const topic of topics ?? []) writer.bytes(NO_UUID).compactString(topic).noTaggedFields();
  writer.boolean(false).boolean(false).noTaggedFields();
  return {
    api: METADATA,
    body: [writer.finish()],
    decode: (reader, throttle) => {
      throttle(reader.int32());
      const nodes = new Map(reader.compactArray(() => readNode(reader)));
      reader.compactNullableString();
      const controller = reader.int32();
      const answers = reader.compactArray(() => readTopic(reader));
      reader.taggedFields();
      reader.end();
      return { nodes, controller, topics: answers };
    },
  };
}

function readNode(reader: WireReader): [number, HostPort] {
  const id = reader.int32();
  const host = reader.compactString();
  const port = reader.int32();
  reader.compactNullableString();
  reader.taggedFields();
  if (port < 0 || port > 65_535) reader.flaw(`${port} is not a port`);
  return [id, { host, port }];
}

function readTopic(reader: WireReader): TopicMetadata {
  const error = reader.int16();
  const name = reader.compactNullableString() ?? '';
  const id = reader.uuid().toString('base64url');
  const isInternal = reader.boolean();
  const partitions = new Map(reader.compactArray(() => readPartition(reader)));
  reader.int32();
  reader.taggedFields();
  return { error, name, id, isInternal, partitions };
}

function readPartition(reader: WireReader): [number, PartitionMetadata] {
  const error = reader.int16();
  const partition = reader.int32();
  const leader = reader.int32();
  const leaderEpoch = reader.int32();
  for (let list = 0; list < 3; list++) reader.compactArray(() => reader.int32());
  reader.taggedFields();
  return [partition, { error, leader, leaderEpoch }];
}
