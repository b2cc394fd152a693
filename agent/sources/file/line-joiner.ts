/**
 * From lines to readings of several lines: a stack trace, a JSON object that was printed prettily.
 *
 * Invariants: a joined reading ends where its last line ends, and the position that a source stores never lies within one that is not complete;
 * so after a kill the same lines are joined again. What is complete depends on the lines, and on time only where nothing comes any more.
 * Limits: `maxLines` and `maxBytes` of a reading (what follows is another one); a pattern is asked about the first MATCHED_BYTES_MAX of a line. Patterns
 * are RE2's, which take time in proportion to the text: with backtracking, one line could stall the agent.
 */
import type { FileSourceConfig } from '../../config.ts';
import { compilePattern, type Pattern } from '../../pattern.ts';
import type { Origin } from './container-log.ts';
import type { FilePosition } from './tailed-file.ts';

const MATCHED_BYTES_MAX = 4096;
const LF = Buffer.from('\n');

export type MultilineConfig = NonNullable<FileSourceConfig['multiline']>;

/** A line, or several with their line ends in between. */
export interface Line {
  /** Without its line end; a view that stays valid. For an overlong line, its beginning. */
  readonly bytes: Buffer;
  /** Where it begins in the file. */
  readonly start: number;
  readonly isTooLong: boolean;
  /** A CR stands before its line end. */
  readonly hasCr?: boolean;
  /** Of a message of a container. */
  readonly origin?: Origin;
  /** Why it is none. */
  readonly refusal?: string;
}

export type Ahead = Pick<NonNullable<FilePosition['ahead']>, 'to' | 'held'>;

/** What makes readings of lines. */
export interface Assembler {
  /** Where the first reading under way begins; null when there is none. */
  readonly position: number | null;
  /** Where each reading under way begins: one of these is the next `position`, or it is behind what was taken. */
  readonly beginnings: readonly number[];
  /** Takes the next line, and returns what is complete with it. */
  push(line: Line, nowMs: number): Line[];
  /** What is under way, where nothing came for too long. */
  overdue(nowMs: number): Line[];
  /** What is under way, as nothing comes any more. */
  finish(): Line[];
  /** Of what was read up to `readTo`, what is given out behind `position`: the same as `FilePosition` has it. null where that is nothing. */
  ahead?(readTo: number): Ahead | null;
}

export class LineJoiner implements Assembler {
  readonly #config: MultilineConfig;
  readonly #pattern: Pattern;
  readonly #onCut: () => void;
  #held: Line[] = [];
  #heldBytes = 0;
  #lastMs = 0;

  /** `onCut` is told of each reading that a limit ended. */
  constructor(config: MultilineConfig, onCut: () => void) {
    this.#config = config;
    this.#pattern = compilePattern(config.start ?? config.continuation ?? '');
    this.#onCut = onCut;
  }

  get timeoutMs(): number {
    return this.#config.timeout;
  }

  get position(): number | null {
    return this.#held[0]?.start ?? null;
  }

  get beginnings(): readonly number[] {
    return this.#held.slice(0, 1).map(({ start }) => start);
  }

  push(line: Line, nowMs: number): Line[] {
    if (line.isTooLong) return [...this.finish(), line];
    let complete: Line[] = [];
    if (this.#held.length > 0) {
      const isFull =
        this.#held.length >= this.#config.maxLines ||
        this.#heldBytes + LF.length + line.bytes.length > this.#config.maxBytes;
      const isBegun = this.#begins(line.bytes);
      if (isFull && !isBegun) this.#onCut();
      if (isFull || isBegun) complete = this.finish();
    }
    this.#held.push(line);
    this.#heldBytes += LF.length + line.bytes.length;
    this.#lastMs = nowMs;
    return complete;
  }

  overdue(nowMs: number): Line[] {
    return nowMs - this.#lastMs >= this.timeoutMs ? this.finish() : [];
  }

  finish(): Line[] {
    const [first, ...others] = this.#held;
    this.#held = [];
    this.#heldBytes = 0;
    if (first === undefined) return [];
    const bytes = Buffer.concat([first.bytes, ...others.flatMap((line) => [LF, line.bytes])]);
    return [{ ...first, bytes }];
  }

  #begins(bytes: Buffer): boolean {
    const isMatch = this.#pattern.matcher(bytes.toString('utf8', 0, MATCHED_BYTES_MAX)).find();
    return this.#config.start === undefined ? !isMatch : isMatch;
  }
}
