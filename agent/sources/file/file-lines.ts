/**
 * From the bytes of a file to readings that are delivered together with the position behind them.
 *
 * Invariants: the position that is stored lies behind the last line that was delivered or quarantined, never within a line that was
 * not (except in the rest of an overlong one). Lines that are joined are one line in this. At most one delivery is in flight, while the
 * next chunk is read and parsed.
 */
import type { FileSourceConfig } from '../../config.ts';
import type { Rejected } from '../../quarantine.ts';
import { isSurelyFine, refusal, type NewReading } from '../../spool/frame.ts';
import { PackedReadings } from '../../spool/packed-readings.ts';
import {
  isRejected,
  packJson,
  parseCsvHeader,
  parseCsvLine,
  parseJson,
  parseText,
  type ReadingMapping,
  type RejectedInput,
} from '../reading-parser.ts';
import type { SourceOutput } from '../source.ts';
import { containerNames, containerReading, type ContainerNames } from './container-log.ts';
import type { Marks } from './file-marks.ts';
import type { Assembler, Line } from './line-joiner.ts';
import { LineSplitter } from './line-splitter.ts';
import { movedTo, type FilePlace, type FilePosition } from './tailed-file.ts';

/** What the frames have beside the lines: 24 bytes and a sensor's id each. */
const PACKED_BYTES_PER_BYTE = 1.25;
const CR = 13;
const BOM = Buffer.from([0xef, 0xbb, 0xbf]);
/** Also `app.csv.1`, `app.csv-20260131` and these with `.gz`. */
const CSV_NAME = /\.csv(?:[.-]\d+)*(?:\.gz)?$/i;

/** What reads the file at one place in it. */
export interface LineContext {
  /** Under which its position is stored. */
  readonly key: string;
  readonly config: FileSourceConfig;
  readonly output: SourceOutput;
  /** undefined where a line is a reading. */
  readonly joiner: Assembler | undefined;
}

/** What was made of the lines since the last delivery. */
interface Made {
  readonly readings: PackedReadings;
  readonly rejected: Rejected[];
  readonly mapping: ReadingMapping;
  readonly arrivalUs: number;
  lines: number;
}

/** What the name of a container's file says. */
interface Named {
  readonly place: FilePlace;
  readonly names: ContainerNames;
  /** Without its braces. */
  readonly json: string;
}

export class FileLines {
  /** Where the file was found last; it may have been renamed since. */
  place: FilePlace;
  readonly #context: LineContext;
  readonly #splitter: LineSplitter;
  readonly #marks: Marks;
  readonly #isCsv: boolean;
  /** Its lines are readings as they stand. */
  readonly #isPlain: boolean;
  #columns: readonly string[] | null;
  #position: FilePosition;
  #inFlight: Promise<void> = Promise.resolve();
  /** What the name of the file says, if it is a container's. */
  #named: Named | undefined;

  /** `marks` are those at the position. */
  constructor(context: LineContext, position: FilePosition, marks: Marks) {
    const { format, maxLineBytes } = context.config;
    const { path, folder } = position;
    this.place = { path, ...(folder !== undefined && { folder }) };
    this.#context = context;
    this.#splitter = new LineSplitter(position.offset, position.skipping, maxLineBytes);
    this.#marks = marks;
    this.#isCsv = (format ?? (CSV_NAME.test(path) ? 'csv' : 'ndjson')) === 'csv';
    this.#isPlain = !this.#isCsv && format !== 'text' && context.joiner === undefined;
    this.#columns = position.columns;
    this.#position = position;
  }

  /** As it is stored. */
  get position(): FilePosition {
    return this.#position;
  }

  /** Where the next chunk is read. */
  get readPosition(): number {
    return this.#splitter.readPosition;
  }

  /** The beginning of a reading is read whose end may still come. */
  get isHolding(): boolean {
    return this.#context.joiner !== undefined && this.#context.joiner.position !== null;
  }

