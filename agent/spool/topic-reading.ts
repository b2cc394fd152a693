/**
 * Reading a topic out of the segments, in order of sequence, what was just written from memory and the rest from the disk: memory does not
 * grow with the backlog.
 *
 * Two cursors per topic remember where the last reads ended, so that the next ones go on there; any other start is found by the
 * segments' heads (which name the next sequence of every topic) and a scan of one segment. Segments may be written anew meanwhile, or
 * deleted: the file is smaller then, or gone, and the read begins anew.
 *
 * Invariants: every sequence from the start on appears once, as a reading or within a gap. Damage met while reading never yields a
 * reading; a copy of the segment is set aside once.
 */
import { open } from 'node:fs/promises';
import { fromSystemError, systemCode } from '../../lib/errors.ts';
import { rangeAtOrBehind } from '../seq-ranges.ts';
import { keepEvidence } from '../set-aside.ts';
import { FRAME_READINGS, READING_HEADER_BYTES, readingBytes, type FrameHeader } from './frame.ts';
import { hold, release, type RecentFrame, type RecentFrames } from './recent-frames.ts';
import type { Segment } from './recovery.ts';
import { StoredReading } from './stored-reading.ts';
import type { StoredSegments } from './stored-segments.ts';
import { scanSegment } from './segment-scan.ts';
import type { SpoolEntry } from './spool-reader.ts';
import type { TopicState } from './spool-state.ts';

const REASON_DROPPED = 'dropped: the spool was full';
const REASON_LOST = 'lost: a damaged spool segment';

/** One for the present, one for the past. */
const CURSORS_PER_TOPIC = 2;

type Segments = Pick<StoredSegments, 'all' | 'isReplaced'>;

interface Cursor {
  readonly seq: number;
  /** The object itself: a segment that was written anew is another one, with other offsets. */
  readonly segment: Segment;
  readonly offset: number;
}

export class TopicReading {
  readonly #cursors = new Map<string, readonly Cursor[]>();
  readonly #setAside = new Set<number>();
  /** Of what was returned, the frames that are read in memory. */
  readonly #held = new WeakMap<readonly SpoolEntry[], readonly RecentFrame[]>();
  readonly #recent: RecentFrames;
  readonly #replayedBelow: ReadonlyMap<string, number>;
  readonly #onSetAside: (path: string) => void;

  /** `replayedBelow`: per topic, the first sequence that this run of the agent will give. */
  constructor(recent: RecentFrames, replayedBelow: ReadonlyMap<string, number>, onSetAside: (path: string) => void) {
    this.#recent = recent;
    this.#replayedBelow = replayedBelow;
    this.#onSetAside = onSetAside;
  }

  /** See SpoolReader.read. */
  async read(segments: Segments, topic: TopicState, from: number, maxBytes: number): Promise<readonly SpoolEntry[]> {
    for (;;) {
      const entries = await this.#tryToRead(segments, topic, from, maxBytes);
      if (entries !== undefined) return entries;
    }
  }

  /** See SpoolReader.done. */
  done(entries: readonly SpoolEntry[]): void {
    for (const frame of this.#held.get(entries) ?? []) release(frame);
    this.#held.delete(entries);
  }

  /** undefined: a segment was written anew, or deleted. */
  async #tryToRead(
    { all: segments, isReplaced }: Segments,
    topic: TopicState,
    from: number,
    maxBytes: number,
  ): Promise<readonly SpoolEntry[] | undefined> {
    const delivered = rangeAtOrBehind(topic.delivered, from);
    if (delivered !== undefined && delivered.first <= from) {
      return [{ kind: 'delivered', topic: topic.name, fromSeq: BigInt(from), toSeq: BigInt(delivered.last) }];
    }
    const limit = Math.min(topic.nextSeq, delivered?.first ?? Infinity);
    if (from >= limit) return [];
    const batch = new Batch(topic, from, limit, maxBytes, this.#replayedBelow.get(topic.name) ?? 1);
    this.#held.set(batch.entries, batch.frames);
    const cursor = this.#cursors.get(topic.name)?.find(({ seq }) => seq === from);
    const resumed = cursor === undefined ? -1 : segments.indexOf(cursor.segment);
    let index = resumed >= 0 ? resumed : startIndex(segments, topic.id, from);
    let offset = resumed >= 0 ? cursor?.offset : undefined;
    for (; index < segments.length; index += 1, offset = undefined) {
      const segment = segments[index];
      if (segment === undefined || !mayHold(segments, index, topic.id)) continue;
      const stop = await this.#readSegment(segment, offset ?? segment.dataStart, batch, isReplaced);
      if (stop === undefined) return undefined;
      this.#remember(topic.name, from, { seq: batch.expected, segment, offset: stop.offset });
      if (stop.isFull) return batch.entries;
    }
    // Everything durable was looked at: what is still missing is gone.
    if (batch.expected < limit) {
      batch.gapUpTo(limit - 1);
      this.#cursors.delete(topic.name);
    }
    return batch.entries;
  }

  /** In the place of the cursor that was read from; the oldest other one gives way. */
  #remember(topic: string, from: number, cursor: Cursor): void {
    const others = (this.#cursors.get(topic) ?? []).filter(({ seq }) => seq !== from && seq !== cursor.seq);
    this.#cursors.set(topic, [...others.slice(1 - CURSORS_PER_TOPIC), cursor]);
  }

  /** Where to go on: at the frame that did not fit any more, or at the durable end of the segment. */
  async #readSegment(
    segment: Segment,
    offset: number,
    batch: Batch,
    isReplaced: Segments['isReplaced'],
  ): Promise<{ offset: number; isFull: boolean } | undefined> {
    const end = segment.bytes;
    const written = this.#takeRecent(segment, offset, end, batch);
    if (written.isFull || written.offset >= end) return written;
    return this.#readFile(segment, written.offset, end, batch, isReplaced);
  }

