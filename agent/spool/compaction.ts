/**
 * Giving back the space of what is delivered, in segments that cannot be deleted because something else in them is not. Without it, one
 * topic that the log refuses keeps the segments of all others, and fills the spool for everybody with a trickle.
 *
 * Invariants: only frames whose readings are all durably acknowledged or recorded as dropped are left out; beside them the state frames, which
 * the head of the next segment repeats. The newest sealed segment is left alone: its state is what a start falls back to when the
 * head of the last one is damaged.
 * Failure: see `rewriteSegment`; a segment that cannot be read is passed over, and looked at again when no other is worth it. Damage is kept, for
 * the reader that meets it.
 * Limits: a segment is written anew when at most half of its readings are left, so over its life it costs at most as much again in writing
 * (once more after a restart, which forgets what was left).
 */
import { isCode } from '../../lib/errors.ts';
import { countOf, covers, mergeRanges, without, type SeqRange } from '../seq-ranges.ts';
import { FRAME_READINGS, type StoredFrame } from './frame.ts';
import type { Segment } from './recovery.ts';
import { rewriteSegment } from './segment-rewrite.ts';
import { rangeIn } from './spool-stats.ts';
import type { SpoolState, TopicState } from './spool-state.ts';

interface Candidate {
  readonly segment: Segment;
  readonly left: number;
  /** What it gives back. */
  readonly bytes: number;
}

export class Compaction {
  /** How many readings a segment was left with. */
  readonly #left = new WeakMap<Segment, number>();
  /** They are looked at again when no other is worth it. */
  #unreadable = new WeakSet<Segment>();

  /**
   * The one of `segments` (ascending; the last is under way) that gives back most, as it was and as it is; undefined: none is worth it.
   * Throws `full`.
   */
  async next(segments: readonly Segment[], state: SpoolState): Promise<readonly [Segment, Segment] | undefined> {
    const best = this.#best(segments, state);
    if (best === undefined) {
      this.#unreadable = new WeakSet();
      return undefined;
    }
    try {
      const rewritten = await rewriteSegment(best.segment, (frame) => isNeeded(frame, state));
      this.#left.set(rewritten, best.left);
      return [best.segment, rewritten];
    } catch (error) {
      if (isCode(error, 'full')) throw error;
      this.#unreadable.add(best.segment);
      return this.next(segments, state);
    }
  }

  #best(segments: readonly Segment[], state: SpoolState): Candidate | undefined {
    const topics = state.topics().map((topic) => ({ topic, gone: goneOf(topic) }));
    let best: Candidate | undefined;
    for (const [index, segment] of segments.slice(0, -2).entries()) {
      const next = segments[index + 1];
      if (next === undefined || this.#unreadable.has(segment)) continue;
      let [all, left] = [0, 0];
      for (const { topic, gone } of topics) {
        all += (next.startSeqs.get(topic.id) ?? 1) - (segment.startSeqs.get(topic.id) ?? 1);
        const range = rangeIn(segment, next, topic);
        if (range.first <= range.last) left += countOf(without(range, gone));
      }
      const before = this.#left.get(segment) ?? all;
      const bytes = segment.bytes * (1 - left / before);
      if (left * 2 <= before && bytes > (best?.bytes ?? 0)) best = { segment, left, bytes };
    }
    return best;
  }
}

function goneOf({ dropped, delivered }: TopicState): readonly SeqRange[] {
  return dropped.length === 0 ? delivered : mergeRanges([...dropped, ...delivered]);
}

function isNeeded(frame: StoredFrame, state: SpoolState): boolean {
  const topic = state.topicById(frame.topicId);
  if (frame.type !== FRAME_READINGS || topic === undefined) return false;
  const range = { first: Math.max(frame.baseSeq, topic.acknowledged + 1), last: frame.baseSeq + frame.count - 1 };
  return range.first <= range.last && !covers(goneOf(topic), range);
}
