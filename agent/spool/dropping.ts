/**
 * Making room in a full spool by giving up readings, under the policies `dropOldest` and `dropLowestPriority`.
 *
 * A plan says which segments are to be thinned: of a thinned segment only the frames from some priority on are kept. The ranges
 * that go are recorded in the spool's state first, durably, and only then the segment is written anew (or deleted, when nothing is left).
 *
 * Invariants: alarms (ALARM_PRIORITY) are never given up. Under `dropLowestPriority` no reading goes while an undelivered one of a
 * lower priority lies in a sealed segment, and none for one of a lower priority; among equals the oldest go.
 * A delivery that is larger than the spool can make room for is taken all the same once everything that may be given up for it is, as `reject`
 * takes one while there is room at all: refused, it would come again for ever.
 * Failure: a crash between the record and the rewriting leaves readings that are recorded as dropped; they may then be delivered after
 * all, never lost without a record. Rewriting needs room for what is kept; when it fails, it is planned again.
 */
import type { PenstockError } from '../../lib/errors.ts';
import { without } from '../seq-ranges.ts';
import { ALARM_PRIORITY, FRAME_HEADER_BYTES, FRAME_READINGS } from './frame.ts';
import type { PendingGroup } from './pending-group.ts';
import { highestPriorityOf, type Readings } from './packed-readings.ts';
import type { Segment } from './recovery.ts';
import { forEachReadingsFrame, rewriteSegment } from './segment-rewrite.ts';
import type { SpoolState } from './spool-state.ts';

export type DropPolicy = 'dropOldest' | 'dropLowestPriority';

export interface Thinning {
  readonly segment: Segment;
  /** Frames of this priority and above are kept. */
  readonly keepFrom: number;
}

/** What lies in a sealed segment: frame bytes by priority. */
type Profile = readonly number[];

export class DropPlanner {
  readonly #policy: DropPolicy;
  readonly #segmentBytes: number;
  readonly #fullError: () => PenstockError;
  readonly #profiles = new WeakMap<Segment, Profile>();

  /** `segmentBytes`: what a group needs room for at least, however large it is. */
  constructor(policy: DropPolicy, segmentBytes: number, fullError: () => PenstockError) {
    this.#policy = policy;
    this.#segmentBytes = segmentBytes;
    this.#fullError = fullError;
  }

  /**
   * Whether readings must not stand or fall with a group where room is scarce: nothing of a middle priority goes for the lowest because an
   * alarm is beside them, no alarm is refused with them, and many small deliveries do not become one that is too large.
   */
  isApart(group: PendingGroup, readings: Readings): boolean {
    if (group.readings === 0 || readings.length === 0) return false;
    return group.bytes > this.#segmentBytes || group.highestPriority() !== highestPriorityOf(readings);
  }

  /**
   * Plans what of `sealed` (ascending) is given up so that a group fits whose readings are `excess` bytes too many, and records the ranges
   * in it. Throws `full` when too little may be given up for them.
   */
  async makeRoom(
    group: PendingGroup,
    excess: number,
    sealed: readonly Segment[],
    state: SpoolState,
  ): Promise<readonly Thinning[]> {
    if (group.readings === 0 || excess <= 0) return [];
    const overMax = Math.max(0, group.bytes - this.#segmentBytes);
    const plan = await this.#plan(sealed, excess, overMax, group.highestPriority());
    if (plan === null) throw this.#fullError();
    for (const thinning of plan) {
      for (const [topic, first, last] of await droppedRanges(thinning, state)) group.drop(topic, first, last);
    }
    return plan;
  }

  /**
   * The thinnings that free `excess` bytes of `sealed` (ascending) for readings of at most `priority`. Where so much may not be given up for
   * them, all that may, if that leaves no more than `overMax` of the excess; else null.
   */
  async #plan(
    sealed: readonly Segment[],
    excess: number,
    overMax: number,
    priority: number,
  ): Promise<readonly Thinning[] | null> {
    const keepFrom = new Map<Segment, number>();
    let left = excess;
    // `dropOldest` makes no difference between the priorities below alarms: one round for all of them.
    const levels =
      this.#policy === 'dropOldest'
        ? [ALARM_PRIORITY]
        : Array.from({ length: Math.min(priority + 1, ALARM_PRIORITY) }, (_, index) => index + 1);
    for (const level of levels) {
      for (const segment of sealed) {
        const bytes = bytesBelow(await this.#profile(segment), level, keepFrom.get(segment) ?? 0);
        if (bytes === 0) continue;
        keepFrom.set(segment, level);
        left -= bytes;
        if (left <= 0) return thinningsOf(keepFrom);
      }
    }
    return left <= overMax ? thinningsOf(keepFrom) : null;
  }

  async #profile(segment: Segment): Promise<Profile> {
    const known = this.#profiles.get(segment);
    if (known !== undefined) return known;
    const profile = Array.from({ length: ALARM_PRIORITY + 1 }, () => 0);
    await forEachReadingsFrame(segment, (frame) => {
      const priority = Math.min(frame.priority, ALARM_PRIORITY);
      profile[priority] = (profile[priority] ?? 0) + FRAME_HEADER_BYTES + frame.payloadBytes;
    });
    this.#profiles.set(segment, profile);
    return profile;
  }
}

function thinningsOf(keepFrom: ReadonlyMap<Segment, number>): readonly Thinning[] {
  return [...keepFrom].map(([segment, from]) => ({ segment, keepFrom: from }));
}

/** The undelivered sequences that a thinning gives up. */
async function droppedRanges(
  { segment, keepFrom }: Thinning,
  state: SpoolState,
): Promise<[topicId: number, first: number, last: number][]> {
  const ranges: [number, number, number][] = [];
  await forEachReadingsFrame(segment, (frame) => {
    if (frame.priority >= keepFrom) return;
    const { acknowledged = 0, delivered = [] } = state.topicById(frame.topicId) ?? {};
    const undelivered = { first: Math.max(frame.baseSeq, acknowledged + 1), last: frame.baseSeq + frame.count - 1 };
    for (const { first, last } of without(undelivered, delivered)) ranges.push([frame.topicId, first, last]);
  });
  return ranges;
}

/** The segment without what is given up. Throws `full`, `io`; the old one stays then. */
export function thinSegment({ segment, keepFrom }: Thinning): Promise<Segment> {
  return rewriteSegment(segment, (frame) => frame.type !== FRAME_READINGS || frame.priority >= keepFrom);
}

function bytesBelow(profile: Profile, level: number, from: number): number {
  return profile.slice(from, level).reduce((sum, bytes) => sum + bytes, 0);
}
