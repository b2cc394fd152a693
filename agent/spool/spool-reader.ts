/**
 * SpoolReader: how the uplink sees the spool. Types only; the spool implements it, the uplink consumes it.
 *
 * A topic's sequence numbers start at 1 and have no gaps: each is either a reading or lies in exactly one gap or delivered range.
 * Delivery is settled by the uplink's send intents and by identity, so acknowledgements may become durable lazily: after a crash the
 * spool may hand out again what was acknowledged, never less than what was not.
 */

/** Key and value in one piece of memory, the value behind the key. */
export interface ReadingPlace {
  readonly bytes: Buffer;
  readonly start: number;
  /** -1: no key. */
  readonly keyBytes: number;
  readonly valueBytes: number;
}

/** A reading as it lies in the spool. */
export interface SpooledReading {
  readonly kind: 'reading';
  readonly topic: string;
  /**
   * Who stored it, and in which incarnation of its spool: with topic and seq the identity of the reading. A backlog keeps the identity it was
   * stored under, and each start is another incarnation, so these differ between readings of one topic.
   */
  readonly agent: string;
  readonly incarnation: string;
  /** Per topic; starts at 1 and goes on counting over a new incarnation. */
  readonly seq: bigint;
  /** The sensor's id, or null where the source has none. */
  readonly key: Buffer | null;
  readonly value: Buffer;
  /** The same as they lie in memory, for those who copy them: to make a view of bytes costs more than to copy them. */
  readonly place: ReadingPlace;
  /** When it was measured, microseconds since the epoch. */
  readonly eventUs: number;
  /** When the agent took it in, microseconds since the epoch. */
  readonly arrivalUs: number;
  readonly priority: number;
  /** True when it was already in the spool when this agent started: it comes late, from a backlog. */
  readonly replayed: boolean;
}

/** Sequence numbers that will never be delivered, and why (dropped by policy, lost with a corrupt segment). */
export interface SpoolGap {
  readonly kind: 'gap';
  readonly topic: string;
  readonly fromSeq: bigint;
  /** Inclusive. */
  readonly toSeq: bigint;
  readonly reason: string;
}

/** Sequence numbers that were delivered before something older was. */
export interface SpoolDelivered {
  readonly kind: 'delivered';
  readonly topic: string;
  readonly fromSeq: bigint;
  /** Inclusive. */
  readonly toSeq: bigint;
}

export type SpoolEntry = SpooledReading | SpoolGap | SpoolDelivered;

export interface SpoolReader {
  /** The topics that have readings or gaps behind their durable acknowledgement. */
  topics(): readonly string[];
  /**
   * Entries of a topic in order of sequence, the first of them covering `afterSeq + 1`; only readings that are durable in the spool.
   * About `maxBytes` of keys and values, at least one entry when there is one. Empty: nothing behind `afterSeq` yet.
   */
  read(topic: string, afterSeq: bigint, maxBytes: number): readonly SpoolEntry[] | Promise<readonly SpoolEntry[]>;
  /** Nothing of the readings that a `read` returned is used any more: their memory may be written again. Without it, it is garbage some day. */
  done(entries: readonly SpoolEntry[]): void;
  /** Everything of the topic up to and including `uptoSeq` is delivered or given up: its space may be freed. Never goes back. */
  acknowledge(topic: string, uptoSeq: bigint): void;
  /** As `acknowledge`, for a range above something that is not delivered. */
  acknowledgeRange(topic: string, fromSeq: bigint, toSeq: bigint): void;
  /**
   * Takes note that a gap was met: from now on its range counts as delivered, and a reading of its own tells of it, in one step. Resolves
   * when durable. Throws `full`, `io`, `closed`: the gap is there as before, and the caller has to come again.
   */
  recordGap(gap: SpoolGap): Promise<void>;
  /** The acknowledgement that would be found after a crash at this moment (0n: none); the uplink starts reading behind it. */
  durablyAcknowledged(topic: string): bigint;
  /** The first sequence number that this run of the agent gives, or gave, to a reading of the topic: those below come from earlier runs. */
  firstOfRun(topic: string): bigint;
  /** How long this run has been taking readings: none of its own is older, whatever the wall clock says. */
  runningMs(): number;
  /** The last sequence number given to a reading of the topic (0n: none). */
  lastSeq(topic: string): bigint;
  /** Resolves when something may have been added since the call (or at once); rejects with `aborted` when the signal fires. */
  wait(signal: AbortSignal): Promise<void>;
}

/** When the oldest reading that is not delivered arrived, microseconds since the epoch; null when all are delivered. */
export async function oldestUndeliveredUs(spool: SpoolReader): Promise<number | null> {
  let oldest: number | null = null;
  for (const topic of spool.topics()) {
    const [entry] = await spool.read(topic, spool.durablyAcknowledged(topic), 1);
    if (entry?.kind === 'reading' && (oldest === null || entry.arrivalUs < oldest)) oldest = entry.arrivalUs;
  }
  return oldest;
}