  /** Takes the bytes at `readPosition`; when it returns, they may be written again. The promise is that of the delivery before. */
  push(bytes: Buffer): Promise<void> {
    this.#marks.push(bytes);
    const made = this.#make(bytes.length);
    this.#splitter.push(bytes, (text, from, to, start, isTooLong) =>
      this.#take(made, text, from, to, start, isTooLong),
    );
    const delivered = this.#deliver(made);
    this.#marks.keep(this.#splitter.position, this.#context.joiner?.beginnings);
    return delivered;
  }

  /** Delivers joined lines whose next one has not come for too long. */
  async flushOverdue(): Promise<void> {
    const { joiner, output } = this.#context;
    await this.#deliver(this.#madeOf(joiner?.overdue(output.clock.monotonicMs()) ?? []));
  }

  /** Delivers the joined lines that are there, as no more come; a line without its end stays. */
  async flushLines(): Promise<void> {
    await this.#deliver(this.#madeOf(this.#context.joiner?.finish() ?? []));
    await this.settled();
  }

  /** Delivers the rest, as nobody writes the file any more: its last line may have no line end. */
  async finish(): Promise<void> {
    const made = this.#make(this.#splitter.rest.length);
    this.#splitter.finish((text, from, to, start, isTooLong) => this.#take(made, text, from, to, start, isTooLong));
    for (const line of this.#context.joiner?.finish() ?? []) this.#put(made, line);
    await this.#deliver(made);
    await this.settled();
  }

  /** The same where the rest of the content is lost: what there is of a line is quarantined. Its position stays in front of it. */
  async breakOff(reason: string): Promise<void> {
    await this.flushLines();
    const { rest, position } = this.#splitter;
    await this.#context.output.quarantine([{ reason, position: `${this.place.path}@${position}`, input: rest }]);
  }

  /** The whole file was read, which was compressed. */
  async storeEnd(ended: NonNullable<FilePosition['ended']>): Promise<void> {
    await this.settled();
    const state = { ...movedTo(this.#position, this.place), ended };
    await this.#context.output.deliver([], [{ source: this.#context.key, state }]);
    this.#position = state;
  }

  /** Resolves when nothing is in flight. Throws what went wrong with it. */
  settled(): Promise<void> {
    return this.#inFlight;
  }

  /** Where a reader that has nothing of this file goes on. */
  get #offset(): number {
    return this.#context.joiner?.position ?? this.#splitter.position;
  }

  /** What is delivered behind that. */
  #ahead(): Pick<FilePosition, 'ahead'> {
    const { position } = this.#splitter;
    const ahead = this.#context.joiner?.ahead?.(position) ?? null;
    if (ahead === null) return {};
    // An earlier run had read further: its marks stand.
    const before = ahead.to > position ? this.#position.ahead : undefined;
    const { head, tail } = before ?? this.#marks.end(ahead.to);
    return { ahead: { ...ahead, head, tail } };
  }

  #make(bytes: number): Made {
    const { config, output } = this.#context;
    const readings = new PackedReadings(config.to, config.priority, bytes * PACKED_BYTES_PER_BYTE);
    return { readings, rejected: [], mapping: this.#mapping(), arrivalUs: output.clock.nowMs() * 1000, lines: 0 };
  }

  #madeOf(lines: readonly Line[]): Made {
    const made = this.#make(lines.reduce((sum, { bytes }) => sum + bytes.length, 0));
    for (const line of lines) this.#put(made, line);
    return made;
  }

  #take(made: Made, text: Buffer, from: number, to: number, start: number, isTooLong: boolean): void {
    const { joiner, output } = this.#context;
    // The first one may have a mark of its encoding in front.
    if (this.#isPlain && !isTooLong && start > 0) {
      if (packJson(text, from, to, made.mapping, made.arrivalUs, made.readings)) {
        made.lines += 1;
        return;
      }
    }
    const line = { bytes: Buffer.from(text.subarray(from, to)), start, isTooLong, hasCr: text[to] === CR };
    for (const each of joiner?.push(line, output.clock.monotonicMs()) ?? [line]) this.#put(made, each);
  }

  #put(made: Made, line: Line): void {
    made.lines += 1;
    const result = this.#parse(line, made.mapping, made.arrivalUs);
    if (result === null) return;
    const reason = isRejected(result) ? result.reason : isSurelyFine(result) ? null : refusal(result);
    if (reason !== null)
      made.rejected.push({ reason, position: `${this.place.path}@${line.start}`, input: line.bytes });
    else if (!isRejected(result)) made.readings.add(result);
  }

  async #deliver({ readings, rejected, lines }: Made): Promise<void> {
    const { key, output } = this.#context;
    const { isSkipping } = this.#splitter;
    const offset = this.#offset;
    if (lines === 0 && isSkipping === this.#position.skipping) return;
    const { born } = this.#position;
    const position: FilePosition = {
      ...this.place,
      ...(born !== undefined && { born }),
      ...this.#marks.end(offset),
      skipping: isSkipping,
      columns: this.#columns === null ? null : [...this.#columns],
      ...this.#ahead(),
    };
    await this.#inFlight;
    if (rejected.length > 0) await output.quarantine(rejected);
    this.#inFlight = output.deliver(readings, [{ source: key, state: position }]).then(() => {
      this.#position = position;
    });
    // The failure is thrown where `#inFlight` is awaited next; it must not count as unhandled until then.
    this.#inFlight.catch(() => undefined);
  }

  #mapping(): ReadingMapping {
    const { to: topic, priority, sensor, eventTime, format } = this.#context.config;
    const names = format === 'cri' || format === 'docker' ? this.#names().names : {};
    const key = sensor === undefined ? null : keyOf(sensor, this.place.path, names);
    return { input: 'line', topic, priority, key, eventTime };
  }

  #names(): Named {
    if (this.#named?.place !== this.place) {
      const names = containerNames(this.place);
      this.#named = { place: this.place, names, json: JSON.stringify(names).slice(1, -1) };
    }
    return this.#named;
  }

  /** null for a line that says nothing. */
  #parse(line: Line, mapping: ReadingMapping, arrivalUs: number): NewReading | RejectedInput | null {
    const { config } = this.#context;
    if (line.isTooLong) return { reason: `the line is longer than maxLineBytes (${config.maxLineBytes})` };
    const bytes = line.start === 0 && line.bytes.subarray(0, 3).equals(BOM) ? line.bytes.subarray(3) : line.bytes;
    if (isBlank(bytes)) return null;
    if (line.refusal !== undefined) return { reason: line.refusal };
    if (line.origin !== undefined) return containerReading(line, line.origin, this.#names().json, mapping, arrivalUs);
    if (config.format === 'text') return parseText(bytes, mapping, arrivalUs);
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

/** What is the same in all lines of a file is looked for once. */
function keyOf(sensor: string, path: string, names: ContainerNames): NonNullable<ReadingMapping['key']> {
  if (sensor === 'path') return { text: path };
  const named = Object.entries(names).find(([name]) => name === sensor)?.[1];
  return named === undefined ? { field: sensor } : { text: named };
}

function isBlank(bytes: Buffer): boolean {
  for (const byte of bytes) if (byte !== 0x20 && byte !== 0x09) return false;
  return true;
}
