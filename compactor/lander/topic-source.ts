/**
 * Reads all partitions of a topic in turn, so that a busy one never starves another, with one fetch ahead of what is processed.
 *
 * A partition that cannot be read (damaged batch, unsupported compression, offsets that its log does not have) stops by name; the
 * others go on. Where it was asked for (`skipDamaged`), a batch that is damaged in the log is stepped over, its offsets named and counted as
 * lost in the commit that moves past them. Records that retention removed before they landed, the first landing included, are reported, counted and skipped: they
 * are gone. So are those of a topic that is deleted: all records come from the topic of one id, never from another one that was made under its name.
 *
 * A log that was cut below what was read of it, and may have been written anew since, is named and read again from where it was cut. The first answer
 * under another leader epoch shows it; a cut within one epoch, which no election does, shows only while the log's end is below.
 * Limits: PREFETCH_BYTES over all partitions.
 */
import { describeError, isCode, PenstockError } from '../../lib/errors.ts';
import type { FetchResult, Log, TopicInfo } from '../../lib/log/log.ts';
import type { StoredOffset } from '../../lib/lake/offsets.ts';
import { findTopic } from './find-topic.ts';

const PREFETCH_BYTES = 32 << 20;
const FETCH_BYTES_MIN = 64 << 10;
/** A larger portion does not make decoding cheaper. */
const FETCH_BYTES_MAX = 2 << 20;

export interface PartitionCursor {
  readonly partition: number;
  /** What the last commit said. */
  readonly from: StoredOffset;
  /** Where this run began; set back when a cut is found before anything is read. */
  start: number;
  /** Offsets that were gone before they landed: in front of `start`, and of damaged batches behind it. */
  lost: number;
  /** The log was cut below what had landed of it: this run began there, and its commit takes the offset back. */
  wasCut: boolean;
  /** The first record that is not staged. */
  next: number;
  leaderEpoch: number;
  /** Reading ends here (`--once`). */
  readonly target: number;
  /** The log's end as last seen, and where reading ends: below it while a transaction is open. */
  end: number;
  lastStable: number;
  /** Why it is not read any more. */
  stopped: PenstockError | undefined;
}

export interface Portion {
  readonly cursor: PartitionCursor;
  readonly batches: readonly Buffer[];
  /** Behind the last record of `batches`. */
  readonly nextOffset: number;
}

export class TopicSource {
  readonly #log: Log;
  readonly #topic: TopicInfo;
  readonly #skipDamaged: boolean;
  readonly #fetchBytes: number;
  readonly #ahead = new Map<PartitionCursor, Promise<FetchResult | PenstockError>>();
  #turn = 0;
  #isGone = false;
  #isCut = false;
  readonly cursors: readonly PartitionCursor[];
  /** Ranges that were gone before they landed, and logs that were cut; grows as damaged batches are stepped over. */
  readonly lost: string[] = [];

  private constructor(log: Log, topic: TopicInfo, cursors: readonly PartitionCursor[], skipDamaged: boolean) {
    this.#log = log;
    this.#skipDamaged = skipDamaged;
    this.#topic = topic;
    this.cursors = cursors;
    const share = Math.floor(PREFETCH_BYTES / Math.max(1, cursors.length));
    this.#fetchBytes = Math.min(FETCH_BYTES_MAX, Math.max(FETCH_BYTES_MIN, share));
  }

  /** `targets`: where to stop, by partition; Infinity without one. */
  static async open(
    log: Log,
    topic: TopicInfo,
    offsets: readonly StoredOffset[],
    targets: ReadonlyMap<number, number>,
    skipDamaged = false,
  ): Promise<TopicSource> {
    const lost: string[] = [];
    const cursors: PartitionCursor[] = [];
    for (const from of offsets) {
      const { partition } = from;
      const limits = await log.offsets(topic.name, partition);
      const earliest = Number(limits.earliest);
      const landed = from.landed?.topicId === topic.id ? from.landed : null;
      const target = targets.get(partition) ?? Infinity;
      const seen = { partition, next: landed?.next ?? 0, leaderEpoch: landed?.leaderEpoch ?? 0 };
      // Whatever else was cut is seen with the first answer.
      const cut = seen.next > Number(limits.end) || seen.next >= target ? await cutOf(log, topic, seen) : null;
      if (cut !== null) lost.push(cut.description);
      const due = cut?.offset ?? seen.next;
      const next = Math.max(due, earliest);
      if (due < earliest) {
        lost.push(`${topic.name}/${partition}: offsets ${due} to ${earliest - 1} were deleted before they landed`);
      }
      cursors.push({
        partition,
        from,
        start: next,
        lost: next - due,
        wasCut: cut !== null,
        next,
        leaderEpoch: seen.leaderEpoch,
        target,
        end: Number(limits.end),
        lastStable: Number(limits.end),
        stopped: undefined,
      });
    }
    // The limits were asked for by name.
    if (lost.length > 0 && (await log.topic(topic.name))?.id !== topic.id) {
      throw new PenstockError('conflict', `topic ${topic.name} was deleted while its offsets were read`);
    }
    const source = new TopicSource(log, topic, cursors, skipDamaged);
    source.lost.push(...lost);
    return source;
  }

  /** Its topic was deleted, and may have been made anew: nothing more will be read. */
  get isGone(): boolean {
    return this.#isGone;
  }

  /** The log of a partition was cut below what this run has read: nothing more will be read, and the next run goes on from there. */
  get isCut(): boolean {
    return this.#isCut;
  }

