/**
 * Log: partitioned, ordered, replayable records. The unit of exchange is Kafka's RecordBatch v2 (lib/log/record-batch.ts), in
 * every adapter: what the agent encodes once is what lies in a `file:` segment and what goes to a broker.
 *
 * Invariants
 * - An acknowledged append is durable and has an offset; offsets of a partition have no gaps and never change, but where Kafka's operator let a
 *   broker forget (`epochEnd`).
 * - Idempotence as Kafka's brokers do it: (producer id, epoch, base sequence) of one of the last five batches of a partition is
 *   answered with the offset of the first time (`duplicate: true`); any other sequence than the next one is `out-of-order`.
 * - A topic has an id that differs when it was deleted and made anew; offsets are only meaningful together with it.
 * Failure: an append whose answer was lost may have taken effect; the same batch is sent again under the same identity.
 * Limits: BATCH_BYTES_MAX a batch (Kafka's default max.message.bytes); larger is `too-large`.
 */
export const BATCH_BYTES_MAX = 1_048_588;
/** Batches of a producer and partition that may be unacknowledged (Kafka's duplicate window). */
export const IN_FLIGHT_MAX = 5;

export interface TopicInfo {
  readonly name: string;
  /** Kafka's topic id, or a UUID made by the adapter. */
  readonly id: string;
  readonly partitions: number;
}

export interface TopicOptions {
  readonly partitions: number;
  readonly retentionMs: number;
}

export interface AppendResult {
  readonly baseOffset: bigint;
  readonly duplicate: boolean;
  /** Of the leader that it was sent to, as far as was known (an earlier one at most); 0 where the adapter has none. */
  readonly leaderEpoch: number;
}

/**
 * What is read of Kafka's transactions. `committed`: nothing of an aborted one, and reading ends in front of the first that is open.
 * Where an adapter has no transactions, both are the same.
 */
export type Isolation = 'committed' | 'uncommitted';

export interface FetchRequest {
  readonly topic: string;
  /** When another topic has that name by now, nothing of it is answered: `not-found`. */
  readonly topicId?: string;
  readonly partition: number;
  /** The first record wanted. Below the log's start or above its end is `not-found`, the message names both. */
  readonly offset: bigint;
  /** A bound on the answer's bytes; the first batch comes whole even when it is larger. */
  readonly maxBytes: number;
  /** How long to wait when there is nothing yet. */
  readonly maxWaitMs: number;
  /** `uncommitted` unless said otherwise: whatever is stored. */
  readonly isolation?: Isolation;
  readonly signal?: AbortSignal;
}

export interface FetchResult {
  /**
   * Whole RecordBatch v2 byte strings with their base offsets set; the first may begin before the wanted offset. Under `committed`, a batch of
   * an aborted transaction is one without records over the same offsets.
   */
  readonly batches: readonly Buffer[];
  /** Where to go on: behind the last record of `batches` (or the requested offset when there are none). */
  readonly nextOffset: bigint;
  /** The end of the log (the high watermark): the offset of the next record to come. */
  readonly endOffset: bigint;
  /** Where reading ends: under `committed`, the first offset of the first open transaction if there is one; else `endOffset`. */
  readonly lastStableOffset: bigint;
  /** The leader epoch of the partition (0 where the adapter has none). */
  readonly leaderEpoch: number;
}

export interface PartitionOffsets {
  /** The first offset still kept. */
  readonly earliest: bigint;
  /** The next one to come, or under `committed` where reading ends now. */
  readonly end: bigint;
  /** As of a fetch. */
  readonly leaderEpoch: number;
}

/** A damaged piece of a partition that a reader may step over. */
export interface DamagedRange {
  /** The first offset behind it that can be read, or the end of the log. */
  readonly nextOffset: bigint;
  /** What is damaged, and where the copy of its bytes is. */
  readonly description: string;
}

export interface ProducerOptions {
  /** Its batches are in no hurry: none of another producer waits behind them on the way. */
  readonly isBacklog?: boolean;
}

export interface LogProducer {
  /** Fresh at every `Log.producer()` call; part of every batch's identity. */
  readonly producerId: bigint;
  readonly producerEpoch: number;
  /**
   * Appends one encoded batch (base offset 0, with producer id, epoch and base sequence set when it was sealed).
   * At most IN_FLIGHT_MAX unresolved per partition; calls for one partition take effect in the order they were made.
   * Throws `out-of-order`, `unknown-producer`, `too-large`, `unavailable`, `timeout`, `full`, `not-found`.
   */
  append(topic: string, partition: number, batch: Uint8Array): Promise<AppendResult>;
}

export interface Log {
  readonly url: string;
  /** Creates the topic if it is missing; an existing one is left as it is. */
  ensureTopic(name: string, options: TopicOptions): Promise<TopicInfo>;
  topic(name: string): Promise<TopicInfo | null>;
  topics(): Promise<readonly TopicInfo[]>;
  deleteTopic(name: string): Promise<void>;
  producer(options?: ProducerOptions): Promise<LogProducer>;
  offsets(topic: string, partition: number, isolation?: Isolation): Promise<PartitionOffsets>;
  fetch(request: FetchRequest): Promise<FetchResult>;
  /**
   * Where the records of a leader epoch, and those before it, end in the log as it is now. Below the offset of a reader who has got further in
   * that epoch: the log was cut there and written anew (an unclean election, a lost disk). null: it cannot be told. Only where leaders change.
   */
  epochEnd?(topic: string, partition: number, leaderEpoch: number): Promise<bigint | null>;
  /**
   * What is damaged at `offset`, at which `fetch` reports `corrupt`; its bytes are copied aside first, as evidence, and the log stays as it
   * is. null: nothing is. Only where the bytes of the log are ours; a broker has tools of its own.
   */
  damagedRange?(topic: string, partition: number, offset: bigint): Promise<DamagedRange | null>;
  /** Tells others how far a group is, by partition (Kafka's consumer-group offsets). A hint: never read back as the truth. */
  commitHint(group: string, topic: string, nextOffsets: ReadonlyMap<number, bigint>): Promise<void>;
  close(): Promise<void>;
}

export type OpenLog = (url: URL) => Promise<Log>;
