/** One group of registers on one connection: when it is due, its requests, and the reading that their answers make. */
import type { Connection } from './connection.ts';
import type { GroupConfig, ModbusSourceConfig } from './config.ts';
import { exceptionText } from './frame.ts';
import { halves, itemsOf, planReads, type Item, type Span } from './plan.ts';
import { decodeItem, type Decoded } from './value.ts';

/** A device that is silent is asked that much later at most, so that it does not hold up the others. */
const SILENT_WAIT_MS_MAX = 30_000;
/** Illegal address, illegal value, device failure: what a device may say to a read that it would take in smaller pieces. */
const PERHAPS_TOO_WIDE = [2, 3, 4];
const NAMED_MAX = 3;

export interface Polled {
  /** null: nothing was answered, there is nothing to say. */
  readonly value: string | null;
  readonly exceptions: number;
  readonly isSilent: boolean;
  /** What is wrong with the group, or null. */
  readonly problem: string | null;
}

export class GroupPoll {
  readonly sensor: string;
  readonly intervalMs: number;
  /** Monotonic. */
  dueMs: number;
  readonly #items: readonly Item[];
  readonly #timeoutMs: number;
  readonly #spans: Span[];
  #silentInARow = 0;

  constructor(source: ModbusSourceConfig, group: GroupConfig, nowMs: number) {
    this.sensor = group.sensor;
    this.intervalMs = group.interval ?? source.interval;
    this.dueMs = nowMs;
    this.#items = itemsOf(source, group);
    this.#timeoutMs = source.timeout;
    this.#spans = planReads(this.#items, group.unit ?? source.unit, source);
  }

  /** Sets when it is due next. Returns how many polls were missed: they are not made up for. */
  schedule(nowMs: number): number {
    const missed = Math.max(0, Math.floor((nowMs - this.dueMs) / this.intervalMs));
    this.dueMs += (missed + 1) * this.intervalMs;
    return missed;
  }

  /** `tsMs` goes into the reading. Throws as `Connection.read`. */
  async poll(connection: Connection, tsMs: number): Promise<Polled> {
    const values = new Map<Item, Decoded>();
    let exceptions = 0;
    let isSilent = false;
    const left = this.#spans.splice(0);
    for (let span = left.shift(); span !== undefined && !isSilent; span = left.shift()) {
      const answer = await connection.read(span);
      if ('exception' in answer) {
        exceptions += 1;
        const smaller = PERHAPS_TOO_WIDE.includes(answer.exception) ? halves(span) : null;
        if (smaller !== null) {
          // From now on: a register that the device does not have must not cost its neighbours, nor a wider request each time.
          left.unshift(...smaller);
          continue;
        }
        for (const item of span.items) values.set(item, { problem: exceptionText(answer.exception) });
      } else if ('data' in answer) {
        for (const item of span.items) values.set(item, decodeItem(item, span, answer.data));
      } else {
        isSilent = true;
      }
      this.#spans.push(span);
    }
    this.#spans.push(...left);
    return { ...this.#judge(values, tsMs), exceptions, isSilent };
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
