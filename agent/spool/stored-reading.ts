/**
 * A reading of a frame that was read: it stays the bytes of the frame, and says of them what it is asked for. A backlog is read by thousands at
 * a time, and whatever an object holds for each of them is copied by the garbage collector.
 *
 * Invariants: the checksum of the frame held, and nobody writes to its bytes again.
 */
import { READING_HEADER_BYTES, readInt64 } from './frame.ts';
import type { ReadingPlace, SpooledReading } from './spool-reader.ts';

/** What the readings of a frame have in common. */
export interface FrameContent {
  readonly topic: string;
  readonly agent: string;
  readonly incarnation: string;
  readonly priority: number;
  /** The first sequence of this run of the agent. */
  readonly replayedBelow: number;
  readonly payload: Buffer;
}

export class StoredReading implements SpooledReading, ReadingPlace {
  readonly #frame: FrameContent;
  readonly #seq: number;
  /** Where the reading begins in the payload (frame.ts). */
  readonly #at: number;

  constructor(frame: FrameContent, seq: number, at: number) {
    this.#frame = frame;
    this.#seq = seq;
    this.#at = at;
  }

  get kind(): 'reading' {
    return 'reading';
  }

  get topic(): string {
    return this.#frame.topic;
  }

  get agent(): string {
    return this.#frame.agent;
  }

  get incarnation(): string {
    return this.#frame.incarnation;
  }

  get seq(): bigint {
    return BigInt(this.#seq);
  }

  get priority(): number {
    return this.#frame.priority;
  }

  get replayed(): boolean {
    return this.#seq < this.#frame.replayedBelow;
  }

  get eventUs(): number {
    return readInt64(this.#frame.payload, this.#at + 8);
  }

  get arrivalUs(): number {
    return readInt64(this.#frame.payload, this.#at + 16);
  }

  get key(): Buffer | null {
    const { start, keyBytes } = this;
    return keyBytes < 0 ? null : this.bytes.subarray(start, start + keyBytes);
  }

  get value(): Buffer {
    const from = this.start + Math.max(0, this.keyBytes);
    return this.bytes.subarray(from, from + this.valueBytes);
  }

  get place(): ReadingPlace {
    return this;
  }

  get bytes(): Buffer {
    return this.#frame.payload;
  }

  get start(): number {
    return this.#at + READING_HEADER_BYTES;
  }

  get keyBytes(): number {
    return this.#frame.payload.readUInt16LE(this.#at + 4) - 1;
  }

  get valueBytes(): number {
    return this.#frame.payload.readUInt32LE(this.#at);
  }
}
