/**
 * What a spool knows beside its readings: topics with their next and acknowledged sequence, the sources' checkpoints and receipts, and
 * the ranges that were dropped on purpose. It has no file of its own: a segment begins with a head frame that holds all of it, and state
 * frames behind it hold changes, in the same group (one write, one sync) as the readings they belong to.
 *
 *   head, state  JSON { segment, agent, incarnation, eras,                (head only; eras.ts)
 *                       topics: [[id, name, nextSeq, acknowledgedSeq]],
 *                       checkpoints: [[source, state | null]],            (null: forgotten)
 *                       receipts: [[source, [[id, content | null]]]],     (null: forgotten)
 *                       dropped: [[topicId, firstSeq, lastSeq]],
 *                       delivered: [[topicId, firstSeq, lastSeq]] }       (above the acknowledged one: the present goes before the past)
 *
 * Invariants: sequences of a topic begin with 1; all up to and including `acknowledged` are delivered; topic ids are never reused.
 * Limits: a head holds all of it, so whoever owns receipts keeps few enough of them (`receiptsPerSpool`); TOPICS_MAX topics; ranges are
 * merged where they touch and forgotten once acknowledged.
 */
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import { mergeRanges, type SeqRange } from '../seq-ranges.ts';
import { Eras, erasSchema } from './eras.ts';
import { GAPS_TOPIC } from './gap-report.ts';

/** A topic id has 16 bits in a frame. Far above any sensible number of topics of one node. */
const TOPICS_MAX = 10_000;

export type CheckpointState = z.core.util.JSONType;

/** A source's position, stored in the same group as the readings up to it. */
export interface Checkpoint {
  readonly source: string;
  /** null forgets the checkpoint. */
  readonly state: CheckpointState;
}

/**
 * What identifies a redelivery of input that was accepted (a packet id, a key of the client), stored in the same group as its readings. A
 * checkpoint is one value that each delivery replaces; of receipts a source has many, and each delivery adds or forgets a few.
 */
export interface Receipt {
  readonly source: string;
  readonly id: string;
  /** What the repeat is compared with or answered by; null forgets the receipt. */
  readonly content: string | null;
}

const seqSchema = z.int().nonnegative();
const rangesSchema = z.array(z.tuple([z.int().positive(), seqSchema, seqSchema]));
const deltaSchema = z.strictObject({
  topics: z.array(z.tuple([z.int().positive(), z.string(), seqSchema, seqSchema])),
  checkpoints: z.array(z.tuple([z.string(), z.json()])),
  /** A spool of a version that knew no receipts has none. */
  receipts: z.array(z.tuple([z.string(), z.array(z.tuple([z.string(), z.string().nullable()]))])).default([]),
  dropped: rangesSchema,
  /** A spool of a version that delivered in order only has none. */
  delivered: rangesSchema.default([]),
});
const headSchema = z.strictObject({
  segment: z.int().positive(),
  agent: z.string(),
  incarnation: z.string(),
  /** A spool of a version that did not keep them has none. */
  eras: erasSchema.default([]),
  ...deltaSchema.shape,
});
export type StateDelta = z.infer<typeof deltaSchema>;
export type SegmentHead = z.infer<typeof headSchema>;

export interface TopicState {
  readonly id: number;
  readonly name: string;
  /** The sequence of the next reading to come; readings below it are durable. */
  nextSeq: number;
  acknowledged: number;
  /** Given up, and not acknowledged yet. */
  dropped: readonly SeqRange[];
  /** Delivered before something older was. */
  delivered: readonly SeqRange[];
}

/** undefined when the payload is not a head (its checksum held, so another version wrote it). */
export function parseHead(payload: Buffer): SegmentHead | undefined {
  return parseJson(payload, headSchema);
}

export function parseDelta(payload: Buffer): StateDelta | undefined {
  return parseJson(payload, deltaSchema);
}

function parseJson<T>(payload: Buffer, schema: z.ZodType<T>): T | undefined {
  try {
    return schema.safeParse(JSON.parse(payload.toString('utf8'))).data;
  } catch {
    return undefined;
  }
}

export function encodeState(state: StateDelta | SegmentHead): Buffer {
  return Buffer.from(JSON.stringify(state), 'utf8');
}

export class SpoolState {
  readonly eras = new Eras();
  readonly #byName = new Map<string, TopicState>();
  readonly #byId = new Map<number, TopicState>();
  #lastId = 0;
  readonly #checkpoints = new Map<string, CheckpointState>();
  readonly #receipts = new Map<string, Map<string, string>>();

