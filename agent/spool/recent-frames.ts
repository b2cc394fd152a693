/**
 * The frames that were written last, as they are on the disk: an uplink that keeps up has what it sends from memory, and reads only a backlog
 * from the disk.
 *
 * Invariants: a frame is added when it is durable; nobody writes to its bytes until it is forgotten and all who took it (`hold`) are done with it.
 * Limits: RECENT_BYTES_MAX of memory; the oldest go first.
 */
import { giveFrameBuffer } from './frame-buffers.ts';
import { FRAME_HEADER_BYTES, type FrameHeader } from './frame.ts';
import type { Segment } from './recovery.ts';

/** A second of a hundred thousand readings is ten times this: above the linger of the uplink, and little beside its own bound. */
const RECENT_BYTES_MAX = 2 * 1024 * 1024;

export interface LaidOutFrame {
  readonly header: FrameHeader;
  readonly payload: Buffer;
}

export interface RecentFrame extends LaidOutFrame {
  readonly segment: Segment;
  /** Where the next frame begins. */
  readonly end: number;
  /** Readers that are not done with it; and one more while it is remembered. */
  holders: number;
}

export class RecentFrames {
  /** By where they begin in their segment. */
  readonly #frames = new Map<number, RecentFrame>();
  #bytes = 0;

  /** `start`: where the first of them begins in the segment. */
  add(segment: Segment, start: number, frames: readonly LaidOutFrame[]): void {
    let at = start;
    for (const { header, payload } of frames) {
      const end = at + FRAME_HEADER_BYTES + payload.length;
      this.#forget(at);
      this.#frames.set(at, { segment, header, payload, end, holders: 1 });
      this.#bytes += heldBy(payload);
      at = end;
    }
    for (const oldest of this.#frames.keys()) {
      if (this.#bytes <= RECENT_BYTES_MAX) break;
      this.#forget(oldest);
    }
  }

  /** undefined: it has to be read. */
  at(segment: Segment, offset: number): RecentFrame | undefined {
    const frame = this.#frames.get(offset);
    return frame?.segment === segment ? frame : undefined;
  }

  /** Of another segment, where `at` is taken again. */
  #forget(at: number): void {
    const frame = this.#frames.get(at);
    if (frame === undefined) return;
    this.#bytes -= heldBy(frame.payload);
    this.#frames.delete(at);
    release(frame);
  }
}

/** Its bytes are read until `release`. */
export function hold(frame: RecentFrame): void {
  frame.holders += 1;
}

/** Once for each `hold`. */
export function release(frame: RecentFrame): void {
  frame.holders -= 1;
  if (frame.holders === 0) giveFrameBuffer(frame.payload);
}

/** The whole memory that a view keeps. */
function heldBy(payload: Buffer): number {
  return payload.buffer.byteLength;
}
