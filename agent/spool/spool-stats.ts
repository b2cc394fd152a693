/** What the state of a spool says about its topics and segments. */
import { countOf, covers, mergeRanges, type SeqRange } from '../seq-ranges.ts';
import type { Segment } from './recovery.ts';
import type { SpoolState, TopicState } from './spool-state.ts';

export interface SpoolTopicStats {
  readonly topic: string;
  /** Readings accepted over the life of the spool. */
  readonly accepted: number;
  /** Of these, delivered or given up. */
  readonly acknowledged: number;
}

export interface SpoolStats {
  readonly bytes: number;
  readonly maxBytes: number;
  readonly segments: number;
  /** Keys and values that were stored since the start. */
  readonly storedBytes: number;
  readonly topics: readonly SpoolTopicStats[];
  /** Files set aside since the start. */
  readonly setAside: readonly string[];
  /** Readings dropped by policy that are not acknowledged yet. */
  readonly dropped: number;
}

export function topicStats(state: SpoolState): Pick<SpoolStats, 'topics' | 'dropped'> {
  const topics = state.topics();
  return {
    topics: topics.map(({ name, nextSeq, acknowledged, delivered }) => ({
      topic: name,
      accepted: nextSeq - 1,
      acknowledged: acknowledged + countOf(delivered),
    })),
    dropped: countOf(topics.flatMap(({ dropped }) => dropped)),
  };
}

/** The segments (of all, ascending; the last one is under way) that nobody needs any more. */
export function deliveredSegments(segments: readonly Segment[], state: SpoolState): readonly Segment[] {
  return segments.filter((segment, index) => {
    const next = segments[index + 1];
    return (
      next !== undefined &&
      state.topics().every((topic) => {
        const range = rangeIn(segment, next, topic);
        return range.last < range.first || covers(mergeRanges([...topic.dropped, ...topic.delivered]), range);
      })
    );
  });
}

/** The undelivered sequences of a topic that can lie in `segment`; empty when last < first. */
export function rangeIn(segment: Segment, next: Segment, topic: TopicState): SeqRange {
  return {
    first: Math.max(segment.startSeqs.get(topic.id) ?? 1, topic.acknowledged + 1),
    last: (next.startSeqs.get(topic.id) ?? 1) - 1,
  };
}