  get active(): readonly PartitionCursor[] {
    if (this.#isGone || this.#isCut) return [];
    return this.cursors.filter((cursor) => cursor.stopped === undefined && cursor.next < cursor.target);
  }

  /** The next records of any partition; null when none has one now. */
  async next(signal: AbortSignal): Promise<Portion | null> {
    const active = this.active;
    for (let tried = 0; tried < active.length; tried++) {
      const cursor = active[this.#turn++ % active.length];
      if (cursor === undefined) break;
      const result = await (this.#ahead.get(cursor) ?? this.#fetch(cursor, cursor.next, signal));
      this.#ahead.delete(cursor);
      const isOtherLog =
        result instanceof PenstockError ? isCode(result, 'not-found') : result.leaderEpoch !== cursor.leaderEpoch;
      if (isOtherLog && (await this.#goBack(cursor))) return this.next(signal);
      if (result instanceof PenstockError) {
        if (isCode(result, 'not-found')) await this.lookForTopic();
        if (this.#isGone) return null;
        if (await this.#pass(cursor, result)) return this.next(signal);
        continue;
      }
      cursor.end = Number(result.endOffset);
      cursor.lastStable = Number(result.lastStableOffset);
      cursor.leaderEpoch = result.leaderEpoch;
      if (result.batches.length === 0) continue;
      const nextOffset = Number(result.nextOffset);
      if (nextOffset < Math.min(cursor.target, cursor.lastStable)) {
        this.#ahead.set(cursor, this.#fetch(cursor, nextOffset, signal));
      }
      return { cursor, batches: result.batches, nextOffset };
    }
    return null;
  }

  /** Whether the topic is still there. Once it is not, what was not read of it is lost. Answers what has its name. */
  async lookForTopic(): Promise<TopicInfo | null> {
    const { name, id } = this.#topic;
    const now = await findTopic(this.#log, name);
    if (this.#isGone || now?.id === id) return now;
    this.#isGone = true;
    for (const cursor of this.cursors) {
      const { partition, next, end } = cursor;
      if (end <= next) continue;
      cursor.lost += end - next;
      this.lost.push(
        `${name}/${partition}: offsets ${next} to ${end - 1} were deleted with their topic before they landed`,
      );
    }
    return now;
  }

  /** Where the log was cut, if it was below what was read; false: it was not. */
  async #goBack(cursor: PartitionCursor): Promise<boolean> {
    const cut = await cutOf(this.#log, this.#topic, cursor);
    if (cut === null) return false;
    // It was asked for by name.
    await this.lookForTopic();
    if (this.#isGone) return true;
    // What was read before is as true as what had landed.
    if (cursor.next !== cursor.start) this.#isCut = true;
    else {
      this.lost.push(cut.description);
      cursor.start = cursor.next = cut.offset;
      cursor.wasCut = true;
    }
    return true;
  }

  /** Steps over what is damaged; false: it may not or cannot, and the partition is stopped. */
  async #pass(cursor: PartitionCursor, error: PenstockError): Promise<boolean> {
    const { partition, next } = cursor;
    const { name } = this.#topic;
    if (!isCode(error, 'corrupt') || this.#log.damagedRange === undefined) {
      this.stop(cursor, error);
      return false;
    }
    if (!this.#skipDamaged) {
      const remedy = '`penstock land --skip-damaged` counts the damaged records as lost and goes on behind them';
      this.stop(cursor, new PenstockError('corrupt', `${describeError(error)}; ${remedy}`));
      return false;
    }
    const damaged = await this.#log.damagedRange(name, partition, BigInt(next));
    if (damaged === null) {
      this.stop(cursor, error);
      return false;
    }
    cursor.next = Number(damaged.nextOffset);
    cursor.lost += cursor.next - next;
    this.lost.push(`${name}/${partition}: offsets ${next} to ${cursor.next - 1} are lost: ${damaged.description}`);
    return true;
  }

  stop(cursor: PartitionCursor, error: PenstockError): void {
    cursor.stopped = error;
    this.#ahead.delete(cursor);
  }

  /** Never rejects: an answer may wait for its turn. What concerns the whole log is thrown when its turn comes. */
  async #fetch(cursor: PartitionCursor, offset: number, signal: AbortSignal): Promise<FetchResult | PenstockError> {
    try {
      return await this.#log.fetch({
        topic: this.#topic.name,
        topicId: this.#topic.id,
        partition: cursor.partition,
        offset: BigInt(offset),
        maxBytes: this.#fetchBytes,
        maxWaitMs: 0,
        isolation: 'committed',
        signal,
      });
    } catch (error) {
      return error instanceof PenstockError
        ? error
        : new PenstockError('io', `${this.#topic.name}/${cursor.partition}: ${describeError(error)}`, { cause: error });
    }
  }
}

interface Cut {
  readonly offset: number;
  readonly description: string;
}

/** Whether a log that was read up to `next` under a leader epoch ends below it now, as far as that epoch goes. */
async function cutOf(
  log: Log,
  topic: TopicInfo,
  { partition, next, leaderEpoch }: Pick<PartitionCursor, 'partition' | 'next' | 'leaderEpoch'>,
): Promise<Cut | null> {
  if (next === 0 || log.epochEnd === undefined) return null;
  let end: bigint | null;
  try {
    end = await log.epochEnd(topic.name, partition, leaderEpoch);
  } catch (error) {
    // A topic that was deleted is another matter (`lookForTopic`).
    if (isCode(error, 'not-found')) return null;
    throw error;
  }
  if (end === null || Number(end) >= next) return null;
  const description =
    `${topic.name}/${partition}: the log was cut at offset ${end}, below offset ${next - 1} that was read in leader epoch ${leaderEpoch}: ` +
    'what is there now lands, too; what stood behind it and had not landed is lost';
  return { offset: Number(end), description };
}

/** Errors that a later try may not have: the whole run tries again instead of giving the partition up. */
export const isPassing = (error: PenstockError): boolean => error.retryable || isCode(error, 'aborted', 'closed');
