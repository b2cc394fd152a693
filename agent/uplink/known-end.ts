/**
 * What a lane knows of the end of its partition: an offset, and the leader epoch under which the log went that far. The next batch lies there or
 * behind it, unless the log is cut: an unclean election makes a replica the leader that lacks records, and a topic of one replica may lose its disk.
 *
 * Invariants: the offset and the epoch belong together, so that whoever looks for a batch later can ask where that epoch ends in the log as it is then
 * (read-back.ts, KIP-320).
 * Failure: when a new leader answers, it is asked once where the epoch before it ends; while that cannot be asked, it is asked again at the next answer.
 * Of what was acknowledged before a cut nothing is left in the spool: it is told of, and cannot be sent again.
 */
import type { Log, PartitionOffsets } from '../../lib/log/log.ts';
import type { NewIntent } from './send-intents.ts';

/** Records that were acknowledged, by whoever sent them, and are gone: those from `offset` up to `end`. */
export interface LogCut {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
  readonly end: bigint;
}

interface Place {
  readonly offset: bigint;
  readonly epoch: number;
}

export class KnownEnd {
  readonly #log: Log;
  readonly #topic: string;
  readonly #partition: number;
  readonly #onCut: (cut: LogCut) => void;
  #place: Place;
  /** Of an earlier leader, and not compared with the log of a later one. */
  #unchecked: Place | undefined;
  #isChecking = false;

  constructor(
    log: Log,
    topic: string,
    partition: number,
    { end, leaderEpoch }: PartitionOffsets,
    onCut: (cut: LogCut) => void,
  ) {
    this.#log = log;
    this.#topic = topic;
    this.#partition = partition;
    this.#onCut = onCut;
    this.#place = { offset: end, epoch: leaderEpoch };
  }

  /** As an intent has it. */
  get from(): Pick<NewIntent, 'fromOffset' | 'fromEpoch'> {
    return { fromOffset: this.#place.offset, fromEpoch: this.#place.epoch };
  }

  /** A batch is stored that ends at `offset`, said a leader of this epoch. */
  note(offset: bigint, epoch: number): void {
    const known = this.#place;
    if (epoch < known.epoch || (epoch === known.epoch && offset <= known.offset)) return;
    this.#place = { offset, epoch };
    if (epoch > known.epoch) this.#unchecked ??= known;
    if (this.#unchecked !== undefined && !this.#isChecking) void this.#check(this.#unchecked);
  }

  /** The topic was made anew. */
  reset(): void {
    this.#place = { offset: 0n, epoch: 0 };
    this.#unchecked = undefined;
  }

  async #check(place: Place): Promise<void> {
    this.#isChecking = true;
    try {
      const end = await endedAt(this.#log, this.#topic, this.#partition, place);
      if (this.#unchecked === place) this.#unchecked = undefined;
      if (end < place.offset)
        this.#onCut({ topic: this.#topic, partition: this.#partition, offset: end, end: place.offset });
    } catch {
      // Asked again at the next answer.
    } finally {
      this.#isChecking = false;
    }
  }
}

/** Up to where the log as it is now has what it had at a place: there, or before it where it was cut. Throws what `epochEnd` throws. */
export async function endedAt(log: Log, topic: string, partition: number, { offset, epoch }: Place): Promise<bigint> {
  const end = await log.epochEnd?.(topic, partition, epoch);
  return end === undefined || end === null || end > offset ? offset : end;
}
