/**
 * Reads what is new in one followed file and delivers it with its position.
 *
 * Invariants: the position that is stored lies behind the last line that was delivered or quarantined, never within a line that was
 * not (except in the rest of an overlong one). Lines that are joined are one line in this. At most one delivery is in flight, while the next chunk is read and parsed.
 */
import type { FileHandle } from 'node:fs/promises';
import type { FileSourceConfig } from '../config.ts';
import type { Rejected } from '../quarantine.ts';
import { isSurelyFine, refusal, type NewReading } from '../spool/frame.ts';
import { Marks } from './file-marks.ts';
import {
  isRejected,
  parseCsvHeader,
  parseCsvLine,
  parseJson,
  parseText,
  type RejectedInput,
} from './reading-parser.ts';
import type { LineJoiner } from './line-joiner.ts';
import { LineSplitter, type Line } from './line-splitter.ts';
import type { SourceOutput } from './source.ts';
import { fits, type FilePosition } from './tailed-file.ts';

const CHUNK_BYTES = 256 * 1024;
/** A file that is far behind lets the others have their turn. */
const CHUNKS_PER_TURN = 16;
const BOM = Buffer.from([0xef, 0xbb, 0xbf]);

export class FollowedFile {
  readonly inode: string;
  /** Where it was found last; it may have been renamed since. */
  path: string;
  /** Since when no name of the glob leads to it, by the monotonic clock. */
  rotatedSinceMs: number | undefined;
  readonly #key: string;
  readonly #config: FileSourceConfig;
  readonly #output: SourceOutput;
  readonly #handle: FileHandle;
  readonly #splitter: LineSplitter;
  readonly #marks: Marks;
  readonly #joiner: LineJoiner | undefined;
  readonly #isCsv: boolean;
  #columns: readonly string[] | null;
  /** As it is stored. */
  #position: FilePosition;
  #seen = { size: -1, modifiedMs: -1 };
  #inFlight: Promise<void> = Promise.resolve();

  private constructor(
    key: string,
    inode: string,
    config: FileSourceConfig,
    output: SourceOutput,
    handle: FileHandle,
    position: FilePosition,
    marks: Marks,
    joiner: LineJoiner | undefined,
  ) {
    this.#key = key;
    this.inode = inode;
    this.#config = config;
    this.#output = output;
    this.#handle = handle;
    this.#position = position;
    this.path = position.path;
    this.#marks = marks;
    this.#joiner = joiner;
    this.#splitter = new LineSplitter(position.offset, position.skipping, config.maxLineBytes);
    this.#columns = position.columns;
    this.#isCsv = (config.format ?? (/\.csv(?:\.\d+)?$/i.test(position.path) ? 'csv' : 'ndjson')) === 'csv';
  }

  /** Takes over the handle. */
  static async at(
    key: string,
    inode: string,
    config: FileSourceConfig,
    output: SourceOutput,
    handle: FileHandle,
    position: FilePosition,
    joiner: LineJoiner | undefined,
  ): Promise<FollowedFile> {
    const marks = await Marks.at(handle, position.offset);
    return new FollowedFile(key, inode, config, output, handle, position, marks, joiner);
  }

  /** The beginning of a reading is read whose end may still come. */
  get isHolding(): boolean {
    return this.#joiner !== undefined && this.#joiner.position !== null;
  }

  get position(): FilePosition {
    return this.#position;
  }

  /**
   * Delivers what is new: `more` when there is more at once, `end` when all of it is read, `changed` when this is no longer the file
   * that was read (truncated or rewritten).
   */
  async readOn(signal: AbortSignal): Promise<'more' | 'end' | 'changed'> {
    const stats = await this.#handle.stat();
    const seen = { size: stats.size, modifiedMs: stats.mtimeMs };
    if (seen.size === this.#seen.size && seen.modifiedMs === this.#seen.modifiedMs) {
      await this.#deliver(this.#joiner?.overdue(this.#output.clock.monotonicMs()) ?? []);
      await this.#inFlight;
      return 'end';
    }
    if (seen.size < this.#splitter.readPosition || !(await fits(this.#handle, this.#position))) {
      // Its lines are whole, and may be nowhere else any more.
      await this.#deliver(this.#joiner?.finish() ?? []);
      await this.#inFlight;
      return 'changed';
    }
    for (let count = 0; count < CHUNKS_PER_TURN && !signal.aborted; count += 1) {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      const { bytesRead } = await this.#handle.read(chunk, 0, CHUNK_BYTES, this.#splitter.readPosition);
      if (bytesRead === 0) {
        await this.#inFlight;
        this.#seen = seen;
        return 'end';
      }
      const bytes = chunk.subarray(0, bytesRead);
      this.#marks.push(bytes, this.#offset);
      await this.#deliver(this.#join(this.#splitter.push(bytes)));
    }
    return 'more';
  }

