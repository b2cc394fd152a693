/**
 * Who stored which sequences. A backlog keeps the identity it was stored under, but what was dropped or lost is in no segment any more: this says
 * whose it was, so that the record of a gap names readings that existed.
 *
 *   eras  [[agent, incarnation, [[topicId, firstSeq]]]]   ascending, in the head of a segment; the last one is under way
 *
 * Invariants: of an earlier era, the topics are those that got readings in it; of the one under way, all that there were at its beginning (others
 * begin with 1 in it).
 * Limits: ERAS_MAX, of which each got readings that are not all acknowledged; whose the readings of older ones were is not known any more.
 */
import { z } from 'zod';
import type { SeqRange } from '../seq-ranges.ts';
import type { Identity } from './identity.ts';
import type { TopicState } from './spool-state.ts';

/** A machine that cannot deliver: two months of one start a day. */
const ERAS_MAX = 64;

export const erasSchema = z.array(
  z.tuple([z.string(), z.string(), z.array(z.tuple([z.int().positive(), z.int().positive()]))]),
);

interface Era extends Identity {
  readonly starts: ReadonlyMap<number, number>;
}

export class Eras {
  #eras: Era[] = [];

  restore(eras: z.output<typeof erasSchema>): void {
    this.#eras = eras.map(([agent, incarnation, starts]) => ({ agent, incarnation, starts: new Map(starts) }));
  }

  /** From now on readings are stored under this identity. */
  begin({ agent, incarnation }: Identity, topics: readonly Pick<TopicState, 'id' | 'nextSeq'>[]): void {
    const last = this.#eras.pop();
    if (last !== undefined) {
      const starts = topics
        .map(({ id, nextSeq }) => ({ id, nextSeq, start: last.starts.get(id) ?? 1 }))
        .filter(({ start, nextSeq }) => start < nextSeq);
      if (starts.length > 0) this.#eras.push({ ...last, starts: new Map(starts.map(({ id, start }) => [id, start])) });
    }
    const started = topics.filter(({ nextSeq }) => nextSeq > 1);
    this.#eras.push({ agent, incarnation, starts: new Map(started.map(({ id, nextSeq }) => [id, nextSeq])) });
    this.#eras = this.#eras.slice(-ERAS_MAX);
  }

  /** The parts of a topic's range by whose they are, ascending; null: not known any more. */
  ownersOf(topicId: number, { first, last }: SeqRange): (SeqRange & { readonly owner: Identity | null })[] {
    const parts: (SeqRange & { readonly owner: Identity | null })[] = [];
    let end = last;
    for (const [index, era] of [...this.#eras.entries()].toReversed()) {
      const start = era.starts.get(topicId) ?? (index === this.#eras.length - 1 ? 1 : Infinity);
      if (start > end) continue;
      parts.unshift({ first: Math.max(first, start), last: end, owner: era });
      end = start - 1;
      if (end < first) return parts;
    }
    return [{ first, last: end, owner: null }, ...parts];
  }

  /** For the head of a new segment, without the eras that are over and all acknowledged. */
  snapshot(topics: readonly Pick<TopicState, 'id' | 'acknowledged'>[]): z.output<typeof erasSchema> {
    const acknowledged = new Map(topics.map((topic) => [topic.id, topic.acknowledged]));
    const isOver = ({ starts }: Era, later: readonly Era[]): boolean =>
      [...starts.keys()].every((id) => {
        const end = later.find((era) => era.starts.has(id))?.starts.get(id) ?? 1;
        return (acknowledged.get(id) ?? 0) >= end - 1;
      });
    while (this.#eras[0] !== undefined && this.#eras.length > 1 && isOver(this.#eras[0], this.#eras.slice(1))) {
      this.#eras.shift();
    }
    return this.#eras.map(({ agent, incarnation, starts }) => [agent, incarnation, [...starts]]);
  }
}
