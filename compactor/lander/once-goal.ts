/**
 * Where `--once` ends: at the log's end as seen at the start, in the partitions that other landers have, too. What a transaction holds back
 * that is open then is not part of it, and named: its records are as good as not sent yet.
 *
 * Limits: a partition that another lander has, and in which nothing lands for WAIT_MS (or three of its commits), is not waited for any
 * longer, by name.
 */
import type { Clock } from '../../lib/clock.ts';
import type { StoredOffset } from '../../lib/lake/offsets.ts';
import type { Log, TopicInfo } from '../../lib/log/log.ts';
import { heldBack } from './open-transactions.ts';

const WAIT_MS = 60_000;

export interface Awaited {
  /** What others have not landed yet, by name. */
  readonly left: readonly string[];
  /** Of these, what is not worth waiting for. */
  readonly stalled: readonly string[];
}

export class OnceGoal {
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #waitMs: number;
  readonly #tell: (message: string) => void;
  #targets: { readonly topicId: string; readonly byPartition: ReadonlyMap<number, number> } | undefined;
  readonly #progress = new Map<number, { readonly next: number; readonly sinceMs: number }>();

  constructor(log: Log, clock: Clock, commitEveryMs: number, tell: (message: string) => void) {
    this.#log = log;
    this.#clock = clock;
    this.#waitMs = Math.max(WAIT_MS, 3 * commitEveryMs);
    this.#tell = tell;
  }

  /** Where to end, by partition; asked of the log once for the topic of this id. */
  async targets(topic: TopicInfo): Promise<ReadonlyMap<number, number>> {
    const partitions = Array.from({ length: topic.partitions }, (_, partition) => partition);
    if (this.#targets?.topicId !== topic.id) {
      const byPartition = new Map<number, number>();
      for (const partition of partitions) {
        byPartition.set(partition, await this.#target(topic.name, partition));
      }
      this.#targets = { topicId: topic.id, byPartition };
    }
    // A partition that was added later is not part of what was seen at the start.
    const { byPartition } = this.#targets;
    return new Map(partitions.map((partition) => [partition, byPartition.get(partition) ?? 0]));
  }

  async #target(topic: string, partition: number): Promise<number> {
    const end = Number((await this.#log.offsets(topic, partition)).end);
    // Asked later, so that below `end` means an open transaction.
    const lastStable = Number((await this.#log.offsets(topic, partition, 'committed')).end);
    if (lastStable < end) this.#tell(heldBack(topic, partition, lastStable, end));
    return Math.min(lastStable, end);
  }

  /** `holder` names who has a partition. */
  async awaited(
    topic: TopicInfo,
    others: readonly StoredOffset[],
    holder: (lander: string | undefined) => string,
  ): Promise<Awaited> {
    const targets = await this.targets(topic);
    const nowMs = this.#clock.monotonicMs();
    const left: string[] = [];
    const stalled: string[] = [];
    for (const { partition, landed } of others) {
      const next = landed?.topicId === topic.id ? landed.next : 0;
      const target = targets.get(partition) ?? 0;
      if (next >= target) continue;
      const known = this.#progress.get(partition);
      const { sinceMs } = known?.next === next ? known : { sinceMs: nowMs };
      this.#progress.set(partition, { next, sinceMs });
      const what = `${topic.name}/${partition}: offsets ${next} to ${target - 1} have not landed; ${holder(landed?.lander)} has them`;
      left.push(what);
      if (nowMs - sinceMs > this.#waitMs) stalled.push(what);
    }
    return { left, stalled };
  }
}