  topics(): readonly TopicState[] {
    return [...this.#byName.values()];
  }

  topic(name: string): TopicState | undefined {
    return this.#byName.get(name);
  }

  topicById(id: number): TopicState | undefined {
    return this.#byId.get(id);
  }

  /** Throws `full` above TOPICS_MAX, beside which there is always one for the records of gaps. */
  addTopic(name: string, id = this.#lastId + 1): TopicState {
    const known = this.#byId.get(id);
    if (known !== undefined) return known;
    if (this.#byId.size >= TOPICS_MAX && name !== GAPS_TOPIC) {
      throw new PenstockError('full', `topic '${name}' would be one more than the ${TOPICS_MAX} topics of a spool`);
    }
    const topic: TopicState = { id, name, nextSeq: 1, acknowledged: 0, dropped: [], delivered: [] };
    this.#byName.set(name, topic);
    this.#byId.set(id, topic);
    this.#lastId = Math.max(this.#lastId, id);
    return topic;
  }

  checkpoint(source: string): CheckpointState | undefined {
    return this.#checkpoints.get(source);
  }

  checkpointSources(prefix: string): readonly string[] {
    return [...this.#checkpoints.keys()].filter((source) => source.startsWith(prefix));
  }

  /** By id, the oldest first. */
  receipts(source: string): ReadonlyMap<string, string> {
    return this.#receipts.get(source) ?? new Map<string, string>();
  }

  /** Sequences only go up: a head or state that is read again changes nothing. */
  apply(delta: StateDelta): void {
    for (const [id, name, nextSeq, acknowledged] of delta.topics) {
      const topic = this.addTopic(name, id);
      topic.nextSeq = Math.max(topic.nextSeq, nextSeq);
      topic.acknowledged = Math.max(topic.acknowledged, acknowledged);
      if (topic.dropped.length > 0) topic.dropped = mergeRanges(topic.dropped, topic.acknowledged);
      if (topic.delivered.length > 0) topic.delivered = mergeRanges(topic.delivered, topic.acknowledged);
    }
    for (const [source, state] of delta.checkpoints) {
      if (state === null) this.#checkpoints.delete(source);
      else this.#checkpoints.set(source, state);
    }
    for (const [source, changes] of delta.receipts) this.#applyReceipts(source, changes);
    for (const [id, first, last] of delta.dropped) {
      const topic = this.#byId.get(id);
      if (topic !== undefined) topic.dropped = mergeRanges([...topic.dropped, { first, last }], topic.acknowledged);
    }
    for (const [id, first, last] of delta.delivered) {
      const topic = this.#byId.get(id);
      if (topic !== undefined) topic.delivered = mergeRanges([...topic.delivered, { first, last }], topic.acknowledged);
    }
  }

  #applyReceipts(source: string, changes: readonly (readonly [id: string, content: string | null])[]): void {
    const receipts = this.#receipts.get(source) ?? new Map<string, string>();
    for (const [id, content] of changes) {
      // Set anew, so that the order stays that of their age.
      receipts.delete(id);
      if (content !== null) receipts.set(id, content);
    }
    if (receipts.size === 0) this.#receipts.delete(source);
    else this.#receipts.set(source, receipts);
  }

  /** Everything, for the head of a new segment. */
  snapshot(): StateDelta & Pick<SegmentHead, 'eras'> {
    const topics = this.topics();
    return {
      eras: this.eras.snapshot(topics),
      topics: topics.map((topic) => [topic.id, topic.name, topic.nextSeq, topic.acknowledged]),
      checkpoints: [...this.#checkpoints],
      receipts: [...this.#receipts].map(([source, receipts]) => [source, [...receipts]]),
      dropped: topics.flatMap((topic) => tuples(topic.id, topic.dropped)),
      delivered: topics.flatMap((topic) => tuples(topic.id, topic.delivered)),
    };
  }
}

/** In the order in which they were given; a later one of an id takes the place of an earlier one. */
export function groupReceipts(receipts: Iterable<Receipt>): StateDelta['receipts'] {
  const bySource = new Map<string, Map<string, string | null>>();
  for (const { source, id, content } of receipts) {
    const changes = bySource.get(source) ?? new Map<string, string | null>();
    bySource.set(source, changes);
    changes.delete(id);
    changes.set(id, content);
  }
  return [...bySource].map(([source, changes]) => [source, [...changes]]);
}

function tuples(topicId: number, ranges: readonly SeqRange[]): [number, number, number][] {
  return ranges.map(({ first, last }) => [topicId, first, last]);
}