  /** What of it is still in memory. */
  #takeRecent(segment: Segment, from: number, end: number, batch: Batch): { offset: number; isFull: boolean } {
    let offset = from;
    while (offset < end) {
      const frame = this.#recent.at(segment, offset);
      if (frame === undefined) break;
      if (batch.isDone) return { offset, isFull: true };
      if (batch.wants(frame.header)) {
        hold(frame);
        batch.frames.push(frame);
        if (!batch.take(segment, frame.header, frame.payload)) return { offset, isFull: true };
      }
      offset = frame.end;
    }
    return { offset, isFull: false };
  }

  async #readFile(
    segment: Segment,
    offset: number,
    end: number,
    batch: Batch,
    isReplaced: Segments['isReplaced'],
  ): Promise<{ offset: number; isFull: boolean } | undefined> {
    const handle = await open(segment.path, 'r').catch((error: unknown) => {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw fromSystemError(error, `cannot read the spool segment ${segment.path}`);
    });
    // Deleted because it is delivered; or from outside, and its readings show up as a gap.
    if (handle === undefined) return (await isReplaced(segment)) ? undefined : { offset: end, isFull: false };
    try {
      if ((await handle.stat()).size < end && (await isReplaced(segment))) return undefined;
      for await (const item of scanSegment(handle, offset, end, (frame) => batch.wants(frame))) {
        if (batch.isDone) return { offset: item.start, isFull: true };
        if (item.kind === 'damage') await this.#setDamagedAside(segment);
        else if (item.payload !== null && !batch.take(segment, item.frame, item.payload)) {
          return { offset: item.start, isFull: true };
        }
      }
      return { offset: end, isFull: false };
    } finally {
      await handle.close();
    }
  }

  async #setDamagedAside(segment: Segment): Promise<void> {
    if (this.#setAside.has(segment.number)) return;
    this.#setAside.add(segment.number);
    const aside = `${segment.path}.corrupt-1`;
    await keepEvidence(segment.path, aside);
    this.#onSetAside(aside);
  }
}

/** The last segment that begins at or before `from`. */
function startIndex(segments: readonly Segment[], topicId: number, from: number): number {
  let low = 0;
  let high = segments.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((segments[middle]?.startSeqs.get(topicId) ?? 1) <= from) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** False when the heads say that the topic got nothing between this segment's beginning and the next one's. */
function mayHold(segments: readonly Segment[], index: number, topicId: number): boolean {
  const next = segments[index + 1];
  return next === undefined || next.startSeqs.get(topicId) !== (segments[index]?.startSeqs.get(topicId) ?? 1);
}

/** Collects entries until it is full; fills in the gaps. */
class Batch {
  readonly entries: SpoolEntry[] = [];
  /** Those in memory that entries are made of. */
  readonly frames: RecentFrame[] = [];
  /** The next sequence that is neither a reading nor in a gap of `entries`. */
  expected: number;
  readonly #topic: TopicState;
  /** Readings from here on are not wanted. */
  readonly #limit: number;
  readonly #replayedBelow: number;
  #bytesLeft: number;

  constructor(topic: TopicState, from: number, limit: number, maxBytes: number, replayedBelow: number) {
    this.#topic = topic;
    this.#limit = limit;
    this.expected = from;
    this.#bytesLeft = maxBytes;
    this.#replayedBelow = replayedBelow;
  }

  get isDone(): boolean {
    return this.expected >= this.#limit;
  }

  wants(frame: FrameHeader): boolean {
    return (
      frame.type === FRAME_READINGS &&
      frame.topicId === this.#topic.id &&
      frame.baseSeq < this.#limit &&
      frame.baseSeq + frame.count > this.expected
    );
  }

  /** False when the batch is full and something of the frame is left. */
  take(segment: Segment, frame: FrameHeader, payload: Buffer): boolean {
    if (this.#isFull()) return false;
    if (frame.baseSeq > this.expected) this.gapUpTo(frame.baseSeq - 1);
    const { agent, incarnation } = segment;
    const { priority, baseSeq, count } = frame;
    const content = {
      topic: this.#topic.name,
      agent,
      incarnation,
      priority,
      replayedBelow: this.#replayedBelow,
      payload,
    };
    let seq = baseSeq;
    for (let at = 0; seq < baseSeq + count; seq += 1) {
      const bytes = readingBytes(payload, at);
      if (seq >= this.expected) {
        if (this.#isFull() || seq >= this.#limit) break;
        this.#bytesLeft -= bytes - READING_HEADER_BYTES;
        this.entries.push(new StoredReading(content, seq, at));
      }
      at += bytes;
    }
    this.expected = seq;
    return seq === baseSeq + count;
  }

  /** Explains everything from `expected` to `last`. */
  gapUpTo(last: number): void {
    while (this.expected <= last) {
      const from = this.expected;
      const dropped = rangeAtOrBehind(this.#topic.dropped, from);
      const isDropped = dropped !== undefined && dropped.first <= from;
      const to = isDropped ? Math.min(last, dropped.last) : Math.min(last, (dropped?.first ?? Infinity) - 1);
      this.entries.push({
        kind: 'gap',
        topic: this.#topic.name,
        fromSeq: BigInt(from),
        toSeq: BigInt(to),
        reason: isDropped ? REASON_DROPPED : REASON_LOST,
      });
      this.expected = to + 1;
    }
  }

  #isFull(): boolean {
    return this.#bytesLeft <= 0 && this.entries.length > 0;
  }
}
