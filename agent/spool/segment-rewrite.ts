/** Looking through the readings of a sealed segment, and writing it anew with fewer of them. */
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fromSystemError } from '../../lib/errors.ts';
import { syncDirectory } from '../../lib/durable-files.ts';
import { FRAME_HEADER_BYTES, FRAME_READINGS, type StoredFrame } from './frame.ts';
import type { Segment } from './recovery.ts';
import { writeAll } from './segment-files.ts';
import { scanSegment } from './segment-scan.ts';

const COPY_BYTES = 512 * 1024;

export async function forEachReadingsFrame(segment: Segment, act: (frame: StoredFrame) => void): Promise<void> {
  const handle = await open(segment.path, 'r');
  try {
    for await (const item of scanSegment(handle, segment.dataStart, segment.bytes, () => false)) {
      if (item.frame?.type === FRAME_READINGS) act(item.frame);
    }
  } finally {
    await handle.close();
  }
}

/**
 * Writes the segment anew with its head and the frames that `keeps` holds of, in place of the old one: a kill leaves one or the other. Damage is
 * kept as it is: whoever reads the segment sets it aside then.
 * Throws `full`, `io`; the old one stays then.
 */
export async function rewriteSegment(segment: Segment, keeps: (frame: StoredFrame) => boolean): Promise<Segment> {
  const temporary = `${segment.path}.tmp`;
  let source: FileHandle | undefined;
  let target: FileHandle | undefined;
  try {
    source = await open(segment.path, 'r');
    target = await open(temporary, 'w');
    const head = Buffer.alloc(segment.dataStart);
    await source.read(head, 0, head.length, 0);
    await writeAll(target, [head], 0);
    let bytes = head.length;
    for await (const item of scanSegment(source, segment.dataStart, segment.bytes, keeps)) {
      if (item.kind === 'damage') bytes += await copyBytes(source, item, target, bytes);
      if (item.kind === 'damage' || item.payload === null) continue;
      const header = Buffer.alloc(FRAME_HEADER_BYTES);
      await source.read(header, 0, FRAME_HEADER_BYTES, item.start);
      await writeAll(target, [header, item.payload], bytes);
      bytes += FRAME_HEADER_BYTES + item.payload.length;
    }
    await target.sync();
    await rename(temporary, segment.path);
    await syncDirectory(dirname(segment.path));
    return { ...segment, bytes };
  } catch (error) {
    await rm(temporary, { force: true });
    throw fromSystemError(error, `cannot rewrite the spool segment ${segment.path}`);
  } finally {
    await source?.close();
    await target?.close();
  }
}

/** Returns how many. */
async function copyBytes(
  source: FileHandle,
  { start, end }: { readonly start: number; readonly end: number },
  target: FileHandle,
  position: number,
): Promise<number> {
  const window = Buffer.alloc(Math.min(COPY_BYTES, end - start));
  let copied = 0;
  while (start + copied < end) {
    const { bytesRead } = await source.read(window, 0, Math.min(window.length, end - start - copied), start + copied);
    // The file was cut from outside.
    if (bytesRead === 0) break;
    await writeAll(target, [window.subarray(0, bytesRead)], position + copied);
    copied += bytesRead;
  }
  return copied;
}
