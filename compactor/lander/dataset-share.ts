/**
 * The partitions of one dataset that this lander lands: those whose offset record names it (lib/lake/offsets.ts).
 *
 * Invariants
 * - Taking a partition writes its offset record, whose version every commit compares: from that moment on, whatever its former holder has
 *   staged fails as a whole, wherever it is and whenever it wakes.
 * - A lander that lives gives up a partition by itself, after the commit of what it had staged: nothing is read twice when the shares change.
 * Failure: an offset record that names nobody who lives is free.
 * Limits: CLAIMS_MAX partitions change hands in one minitransaction, the others in the next one.
 */
import { type LandedOffset, moveOffsets, readOffsets, type StoredOffset } from '../../lib/lake/offsets.ts';
import type { TopicInfo } from '../../lib/log/log.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { commitSurely } from '../commit-surely.ts';
import type { Membership } from './membership.ts';
import { planShare, type ShareChange } from './plan-share.ts';

const CLAIMS_MAX = 500;
/** Each lost race is another lander's gain; what is left is taken at a later beat. */
const RACES_MAX = 5;

export interface Share {
  /** What this lander lands. */
  readonly mine: readonly StoredOffset[];
  /** What others land, or nobody yet. */
  readonly others: readonly StoredOffset[];
}

export class DatasetShare {
  readonly #lake: LakeContext;
  readonly #dataset: string;
  readonly #membership: Membership;

  constructor(lake: LakeContext, dataset: string, membership: Membership) {
    this.#lake = lake;
    this.#dataset = dataset;
    this.#membership = membership;
  }

  /** Takes and gives up what is due. Nothing may be staged while it runs. */
  async settle(topic: TopicInfo): Promise<Share> {
    for (let race = 0; ; race++) {
      const stored = await this.#read(topic);
      const change = await this.#plan(stored);
      const changed = [...change.give, ...change.take].slice(0, CLAIMS_MAX);
      if (changed.length === 0 || race === RACES_MAX) return this.#shareOf(stored);
      const taken = new Set(change.take);
      const moves = changed.flatMap((partition) => {
        const from = stored[partition];
        if (from === undefined) return [];
        return [{ from, to: heldBy(from, topic, taken.has(partition) ? this.#membership.id : undefined) }];
      });
      const { engine, volume } = this.#lake;
      const result = await commitSurely(engine, moveOffsets(volume, this.#dataset, moves));
      if (result.ok) return this.#shareOf(await this.#read(topic));
    }
  }

  /** Whether others came, went or took something since `settle`, so that it is to be called again. */
  async isDue(topic: TopicInfo, { mine }: Share): Promise<boolean> {
    const stored = await this.#read(topic);
    if (mine.some(({ partition, version }) => stored[partition]?.version !== version)) return true;
    // The last beat has looked at who lives; only who would act on it looks again.
    return isChange(this.#planNow(stored)) && isChange(await this.#plan(stored));
  }

  #read(topic: TopicInfo): Promise<StoredOffset[]> {
    const partitions = Array.from({ length: topic.partitions }, (_, partition) => partition);
    return readOffsets(this.#lake.engine, this.#lake.volume, this.#dataset, partitions);
  }

  /** Who lives is looked at after the offsets were read: whoever is named there has told of itself before. */
  async #plan(stored: readonly StoredOffset[]): Promise<ShareChange> {
    await this.#membership.look();
    return this.#planNow(stored);
  }

  #planNow(stored: readonly StoredOffset[]): ShareChange {
    const holders = stored.map(({ landed }) => landed?.lander);
    return planShare(this.#membership.id, this.#membership.members(this.#dataset), holders);
  }

  #shareOf(stored: readonly StoredOffset[]): Share {
    const isMine = ({ landed }: StoredOffset): boolean => landed?.lander === this.#membership.id;
    return { mine: stored.filter(isMine), others: stored.filter((one) => !isMine(one)) };
  }
}

const isChange = ({ take, give }: ShareChange): boolean => take.length + give.length > 0;

/** What has landed stays; of a topic that was made anew, too, until its first commit. */
function heldBy({ landed }: StoredOffset, topic: TopicInfo, lander: string | undefined): LandedOffset {
  const { topicId, next, leaderEpoch } = landed ?? { topicId: topic.id, next: 0, leaderEpoch: 0 };
  return { topicId, next, leaderEpoch, ...(lander !== undefined && { lander }) };
}