  /** The last line, which has no line end, of a file that nobody writes any more. */
  async finish(): Promise<void> {
    const last = this.#join(this.#splitter.finish());
    await this.#deliver([...last, ...(this.#joiner?.finish() ?? [])]);
    await this.#inFlight;
  }

  /** Whether the file has no name any more. */
  async isDeleted(): Promise<boolean> {
    return (await this.#handle.stat()).nlink === 0;
  }

  async close(): Promise<void> {
    await this.#inFlight.catch(() => undefined);
    await this.#handle.close();
  }

  /** Where a reader that has nothing of this file goes on. */
  get #offset(): number {
    return this.#joiner?.position ?? this.#splitter.position;
  }

  #join(lines: readonly Line[]): readonly Line[] {
    return this.#joiner?.push(lines, this.#output.clock.monotonicMs()) ?? lines;
  }

  async #deliver(lines: readonly Line[]): Promise<void> {
    const { isSkipping } = this.#splitter;
    const offset = this.#offset;
    if (lines.length === 0 && isSkipping === this.#position.skipping && !isSkipping) return;
    const readings: NewReading[] = [];
    const rejected: Rejected[] = [];
    const arrivalUs = this.#output.clock.nowMs() * 1000;
    for (const line of lines) {
      const result = this.#parse(line, arrivalUs);
      if (result === null) continue;
      const reason = isRejected(result) ? result.reason : isSurelyFine(result) ? null : refusal(result);
      if (reason !== null) rejected.push({ reason, position: `${this.path}@${line.start}`, input: line.bytes });
      else if (!isRejected(result)) readings.push(result);
    }
    const position: FilePosition = {
      path: this.path,
      offset,
      skipping: isSkipping,
      head: this.#marks.head(offset),
      tail: this.#marks.tail(offset),
      columns: this.#columns === null ? null : [...this.#columns],
    };
    await this.#inFlight;
    if (rejected.length > 0) await this.#output.quarantine(rejected);
    this.#inFlight = this.#output.deliver(readings, [{ source: this.#key, state: position }]).then(() => {
      this.#position = position;
    });
    // The failure is thrown where `#inFlight` is awaited next; it must not count as unhandled until then.
    this.#inFlight.catch(() => undefined);
  }

  /** null for a line that says nothing. */
  #parse(line: Line, arrivalUs: number): NewReading | RejectedInput | null {
    if (line.isTooLong) return { reason: `the line is longer than maxLineBytes (${this.#config.maxLineBytes})` };
    const bytes = line.start === 0 && line.bytes.subarray(0, 3).equals(BOM) ? line.bytes.subarray(3) : line.bytes;
    if (isBlank(bytes)) return null;
    const { to: topic, priority, sensor, eventTime } = this.#config;
    const key = sensor === undefined ? null : sensor === 'path' ? { text: this.path } : { field: sensor };
    const mapping = { input: 'line', topic, priority, key, eventTime };
    if (this.#config.format === 'text') return parseText(bytes, mapping, arrivalUs);
    if (!this.#isCsv) return parseJson(bytes, mapping, arrivalUs);
    if (this.#columns !== null) {
      if (this.#columns.length === 0) return { reason: 'the file has no CSV header' };
      return parseCsvLine(bytes, this.#columns, mapping, arrivalUs);
    }
    const header = parseCsvHeader(bytes);
    this.#columns = 'reason' in header ? [] : header;
    return 'reason' in header ? header : null;
  }
}

function isBlank(bytes: Buffer): boolean {
  for (const byte of bytes) if (byte !== 0x20 && byte !== 0x09) return false;
  return true;
}
