/**
 * Appends to one partition over one connection: a window of batches in flight, and what the broker's answers do to it.
 *
 * Invariants
 * - Batches are sent in the order of the calls, at most IN_FLIGHT_MAX unanswered. After a passing error nothing more is sent until all of the
 *   window is answered; then everything without an outcome is sent again in the old order. A broker that refused the first of five
 *   answers the rest with OUT_OF_ORDER, which is then passing, too.
 * - A batch is sent again only as the same bytes, under the same identity: the broker stores it once (for a batch without a producer
 *   id a lost answer can mean that it is stored twice).
 * - `duplicate` says that the batch lay in the log before this call: its offset is below the end seen before.
 * Failure: a batch without an outcome `deliveryMs` after its call fails with `timeout` when its effect is unknown, else
 * `unavailable`, and so do all behind it: the caller decides about them in order.
 * Limits: the caller's batches are kept, not copied: untouched until they settle. The end seen before is the high watermark, so a repeat of a
 * batch that was not yet replicated at the first look is not called a duplicate.
 */
import type { Clock } from '../../clock.ts';
import { PenstockError, describeError } from '../../errors.ts';
import { IN_FLIGHT_MAX, type AppendResult } from '../log.ts';
import type { BatchHeader } from '../record-batch.ts';
import { pause, pauseMs } from './backoff.ts';
import { EFFECT_UNKNOWN, NO_ERROR, brokerError, isPassing } from './broker-errors.ts';
import type { BrokerLink } from './broker-link.ts';
import type { Cluster, Purpose } from './cluster.ts';
import { brokerTimeoutMs } from './limits.ts';
import { produceRequest, type ProduceAnswer } from './produce-request.ts';

interface Entry {
  readonly batch: Uint8Array;
  readonly records: number;
  readonly deadlineMs: number;
  readonly resolve: (result: AppendResult) => void;
  readonly reject: (error: Error) => void;
  isSent: boolean;
  /** Of the leader that it was sent to last. */
  leaderEpoch: number;
  /** It was sent, and the answer did not say whether it was stored. */
  isUncertain: boolean;
}

export interface AppenderOptions {
  readonly cluster: Cluster;
  readonly clock: Clock;
  readonly random: () => number;
  readonly topic: string;
  readonly partition: number;
  readonly purpose: Purpose;
  /** The end of the partition now. */
  readonly readEnd: () => Promise<bigint>;
}

export class PartitionAppender {
  readonly #options: AppenderOptions;
  readonly #where: string;
  /** Without an outcome, in the order of the calls. */
  readonly #entries: Entry[] = [];
  /** To the leader, as far as it is known. */
  #link: BrokerLink | undefined;
  /** Finding the leader, or waiting before the next attempt: nothing is sent meanwhile. */
  #isBusy = false;
  #inFlight = 0;
  /** What made the window stop; set until it is empty and sending goes on. */
  #trouble: PenstockError | undefined;
  #attempt = 0;
  #topicId: string | undefined;
  #leaderEpoch = 0;
  /** Every offset below it was taken before the call whose answer comes next. */
  #knownEnd = 0n;

  constructor(options: AppenderOptions) {
    this.#options = options;
    this.#where = `${options.topic}/${options.partition}`;
  }

