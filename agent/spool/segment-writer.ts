/**
 * The one segment that is being written. It appears under its name only with its whole head in it; groups are appended behind.
 *
 * Invariants: a group that was refused leaves no bytes (the file is cut back to where it was).
 * Failure: after a failed sync nobody knows what is on the disk, and a second sync would say yes without having written, so `write` throws
 * SyncFailure and the spool must not go on; the next start writes the segment anew (recovery.ts). ENOSPC is an ordinary refusal, `full`.
 */
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fromSystemError } from '../../lib/errors.ts';
import { syncDirectory } from '../../lib/durable-files.ts';
import { writeAll } from './segment-files.ts';
import { encodeFrameHeader, FRAME_HEAD, FRAME_HEADER_BYTES } from './frame.ts';
import type { Identity } from './identity.ts';
import { segmentPath, startSeqsOf, type Segment } from './recovery.ts';
import { encodeState, type SpoolState } from './spool-state.ts';

/** Thrown when the disk's content is unknown: the spool stops, as a source must not be told either way. */
export class SyncFailure extends Error {}

export class SegmentWriter {
  readonly segment: Segment;
  readonly #handle: FileHandle;

  private constructor(segment: Segment, handle: FileHandle) {
    this.segment = segment;
    this.#handle = handle;
  }

  /** Creates a segment durably. Throws `full`, `denied`, `io`; nothing is left behind then. */
  static async create(dir: string, number: number, identity: Identity, state: SpoolState): Promise<SegmentWriter> {
    const path = segmentPath(dir, number);
    const temporary = `${path}.tmp`;
    const { agent, incarnation } = identity;
    const head = { segment: number, agent, incarnation, ...state.snapshot() };
    const payload = encodeState(head);
    const header = { type: FRAME_HEAD, group: 0, last: true, topicId: 0, priority: 0, baseSeq: 0, count: 0 };
    const dataStart = FRAME_HEADER_BYTES + payload.length;
    let handle: FileHandle | undefined;
    try {
      handle = await open(temporary, 'wx');
      await writeAll(handle, [encodeFrameHeader(header, payload), payload], 0);
      await handle.sync();
      await rename(temporary, path);
      await syncDirectory(dirname(path));
    } catch (error) {
      await handle?.close();
      await rm(temporary, { force: true });
      throw fromSystemError(error, `cannot create the spool segment ${path}`);
    }
    const startSeqs = startSeqsOf(head);
    return new SegmentWriter({ number, path, agent, incarnation, dataStart, startSeqs, bytes: dataStart }, handle);
  }

  /** Something stands behind the head. */
  get hasData(): boolean {
    return this.segment.bytes > this.segment.dataStart;
  }

  /** Appends a group and syncs it. Throws `full` or `io` (nothing was written), or SyncFailure. */
  async write(buffers: readonly Buffer[], bytes: number): Promise<void> {
    const start = this.segment.bytes;
    try {
      await writeAll(this.#handle, buffers, start);
    } catch (error) {
      await this.#cutBack(start, error);
      throw fromSystemError(error, `cannot write to the spool segment ${this.segment.path}`);
    }
    try {
      await this.#handle.datasync();
    } catch (error) {
      throw new SyncFailure(`cannot sync the spool segment ${this.segment.path}`, { cause: error });
    }
    this.segment.bytes = start + bytes;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #cutBack(start: number, cause: unknown): Promise<void> {
    try {
      await this.#handle.truncate(start);
    } catch {
      throw new SyncFailure(`cannot cut back the spool segment ${this.segment.path}`, { cause });
    }
  }
}
