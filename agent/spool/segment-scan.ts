/**
 * Reading a segment frame by frame, in windows of bounded size, stepping over damage.
 *
 * Invariants: a payload is handed out only when both checksums of its frame hold. Payloads are views of a buffer that is never
 * written again. Memory: one window, or one payload where that is larger.
 */
import type { FileHandle } from 'node:fs/promises';
import { decodeFrameHeader, findMagic, FRAME_HEADER_BYTES, payloadIsIntact, type StoredFrame } from './frame.ts';

/** One read of the disk; also what an idle topic's cursor costs while it is read. */
const WINDOW_BYTES = 512 * 1024;

export interface ScannedFrame {
  readonly kind: 'frame';
  readonly frame: StoredFrame;
  readonly start: number;
  readonly end: number;
  /** null when the caller did not want it; its checksum is then unchecked. */
  readonly payload: Buffer | null;
}

export interface ScannedDamage {
  readonly kind: 'damage';
  readonly start: number;
  /** Where the next intact header stands, or the end of the scanned range. */
  readonly end: number;
  /** The header, where it is the payload that is damaged or cut off. */
  readonly frame: StoredFrame | null;
  /** What a write that never ended leaves: a frame that goes on behind the end of the file, or zeros only. */
  readonly torn: boolean;
}

/** Scans `[start, end)`. `wants` decides whether a frame's payload is read. */
export async function* scanSegment(
  handle: FileHandle,
  start: number,
  end: number,
  wants: (frame: StoredFrame) => boolean,
): AsyncGenerator<ScannedFrame | ScannedDamage> {
  const window = new ReadWindow(handle, end);
  let at = start;
  while (at < end) {
    if (end - at < FRAME_HEADER_BYTES) {
      yield { kind: 'damage', start: at, end, frame: null, torn: true };
      return;
    }
    const frame = decodeFrameHeader(await window.view(at, FRAME_HEADER_BYTES), 0);
    const payloadStart = at + FRAME_HEADER_BYTES;
    const frameEnd = frame === null ? at : payloadStart + frame.payloadBytes;
    if (frame !== null && frameEnd <= end) {
      if (!wants(frame)) yield { kind: 'frame', frame, start: at, end: frameEnd, payload: null };
      else {
        const payload = await window.view(payloadStart, frame.payloadBytes);
        if (payloadIsIntact(frame, payload)) yield { kind: 'frame', frame, start: at, end: frameEnd, payload };
        else yield { kind: 'damage', start: at, end: frameEnd, frame, torn: false };
      }
      at = frameEnd;
      continue;
    }
    const { next, onlyZeros } = await findHeader(window, at, at + 1, end);
    yield { kind: 'damage', start: at, end: next, frame, torn: next === end && (frame !== null || onlyZeros) };
    at = next;
  }
}

/** The next intact header from `from` on, or `end`; and whether `[start, next)` holds nothing but zeros. */
async function findHeader(
  window: ReadWindow,
  start: number,
  from: number,
  end: number,
): Promise<{ next: number; onlyZeros: boolean }> {
  let onlyZeros = (await window.view(start, from - start)).every((byte) => byte === 0);
  for (let at = from; at < end;) {
    const length = Math.min(WINDOW_BYTES, end - at);
    const bytes = await window.view(at, length);
    onlyZeros &&= bytes.every((byte) => byte === 0);
    for (let found = findMagic(bytes, 0); found >= 0; found = findMagic(bytes, found + 1)) {
      const position = at + found;
      if (end - position < FRAME_HEADER_BYTES) break;
      const frame = decodeFrameHeader(await window.view(position, FRAME_HEADER_BYTES), 0);
      if (frame !== null) return { next: position, onlyZeros };
    }
    // A magic may lie across two windows.
    at += length === end - at ? length : length - 3;
  }
  return { next: end, onlyZeros };
}

class ReadWindow {
  readonly #handle: FileHandle;
  readonly #end: number;
  #bytes: Buffer = Buffer.alloc(0);
  #start = 0;

  constructor(handle: FileHandle, end: number) {
    this.#handle = handle;
    this.#end = end;
  }

  /** The bytes of `[offset, offset + length)`, which lies within the scanned range; shorter if the file was cut meanwhile. */
  async view(offset: number, length: number): Promise<Buffer> {
    const within = offset - this.#start;
    if (within < 0 || within + length > this.#bytes.length) {
      const size = Math.min(Math.max(length, WINDOW_BYTES), this.#end - offset);
      // A new buffer each time: views of the old one are still in the callers' hands.
      const bytes = Buffer.allocUnsafeSlow(size);
      let filled = 0;
      while (filled < size) {
        const { bytesRead } = await this.#handle.read(bytes, filled, size - filled, offset + filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      // Bytes that are gone read as zeros: no checksum holds over them.
      bytes.fill(0, filled);
      this.#bytes = bytes;
      this.#start = offset;
      return bytes.subarray(0, length);
    }
    return this.#bytes.subarray(within, within + length);
  }
}
