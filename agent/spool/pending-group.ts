/**
 * The readings, checkpoints and acknowledgements that will be written and synced together.
 *
 * Readings are encoded when they arrive, into one frame after another per topic, so that nothing is kept twice and a group costs one
 * gathered write. Sequences are given out in `layOut`, when the group's turn has come: a group that failed has used none.
 *
 * Invariants: readings of one topic keep the order in which they were appended; a gap is passed only together with the reading that tells
 * of it.
 */
import assert from 'node:assert/strict';
import type { PenstockError } from '../../lib/errors.ts';
import { mergeRanges, type SeqRange } from '../seq-ranges.ts';
import {
  encodeFrameHeader,
  FRAME_HEADER_BYTES,
  FRAME_READINGS,
  FRAME_STATE,
  READING_HEADER_BYTES,
  ReadingsPayload,
  type FrameHeader,
  type NewReading,
} from './frame.ts';
import { PackedReadings, type Readings } from './packed-readings.ts';
import type { LaidOutFrame } from './recent-frames.ts';
import {
  encodeState,
  groupReceipts,
  type Checkpoint,
  type CheckpointState,
  type Receipt,
  type SpoolState,
  type StateDelta,
  type TopicState,
} from './spool-state.ts';

/** Payloads of packed readings that are smaller are copied into the frame before: a frame has a header and a buffer of its own. */
const COPIED_BYTES_MAX = 16 * 1024;

interface OpenFrame {
  readonly topic: string;
  readonly priority: number;
  readonly payload: ReadingsPayload;
  /** The payload is the source's, which may hand it over again if this group fails: nothing is added to it. */
  readonly isTakenOver: boolean;
}

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: PenstockError) => void;
}

export interface LaidOutGroup {
  readonly buffers: readonly Buffer[];
  readonly frames: readonly LaidOutFrame[];
  readonly bytes: number;
  /** What is true once the group is durable. */
  readonly nextSeqs: ReadonlyMap<TopicState, number>;
  readonly delta: StateDelta | null;
}

