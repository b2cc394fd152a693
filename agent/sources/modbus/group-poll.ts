/** One group of registers on one connection: when it is due, its requests, and the reading that their answers make. */
import type { Answer, Connection } from './connection.ts';
import type { GroupConfig, ModbusSourceConfig } from './config.ts';
import { exceptionText } from './frame.ts';
import { halves, itemsOf, planReads, type Item, type Span } from './plan.ts';
import { decodeItem, type Decoded } from './value.ts';

/** A device that is silent is asked that much later at most, so that it does not hold up the others. */
const SILENT_WAIT_MS_MAX = 30_000;
/** Illegal address, illegal value, device failure: what a device may say to a read that it would take in smaller pieces. */
const PERHAPS_TOO_WIDE = [2, 3, 4];
/** Of a span that was refused to its last register, the registers are asked for by themselves again after so many polls at most. */
const WHOLE_POLLS_MAX = 63;
const NAMED_MAX = 3;
const SILENT: Answer = { silent: true };

export interface Polled {
  /** null: nothing was answered, there is nothing to say. */
  readonly value: string | null;
  readonly exceptions: number;
  readonly isSilent: boolean;
  /** What is wrong with the group, or null. */
  readonly problem: string | null;
}

/** What one poll has found out so far. */
interface Found {
  readonly values: Map<Item, Decoded>;
  exceptions: number;
  isSilent: boolean;
}

/** Of a span that was refused to its last register. */
interface Refused {
  /** So many polls ask for it as a whole only, lest a device that fails is asked for each register each time. */
  readonly wholeFor: number;
  left: number;
}

export class GroupPoll {
  readonly sensor: string;
  readonly intervalMs: number;
  /** Monotonic. */
  dueMs: number;
  readonly #items: readonly Item[];
  readonly #timeoutMs: number;
  readonly #plan: () => Span[];
  #spans: Span[];
  readonly #refused = new WeakMap<Span, Refused>();
  #silentInARow = 0;

  constructor(source: ModbusSourceConfig, group: GroupConfig, nowMs: number) {
    this.sensor = group.sensor;
    this.intervalMs = group.interval ?? source.interval;
    this.dueMs = nowMs;
    this.#items = itemsOf(source, group);
    this.#timeoutMs = source.timeout;
    this.#plan = () => planReads(this.#items, group.unit ?? source.unit, source);
    this.#spans = this.#plan();
  }

  /** For a new connection, behind which may be another device than before: how it takes requests is forgotten. */
  restart(dueMs: number): void {
    this.dueMs = dueMs;
    this.#spans = this.#plan();
  }

  /** Sets when it is due next. Returns how many polls were missed: they are not made up for. */
  schedule(nowMs: number): number {
    const missed = Math.max(0, Math.floor((nowMs - this.dueMs) / this.intervalMs));
    this.dueMs += (missed + 1) * this.intervalMs;
    return missed;
  }

  /** `tsMs` goes into the reading. Throws as `Connection.read`. */
  async poll(connection: Connection, tsMs: number): Promise<Polled> {
    const found: Found = { values: new Map(), exceptions: 0, isSilent: false };
    const spans: Span[] = [];
    for (const span of this.#spans) spans.push(...(await this.#read(span, connection, found)).spans);
    this.#spans = spans;
    return { ...this.#judge(found.values, tsMs), exceptions: found.exceptions, isSilent: found.isSilent };
  }

  /** Reads a span, in smaller pieces where the device refuses it. `spans`: as what it is to be asked for from now on. */
  async #read(
    span: Span,
    connection: Connection,
    found: Found,
  ): Promise<{ readonly spans: readonly Span[]; readonly isAnswered: boolean }> {
    // Who was silent once is not asked for the rest: others wait.
    const answer = found.isSilent ? SILENT : await connection.read(span);
    if ('data' in answer) {
      this.#refused.delete(span);
      for (const item of span.items) found.values.set(item, decodeItem(item, span, answer.data));
      return { spans: [span], isAnswered: true };
    }
    if (!('exception' in answer)) {
      found.isSilent = true;
      return { spans: [span], isAnswered: false };
    }
    found.exceptions += 1;
    const pieces = PERHAPS_TOO_WIDE.includes(answer.exception) && this.#mayBeSplit(span) ? halves(span) : null;
    if (pieces === null) {
      for (const item of span.items) found.values.set(item, { problem: exceptionText(answer.exception) });
      return { spans: [span], isAnswered: false };
    }
    // A register that the device does not have must not cost its neighbours, nor a wider request each time.
    const [first, second] = [
      await this.#read(pieces[0], connection, found),
      await this.#read(pieces[1], connection, found),
    ];
    if (first.isAnswered || second.isAnswered) return { spans: [...first.spans, ...second.spans], isAnswered: true };
    // Silence in between refused nothing: the whole may be taken the next time.
    if (found.isSilent) return { spans: [span], isAnswered: false };
    // It was not too wide: the device fails, or has none of it.
    const wholeFor = Math.min(WHOLE_POLLS_MAX, 2 * (this.#refused.get(span)?.wholeFor ?? 0) + 1);
    this.#refused.set(span, { wholeFor, left: wholeFor });
    return { spans: [span], isAnswered: false };
  }

  #mayBeSplit(span: Span): boolean {
    const refused = this.#refused.get(span);
    if (refused === undefined || refused.left === 0) return true;
    refused.left -= 1;
    return false;
  }

  #judge(values: ReadonlyMap<Item, Decoded>, tsMs: number): Pick<Polled, 'value' | 'problem'> {
    this.#silentInARow = values.size === 0 ? this.#silentInARow + 1 : 0;
    const silence = `no answer within ${this.#timeoutMs} ms`;
    if (values.size === 0) {
      this.dueMs += Math.min(SILENT_WAIT_MS_MAX, this.intervalMs * (2 ** this.#silentInARow - 1));
      return { value: null, problem: silence };
    }
    const fields: string[] = [];
    const problems: string[] = [];
    for (const item of this.#items) {
      const value = values.get(item) ?? { problem: silence };
      fields.push(`${JSON.stringify(item.name)}:${'json' in value ? value.json : 'null'}`);
      if ('problem' in value) problems.push(`${item.name}: ${value.problem}`);
    }
    const quality = problems.length === 0 ? 'good' : problems.length < this.#items.length ? 'partial' : 'bad';
    const problem = problems.length === 0 ? null : listed(problems);
    const own = { sensor: this.sensor, ts: tsMs, quality, ...(problem === null ? {} : { problem }) };
    return { value: `${JSON.stringify(own).slice(0, -1)},${fields.join(',')}}`, problem };
  }
}

/** The first ones by name, and how many more there are. */
export function listed(problems: readonly string[]): string {
  const more = problems.length - NAMED_MAX;
  return problems.slice(0, NAMED_MAX).join('; ') + (more > 0 ? `; and ${more} more` : '');
}
