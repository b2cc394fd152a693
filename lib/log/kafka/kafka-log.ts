/**
 * The Log port over a Kafka cluster (3.7 and newer): `kafka://host:port,host:port?tls=true&ca=FILE&sasl=scram-sha-512&user=U&passwordFile=F`.
 *
 * Invariants
 * - Opening does not connect: a program on a node without an uplink starts, and its first call says what is wrong.
 * - What the broker says decides. Topic ids, offsets and leaders are asked for, leaders alone are kept, until an error.
 * - Nothing runs while nobody calls: no timer, no refresh, no heartbeat.
 * Failure: passing errors are tried again within `callMs` (limits.ts) (appends: see partition-appender.ts), then `unavailable` or `timeout`.
 * Wrong credentials or an untrusted certificate are `denied`, at once. An answer that cannot be read is `corrupt`.
 * Limits: names and sizes are the broker's; batches above BATCH_BYTES_MAX are refused before they are sent.
 */
import { systemClock, type Clock } from '../../clock.ts';
import { PenstockError } from '../../errors.ts';
import {
  BATCH_BYTES_MAX,
  type AppendResult,
  type FetchRequest,
  type FetchResult,
  type Isolation,
  type Log,
  type LogProducer,
  type PartitionOffsets,
  type ProducerOptions,
  type TopicInfo,
  type TopicOptions,
} from '../log.ts';
import { BATCH_HEADER_BYTES, readBatchHeader, viewOf } from '../record-batch.ts';
import {
  createTopicRequest,
  deleteTopicRequest,
  findCoordinatorRequest,
  offsetCommitRequest,
} from './admin-requests.ts';
import { NO_ERROR, TOPIC_ALREADY_EXISTS, UNKNOWN_TOPIC_OR_PARTITION, brokerError } from './broker-errors.ts';
import { Cluster, type Purpose } from './cluster.ts';
import { parseKafkaUrl, type KafkaOptions } from './kafka-url.ts';
import { DEFAULT_LIMITS, brokerTimeoutMs, type KafkaLimits } from './limits.ts';
import type { TopicMetadata } from './metadata-request.ts';
import { PartitionAppender } from './partition-appender.ts';
import { fetchBatches, readEpochEnd, readOffsets } from './partition-reader.ts';
import { initProducerIdRequest } from './produce-request.ts';
import type { OpenTransport } from './transport.ts';

const transports: Readonly<Record<KafkaOptions['client'], () => Promise<OpenTransport>>> = {
  kafkajs: async () => (await import('./kafkajs-transport.ts')).openKafkajsTransport,
  platformatic: async () => (await import('./platformatic-transport.ts')).openPlatformaticTransport,
};

export async function openKafkaLog(url: URL): Promise<Log> {
  return openKafkaLogWith(parseKafkaUrl(url), DEFAULT_LIMITS);
}

export async function openKafkaLogWith(
  options: KafkaOptions,
  limits: KafkaLimits,
  clock: Clock = systemClock,
): Promise<Log> {
  const transport = (await transports[options.client]())(options, limits);
  const { bootstrap } = options;
  const cluster = new Cluster({ bootstrap, transport, limits, clock, random: Math.random });
  return new KafkaLog(options.url, cluster, clock);
}

class KafkaLog implements Log {
  readonly url: string;
  readonly #cluster: Cluster;
  readonly #clock: Clock;
  /** By topic, then purpose and partition. */
  readonly #appenders = new Map<string, Map<string, PartitionAppender>>();
  readonly #coordinators = new Map<string, number>();

  constructor(url: string, cluster: Cluster, clock: Clock) {
    this.url = url;
    this.#cluster = cluster;
    this.#clock = clock;
  }

  async ensureTopic(name: string, options: TopicOptions): Promise<TopicInfo> {
    const cluster = this.#cluster;
    if ((await this.topic(name)) === null) {
      await cluster.persist(async () => {
        const answer = await cluster.callController(createTopicRequest(name, options, brokerTimeoutMs(cluster.limits)));
        if (answer.error !== NO_ERROR && answer.error !== TOPIC_ALREADY_EXISTS) {
          throw brokerError(answer.error, `cannot make topic ${name}`, answer.message);
        }
      });
    }
    // Brokers learn of a new topic and its leaders one after the other.
    return cluster.persist(async () => {
      const found = await cluster.describe(name);
      const hasLeaders = found !== null && [...found.partitions.values()].every(({ leader }) => leader >= 0);
      if (!hasLeaders) throw new PenstockError('unavailable', `topic ${name} has no leaders yet`);
      return topicInfo(found);
    });
  }

  async topic(name: string): Promise<TopicInfo | null> {
    const found = await this.#cluster.persist(() => this.#cluster.describe(name));
    return found === null ? null : topicInfo(found);
  }