export class PendingGroup {
  readonly #bytesExpected: number;
  readonly #frames: OpenFrame[] = [];
  readonly #openFrames = new Map<string, OpenFrame>();
  readonly #checkpoints = new Map<string, CheckpointState>();
  readonly #receipts: Receipt[] = [];
  readonly #acknowledged = new Map<string, number>();
  readonly #dropped: [topicId: number, first: number, last: number][] = [];
  readonly #delivered = new Map<string, readonly SeqRange[]>();
  /** Gaps that the readings of this group tell of: without these they are not passed. */
  readonly #toldOf: [topic: string, range: SeqRange][] = [];
  readonly #waiters: Waiter[] = [];
  readonly #listeners: {
    readonly frame: OpenFrame;
    readonly index: number;
    readonly onStored: (seq: number) => void;
  }[] = [];
  readonly #baseSeqs = new Map<OpenFrame, number>();
  /** Bytes of readings, without frame headers. */
  bytes = 0;
  readings = 0;

  /** `bytesExpected`: about as many as it will have. */
  constructor(bytesExpected: number) {
    this.#bytesExpected = bytesExpected;
  }

  get isEmpty(): boolean {
    return (
      this.#frames.length === 0 &&
      this.#checkpoints.size === 0 &&
      this.#receipts.length === 0 &&
      this.#acknowledged.size === 0 &&
      this.#dropped.length === 0 &&
      this.#delivered.size === 0 &&
      this.#toldOf.length === 0 &&
      this.#waiters.length === 0
    );
  }

  /** Of the keys and values of its readings. */
  get contentBytes(): number {
    return this.#frames.reduce(
      (sum, { payload: { bytesUsed, count } }) => sum + bytesUsed - count * READING_HEADER_BYTES,
      0,
    );
  }

  /** Somebody wants to know when it is durable. */
  get isAwaited(): boolean {
    return this.#waiters.length > 0;
  }

  add(readings: Readings, checkpoints: readonly Checkpoint[], receipts: readonly Receipt[]): void {
    if (readings instanceof PackedReadings) this.#addPacked(readings);
    else this.#addEach(readings);
    this.readings += readings.length;
    for (const checkpoint of checkpoints) this.#checkpoints.set(checkpoint.source, checkpoint.state);
    for (const receipt of receipts) this.#receipts.push(receipt);
  }

  #addEach(readings: readonly NewReading[]): void {
    let frame: OpenFrame | undefined;
    for (const reading of readings) {
      if (frame?.topic !== reading.topic || frame.priority !== reading.priority) frame = this.#frameFor(reading);
      const before = frame.payload.bytesUsed;
      if (!frame.isTakenOver && frame.payload.add(reading)) this.bytes += frame.payload.bytesUsed - before;
      else {
        frame = this.#openFrame(reading);
        frame.payload.add(reading);
        this.bytes += frame.payload.bytesUsed;
      }
      const { onStored } = reading;
      if (onStored !== undefined) this.#listeners.push({ frame, index: frame.payload.count - 1, onStored });
    }
  }

  #addPacked({ topic, priority, payloads }: PackedReadings): void {
    for (const payload of payloads) {
      if (payload.bytesUsed > COPIED_BYTES_MAX) this.#open({ topic, priority, payload, isTakenOver: true });
      else {
        const frame = this.#frameFor({ topic, priority });
        if (frame.isTakenOver || !frame.payload.addAll(payload))
          this.#openFrame({ topic, priority }).payload.addAll(payload);
      }
      this.bytes += payload.bytesUsed;
    }
  }

  /** Passes a gap with a reading of the spool's own, which needs no room, so that a full spool can say what it gave up. */
  addReport(reading: NewReading, topic: string, range: SeqRange): void {
    this.add([reading], [], []);
    this.readings -= 1;
    this.#toldOf.push([topic, range]);
  }

  /** Of its readings; -1 when it has none. */
  highestPriority(): number {
    return this.#frames.reduce((highest, frame) => Math.max(highest, frame.priority), -1);
  }

  acknowledge(topic: string, seq: number): void {
    this.#acknowledged.set(topic, Math.max(seq, this.#acknowledged.get(topic) ?? 0));
  }

  /** Beside what is acknowledged up to some sequence. */
  acknowledgeRange(topic: string, range: SeqRange): void {
    this.#delivered.set(topic, mergeRanges([...(this.#delivered.get(topic) ?? []), range]));
  }

  drop(topicId: number, first: number, last: number): void {
    this.#dropped.push([topicId, first, last]);
  }

  /** Resolves when the group is durable, rejects when it could not be written. */
  settled(): Promise<void> {
    return new Promise<void>((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /** The topics of this group's readings. */
  topics(): readonly string[] {
    return [...this.#openFrames.keys()];
  }

  /** The bytes of the group. `state` knows all its topics. */
  layOut(state: SpoolState, group: number): LaidOutGroup {
    const nextSeqs = new Map<TopicState, number>();
    const parts: { header: Omit<FrameHeader, 'last'>; payload: Buffer }[] = [];
    for (const frame of this.#frames) {
      const { topic: name, priority, payload } = frame;
      const topic = state.topic(name);
      assert(topic !== undefined, `topic ${name} is not in the head of the segment`);
      const baseSeq = nextSeqs.get(topic) ?? topic.nextSeq;
      const header = { type: FRAME_READINGS, group, topicId: topic.id, priority, baseSeq, count: payload.count };
      parts.push({ header, payload: payload.payload });
      if (this.#listeners.length > 0) this.#baseSeqs.set(frame, baseSeq);
      nextSeqs.set(topic, baseSeq + payload.count);
    }
    const delta = this.#stateDelta(state);
    if (delta !== null) {
      const header = { type: FRAME_STATE, group, topicId: 0, priority: 0, baseSeq: 0, count: 0 };
      parts.unshift({ header, payload: encodeState(delta) });
    }
    const frames = parts.map(({ header, payload }, index) => ({
      header: { ...header, last: index === parts.length - 1 },
      payload,
    }));
    const buffers = frames.flatMap(({ header, payload }) => [encodeFrameHeader(header, payload), payload]);
    const bytes = frames.reduce((sum, { payload }) => sum + FRAME_HEADER_BYTES + payload.length, 0);
    return { buffers, frames, bytes, nextSeqs, delta };
  }

  succeed(): void {
    for (const { frame, index, onStored } of this.#listeners) onStored((this.#baseSeqs.get(frame) ?? 0) + index);
    for (const waiter of this.#waiters) waiter.resolve();
  }

  /** Readings, checkpoints, receipts and passed gaps are refused together; acknowledgements and drops go on into `next`. */
  fail(error: PenstockError, next: PendingGroup): void {
    for (const waiter of this.#waiters) waiter.reject(error);
    for (const [topic, seq] of this.#acknowledged) next.acknowledge(topic, seq);
    for (const [topic, ranges] of this.#delivered) for (const range of ranges) next.acknowledgeRange(topic, range);
    next.#dropped.push(...this.#dropped);
  }

  #stateDelta(state: SpoolState): StateDelta | null {
    const topics: StateDelta['topics'] = [];
    for (const [name, seq] of this.#acknowledged) {
      const topic = state.topic(name);
      if (topic !== undefined) topics.push([topic.id, name, 1, seq]);
    }
    const delivered: StateDelta['delivered'] = [];
    const ranges = [...this.#delivered].flatMap(([name, ofTopic]) => ofTopic.map((range) => [name, range] as const));
    for (const [name, { first, last }] of [...ranges, ...this.#toldOf]) {
      const topic = state.topic(name);
      if (topic !== undefined) delivered.push([topic.id, first, last]);
    }
    const receipts = groupReceipts(this.#receipts);
    const changes = topics.length + this.#checkpoints.size + receipts.length + this.#dropped.length + delivered.length;
    if (changes === 0) return null;
    return { topics, checkpoints: [...this.#checkpoints], receipts, dropped: this.#dropped, delivered };
  }

  #frameFor(reading: Pick<NewReading, 'topic' | 'priority'>): OpenFrame {
    const open = this.#openFrames.get(reading.topic);
    return open?.priority === reading.priority ? open : this.#openFrame(reading);
  }

  #openFrame({ topic, priority }: Pick<NewReading, 'topic' | 'priority'>): OpenFrame {
    const bytesLeft = this.#bytesExpected - this.bytes;
    return this.#open({ topic, priority, payload: new ReadingsPayload(bytesLeft), isTakenOver: false });
  }

  #open(frame: OpenFrame): OpenFrame {
    this.#frames.push(frame);
    this.#openFrames.set(frame.topic, frame);
    return frame;
  }
}
