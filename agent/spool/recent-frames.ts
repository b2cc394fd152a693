/**
 * The frames that were written last, as they are on the disk: an uplink that keeps up has what it sends from memory, and reads only a backlog
 * from the disk.
 *
 * Invariants: a frame is added when it is durable, and nobody writes to its bytes again. Limits: RECENT_BYTES_MAX of memory; the oldest go first.
 */
import { FRAME_HEADER_BYTES, type FrameHeader } from './frame.ts';
import type { Segment } from './recovery.ts';

/** A second of a hundred thousand readings is ten times this: above the linger of the uplink, and little beside its own bound. */
const RECENT_BYTES_MAX = 2 * 1024 * 1024;

export interface LaidOutFrame {
  readonly header: FrameHeader;
  readonly payload: Buffer;
}

interface RecentFrame extends LaidOutFrame {
  readonly segment: Segment;
  /** Where the next frame begins. */
  readonly end: number;
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
      this.#frames.set(at, { segment, header, payload, end });
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
  }
}

/** The whole memory that a view keeps. */
function heldBy(payload: Buffer): number {
  return payload.buffer.byteLength;
}