  async topics(): Promise<readonly TopicInfo[]> {
    const found = await this.#cluster.persist(() => this.#cluster.describeAll());
    return found.map(topicInfo).sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async deleteTopic(name: string): Promise<void> {
    const cluster = this.#cluster;
    let isRepeat = false;
    await cluster.persist(async () => {
      const wasTried = isRepeat;
      isRepeat = true;
      const answer = await cluster.callController(deleteTopicRequest(name, brokerTimeoutMs(cluster.limits)));
      if (answer.error === UNKNOWN_TOPIC_OR_PARTITION) {
        // After a lost answer it is gone by our own doing.
        if (wasTried) return;
        throw new PenstockError('not-found', `there is no topic ${name}`);
      }
      if (answer.error !== NO_ERROR) throw brokerError(answer.error, `cannot delete topic ${name}`, answer.message);
    });
    this.#appenders.delete(name);
    cluster.forget(name);
    await cluster.persist(async () => {
      if ((await cluster.describe(name)) !== null) {
        throw new PenstockError('unavailable', `topic ${name} is still being deleted`);
      }
    });
  }

  async producer({ isBacklog = false }: ProducerOptions = {}): Promise<LogProducer> {
    const purpose = isBacklog ? 'backlog' : 'produce';
    const { producerId, producerEpoch } = await this.#cluster.persist(async () => {
      const answer = await this.#cluster.callAny(initProducerIdRequest());
      if (answer.error !== NO_ERROR) throw brokerError(answer.error, 'cannot get a producer id');
      return answer;
    });
    return {
      producerId,
      producerEpoch,
      append: (topic, partition, batch) => this.#append(topic, partition, purpose, batch),
    };
  }

  offsets(topic: string, partition: number, isolation?: Isolation): Promise<PartitionOffsets> {
    return readOffsets(this.#cluster, topic, partition, isolation);
  }

  fetch(request: FetchRequest): Promise<FetchResult> {
    return fetchBatches(this.#cluster, request);
  }

  epochEnd(topic: string, partition: number, leaderEpoch: number): Promise<bigint | null> {
    return readEpochEnd(this.#cluster, topic, partition, leaderEpoch);
  }

  async commitHint(group: string, topic: string, nextOffsets: ReadonlyMap<number, bigint>): Promise<void> {
    const cluster = this.#cluster;
    await cluster.persist(async () => {
      try {
        const node = this.#coordinators.get(group) ?? (await this.#findCoordinator(group));
        const errors = await cluster.callNode(node, offsetCommitRequest(group, topic, nextOffsets));
        const error = errors.find((one) => one !== NO_ERROR);
        if (error !== undefined) throw brokerError(error, `cannot keep the hint of group ${group}`);
      } catch (error) {
        this.#coordinators.delete(group);
        throw error;
      }
    });
  }

  async close(): Promise<void> {
    this.#cluster.close();
  }

  async #findCoordinator(group: string): Promise<number> {
    const { error, message, node } = await this.#cluster.callAny(findCoordinatorRequest(group));
    if (error !== NO_ERROR) throw brokerError(error, `no coordinator of group ${group}`, message);
    this.#coordinators.set(group, node);
    return node;
  }

  /** Synchronous up to the appender's queue: the order of calls is the order in the partition. */
  #append(topic: string, partition: number, purpose: Purpose, batch: Uint8Array): Promise<AppendResult> {
    try {
      this.#cluster.signal.throwIfAborted();
      const where = `${topic}/${partition}`;
      if (batch.length > BATCH_BYTES_MAX) {
        throw new PenstockError(
          'too-large',
          `${where}: a batch of ${batch.length} bytes, at most ${BATCH_BYTES_MAX} are taken`,
        );
      }
      if (batch.length < BATCH_HEADER_BYTES)
        throw new PenstockError('corrupt', `${where}: ${batch.length} bytes are no batch`);
      const header = readBatchHeader(viewOf(batch), 0, where);
      if (header.bytes !== batch.length) {
        throw new PenstockError('corrupt', `${where}: ${batch.length} bytes that are not one batch of ${header.bytes}`);
      }
      return this.#appender(topic, partition, purpose).append(batch, header);
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #appender(topic: string, partition: number, purpose: Purpose): PartitionAppender {
    let ofTopic = this.#appenders.get(topic);
    if (ofTopic === undefined) this.#appenders.set(topic, (ofTopic = new Map<string, PartitionAppender>()));
    const key = `${purpose} ${partition}`;
    let appender = ofTopic.get(key);
    if (appender === undefined) {
      appender = new PartitionAppender({
        cluster: this.#cluster,
        clock: this.#clock,
        random: Math.random,
        topic,
        partition,
        purpose,
        readEnd: async () => (await readOffsets(this.#cluster, topic, partition)).end,
      });
      ofTopic.set(key, appender);
    }
    return appender;
  }
}

function topicInfo({ name, id, partitions }: TopicMetadata): TopicInfo {
  return { name, id, partitions: partitions.size };
}
