/**
 * From the lines of a container's log to its messages: what the runtime cut is put together, and lines that belong together (`multiline`) are, by
 * stream, as stdout and stderr interleave.
 *
 * Invariants: of each stream, what is given out are its lines up to one place, and `ahead` says where that is when it lies behind the position that
 * the file is read from again; so a kill neither repeats what one stream gave while the other one had a beginning, nor cuts that beginning. Whether a
 * message is complete depends on lines and on the times that stand in them, and on the clock only where nothing comes any more.
 * Limits: `maxMessageBytes` of a message: what follows is another one, and counted.
 */
import {
  parseContainerLine,
  withoutHalves,
  type ContainerFormat,
  type ContainerLine,
  type Stream,
} from './container-log.ts';
import type { Ahead, Assembler, Line, LineJoiner } from './line-joiner.ts';

/** A runtime writes the rest of a line at once where it has it. What waits longer has no rest: the runtime was killed. */
const PARTIAL_TIMEOUT_MS = 30_000;
const CR = Buffer.from('\r');

interface ContainerLinesOptions {
  readonly format: ContainerFormat;
  readonly maxMessageBytes: number;
  /** Of each stream; undefined where a message is a reading. */
  readonly makeJoiner: (() => LineJoiner) | undefined;
  /** Told of each message that ended before its last line was there. */
  readonly onCut: () => void;
}

export class ContainerLines implements Assembler {
  readonly #options: ContainerLinesOptions;
  readonly #streams: Readonly<Record<Stream, StreamLines>>;
  /** What an earlier run had given out. */
  readonly #before: Ahead;

  /** `ahead` belongs to the position that is read from. */
  constructor(options: ContainerLinesOptions, ahead: Ahead = { to: 0, held: {} }) {
    this.#options = options;
    this.#before = ahead;
    this.#streams = { stdout: new StreamLines(options), stderr: new StreamLines(options) };
  }

  get position(): number | null {
    const { stdout, stderr } = this.#streams;
    if (stdout.position === null || stderr.position === null) return stdout.position ?? stderr.position;
    return Math.min(stdout.position, stderr.position);
  }

  get beginnings(): readonly number[] {
    return Object.values(this.#streams).flatMap((stream) => stream.beginnings);
  }

  /** What is given out of the lines before `readTo` and behind `position`; null where that is nothing. */
  ahead(readTo: number): Ahead | null {
    const { to, held } = this.#before;
    const of = (stream: Stream): number | undefined => {
      const wasHeld = readTo < to && held[stream] !== undefined ? Math.max(readTo, held[stream]) : undefined;
      return this.#streams[stream].position ?? wasHeld;
    };
    const [stdout, stderr] = [of('stdout'), of('stderr')];
    if (stdout === undefined && stderr === undefined && readTo >= to) return null;
    return {
      to: Math.max(readTo, to),
      held: { ...(stdout !== undefined && { stdout }), ...(stderr !== undefined && { stderr }) },
    };
  }

  push(line: Line, nowMs: number): Line[] {
    const { to, held } = this.#before;
    // The position lies behind an overlong line, so that nothing may be held in front of it.
    if (line.isTooLong) return [...this.finish(), line];
    const parsed = parseContainerLine(line.bytes, this.#options.format);
    if ('reason' in parsed) return line.start < to ? [] : [{ ...line, refusal: parsed.reason }];
    if (line.start < to && !(line.start >= (held[parsed.stream] ?? Infinity))) return [];
    const { stdout, stderr } = this.#streams;
    const [own, other] = parsed.stream === 'stdout' ? [stdout, stderr] : [stderr, stdout];
    // Of a piece it is no line end, but where the runtime cut.
    const isCrOfText = line.hasCr === true && parsed.isPartial && this.#options.format === 'cri';
    const whole = isCrOfText ? { ...parsed, text: Buffer.concat([parsed.text, CR]) } : parsed;
    return [...other.overdueAt(parsed.time), ...own.push(line.start, whole, nowMs)];
  }

  overdue(nowMs: number): Line[] {
    return Object.values(this.#streams).flatMap((stream) => stream.overdue(nowMs));
  }

  finish(): Line[] {
    return Object.values(this.#streams).flatMap((stream) => stream.finish());
  }
}

interface Partial {
  readonly start: number;
  readonly first: ContainerLine;
  readonly texts: Buffer[];
  bytes: number;
}

class StreamLines {
  readonly #options: ContainerLinesOptions;
  readonly #joiner: LineJoiner | undefined;
  #partial: Partial | null = null;
  /** The next message may be the rest of one that was cut: here, or before the place that is read from. */
  #isRest = true;
  /** Of its last line: by the clock here, and as it stands there. */
  #last = { nowMs: 0, time: '' };

  constructor(options: ContainerLinesOptions) {
    this.#options = options;
    this.#joiner = options.makeJoiner?.();
  }

  /** Where the message under way begins; null when there is none. */
  get position(): number | null {
    return this.#joiner?.position ?? this.#partial?.start ?? null;
  }

  get beginnings(): readonly number[] {
    return [...(this.#joiner?.beginnings ?? []), ...(this.#partial === null ? [] : [this.#partial.start])];
  }

  push(start: number, line: ContainerLine, nowMs: number): Line[] {
    // What had no rest for so long does not get this one.
    const complete = this.#partial === null ? [] : this.overdueAt(line.time);
    this.#last = { nowMs, time: line.time };
    if (this.#partial === null && !line.isPartial) return [...complete, ...this.#join(start, line, line.text, false)];
    const bytes = (this.#partial?.bytes ?? 0) + line.text.length;
    if (this.#partial !== null && bytes > this.#options.maxMessageBytes) complete.push(...this.#cut());
    this.#partial ??= { start, first: line, texts: [], bytes: 0 };
    this.#partial.texts.push(line.text);
    this.#partial.bytes += line.text.length;
    if (!line.isPartial) complete.push(...this.#whole(false));
    return complete;
  }

  /** What is under way, where nothing came for too long. */
  overdue(nowMs: number): Line[] {
    return this.#overdueFor(nowMs - this.#last.nowMs);
  }

  /** The same by the time of a line of the other stream. */
  overdueAt(time: string): Line[] {
    return this.position === null ? [] : this.#overdueFor(Date.parse(time) - Date.parse(this.#last.time));
  }

  #overdueFor(ms: number): Line[] {
    const timeout = this.#partial === null ? (this.#joiner?.timeoutMs ?? Infinity) : PARTIAL_TIMEOUT_MS;
    return ms >= timeout ? this.finish() : [];
  }

  /** What is under way, as nothing comes any more. */
  finish(): Line[] {
    return [...(this.#partial === null ? [] : this.#cut()), ...(this.#joiner?.finish() ?? [])];
  }

  #cut(): Line[] {
    this.#options.onCut();
    return this.#whole(true);
  }

  #whole(isCut: boolean): Line[] {
    const partial = this.#partial;
    this.#partial = null;
    return partial === null ? [] : this.#join(partial.start, partial.first, Buffer.concat(partial.texts), isCut);
  }

  #join(start: number, origin: ContainerLine, text: Buffer, isCut: boolean): Line[] {
    const bytes = withoutHalves(text, this.#isRest, isCut);
    this.#isRest = isCut;
    const line: Line = { bytes, start, isTooLong: false, origin };
    return this.#joiner?.push(line, this.#last.nowMs) ?? [line];
  }
}