  append(batch: Uint8Array, header: BatchHeader): Promise<AppendResult> {
    return new Promise((resolve, reject) => {
      const { clock, cluster } = this.#options;
      const deadlineMs = clock.monotonicMs() + cluster.limits.deliveryMs;
      const records = header.lastOffsetDelta + 1;
      this.#entries.push({
        batch,
        records,
        deadlineMs,
        resolve,
        reject,
        isSent: false,
        isUncertain: false,
        leaderEpoch: 0,
      });
      this.#pump();
    });
  }

  /** Does what can be done next; called after everything that happens. */
  #pump(): void {
    if (this.#isBusy || this.#entries.length === 0) return;
    const link = this.#link;
    if (this.#trouble !== undefined || link?.isOpen !== true) {
      if (this.#inFlight > 0) return;
      if (this.#trouble !== undefined && this.#restMs() === 0) this.#fail(this.#trouble);
      else void this.#recover(this.#trouble);
      return;
    }
    while (this.#inFlight < IN_FLIGHT_MAX) {
      const next = this.#entries.find((entry) => !entry.isSent);
      if (next === undefined) return;
      this.#send(link, next);
    }
  }

  #send(link: BrokerLink, entry: Entry): void {
    const { cluster, topic, partition } = this.#options;
    const request = produceRequest(topic, partition, entry.batch, brokerTimeoutMs(cluster.limits));
    entry.isSent = true;
    entry.leaderEpoch = this.#leaderEpoch;
    this.#inFlight++;
    link
      .call(request, cluster.limits.requestMs)
      .then(
        (answer) => this.#answered(entry, answer),
        (error: unknown) => this.#lost(entry, error),
      )
      .finally(() => {
        this.#inFlight--;
        this.#pump();
      });
  }

  #answered(entry: Entry, { error, baseOffset, message }: ProduceAnswer): void {
    if (error === NO_ERROR) {
      this.#attempt = 0;
      this.#remove(entry);
      void this.#acknowledge(entry, baseOffset);
      return;
    }
    const refusal = brokerError(error, `append to ${this.#where}`, message);
    if (isPassing(refusal)) {
      entry.isUncertain ||= EFFECT_UNKNOWN.has(error);
      this.#again(entry, refusal);
    } else if (refusal.code === 'out-of-order' && this.#trouble !== undefined) {
      // Answers come in order: an earlier batch of this window was refused, and this one is out of order for that reason only.
      this.#again(entry, this.#trouble);
    } else {
      this.#remove(entry);
      entry.reject(refusal);
    }
  }

  /** No answer, or none that can be read: whether the batch was stored is unknown, whatever the connection's error is. */
  #lost(entry: Entry, error: unknown): void {
    entry.isUncertain = true;
    this.#again(entry, asPassing(error, `append to ${this.#where}`));
  }

  #again(entry: Entry, trouble: PenstockError): void {
    entry.isSent = false;
    this.#trouble ??= trouble;
  }

  #remove(entry: Entry): void {
    this.#entries.splice(this.#entries.indexOf(entry), 1);
  }

  /** With an empty window: pauses if there was trouble, and finds the leader. */
  async #recover(trouble: PenstockError | undefined): Promise<void> {
    const { cluster, random, topic, partition, purpose, readEnd } = this.#options;
    this.#isBusy = true;
    try {
      if (trouble !== undefined) {
        cluster.forget(topic);
        await pause(Math.min(pauseMs(++this.#attempt, random), this.#restMs()), cluster.signal);
      }
      this.#trouble = undefined;
      const route = await cluster.route(topic, partition);
      const link = await cluster.link(route.node, purpose);
      if (route.topicId !== this.#topicId || route.leaderEpoch !== this.#leaderEpoch) {
        const end = await readEnd();
        // A new leader may lack what an earlier one had (an unclean election), and has perhaps what was sent to that one.
        this.#knownEnd = route.topicId === this.#topicId && this.#knownEnd < end ? this.#knownEnd : end;
        this.#topicId = route.topicId;
        this.#leaderEpoch = route.leaderEpoch;
      }
      this.#link = link;
    } catch (error) {
      this.#link = undefined;
      if (isPassing(error) && this.#restMs() > 0) this.#trouble = error;
      else this.#fail(error);
      cluster.forget(topic);
    } finally {
      this.#isBusy = false;
    }
    this.#pump();
  }

  /** What the oldest batch has left. */
  #restMs(): number {
    const deadlineMs = this.#entries[0]?.deadlineMs ?? Infinity;
    return Math.max(0, deadlineMs - this.#options.clock.monotonicMs());
  }

  /** Everything without an outcome fails, in order. */
  #fail(error: unknown): void {
    this.#trouble = undefined;
    this.#attempt = 0;
    for (const entry of this.#entries.splice(0)) {
      if (!isPassing(error)) {
        entry.reject(error instanceof Error ? error : new Error(String(error)));
        continue;
      }
      const [code, outcome] = entry.isUncertain
        ? (['timeout', 'it is unknown whether it is stored'] as const)
        : (['unavailable', 'it is not stored'] as const);
      entry.reject(
        new PenstockError(code, `append to ${this.#where}: given up, ${outcome}: ${error.message}`, { cause: error }),
      );
    }
  }

  async #acknowledge(entry: Entry, baseOffset: bigint): Promise<void> {
    if (baseOffset < this.#knownEnd) await this.#checkTopicId();
    const duplicate = baseOffset < this.#knownEnd;
    if (!duplicate) this.#knownEnd = baseOffset + BigInt(entry.records);
    entry.resolve({ baseOffset, duplicate, leaderEpoch: entry.leaderEpoch });
  }

  /** An offset below the known end is a repeat, or the topic was made anew without a word from its leader. */
  async #checkTopicId(): Promise<void> {
    const { cluster, topic } = this.#options;
    try {
      const found = await cluster.persist(() => cluster.describe(topic));
      if (found === null || found.id === this.#topicId) return;
      this.#topicId = found.id;
      this.#knownEnd = 0n;
    } catch {
      // The batch is acknowledged. That it is new in a topic that was made anew is all that cannot be told.
    }
  }
}

/** `corrupt` from a connection is about an answer; an appender's caller would take it for its batch. */
function asPassing(error: unknown, what: string): PenstockError {
  return isPassing(error)
    ? error
    : new PenstockError('unavailable', `${what}: ${describeError(error)}`, { cause: error });
}
