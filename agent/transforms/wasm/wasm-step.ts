/**
 * A WebAssembly module as a transform.
 *
 * Invariants: readings go to the module and come back in their order. The state that a module keeps is that of the readings that are stored: it is
 * stored with them, and given to a new instance when a batch was refused by the spool, when the module failed, and at the next start.
 * Failure: a part of a batch that the module fails on is given again in halves, so that the quarantine gets the reading that it cannot
 * take and no other; when that has taken HALVING_TIMEOUTS_MAX timeouts for one batch, the part that fails goes there as it is.
 * Limits: PART_READINGS_MAX and PART_BYTES_MAX for each call.
 */
import { systemClock } from '../../../lib/clock.ts';
import { isCode } from '../../../lib/errors.ts';
import type { NewReading } from '../../spool/frame.ts';
import { Draft } from '../draft.ts';
import { SensorStates } from '../sensor-states.ts';
import type { Outlet, Step } from '../step.ts';
import { durableStateName, type ConfigOf } from '../transform-config.ts';
import { AS_IT_CAME, decodeOutput, encodeInput, REFUSED } from './batch-codec.ts';
import { WasmModule } from './wasm-module.ts';
import type { Result } from './wasm-thread.ts';

/** Two copies and two messages are paid for by some hundred readings; more would only wait longer. */
const PART_READINGS_MAX = 1000;
const PART_BYTES_MAX = 1024 * 1024;
/** One reading that makes the module hang is found among 16, by six timeouts; one that makes it trap at once is always found. */
const HALVING_TIMEOUTS_MAX = 6;
/** Of the one state. */
const STATE = '';

/** Throws `config`, as `WasmModule.open`. */
export async function wasmStep(config: ConfigOf<'wasm'>, baseDir: string): Promise<Step> {
  return new WasmStep(config, await openModule(config, baseDir));
}

/** What keeps the module of a transform from being used, or null. */
export async function moduleProblem(config: ConfigOf<'wasm'>, baseDir: string): Promise<string | null> {
  try {
    await (await openModule(config, baseDir)).close();
    return null;
  } catch (error) {
    if (isCode(error, 'config')) return error.message;
    throw error;
  }
}

function openModule(
  { module, memory, timeout, state, config }: ConfigOf<'wasm'>,
  baseDir: string,
): Promise<WasmModule> {
  return WasmModule.open({ module, config, memoryBytes: memory, timeoutMs: timeout, stateBytesMax: state }, baseDir);
}

type Outcome = { readonly passed: readonly Draft[] } | { readonly failed: string };

class WasmStep implements Step {
  readonly name: string;
  readonly on: string;
  readonly states: SensorStates<string>;
  readonly #module: WasmModule;
  readonly #timeoutMs: number;
  /** The state that the instance has; null: there is none, undefined: there is no instance, or it is not known. */
  #instanceState: string | null | undefined;
  /** Of the batch that is prepared. */
  readonly #outcomes = new Map<Draft, Outcome>();

  constructor(config: ConfigOf<'wasm'>, module: WasmModule) {
    this.name = `wasm ${config.on} ${config.module}`;
    this.on = config.on;
    this.#module = module;
    this.#timeoutMs = config.timeout;
    const parse = (state: unknown): string | undefined => (typeof state === 'string' ? state : undefined);
    this.states = new SensorStates(1, { prefix: durableStateName(config), parse });
  }

  async prepare(drafts: readonly Draft[]): Promise<void> {
    this.#outcomes.clear();
    const budget = { leftMs: HALVING_TIMEOUTS_MAX * this.#timeoutMs };
    for (const part of partsOf(drafts)) await this.#run(part, budget);
  }

  apply(draft: Draft, out: Outlet): void {
    const outcome = this.#outcomes.get(draft) ?? { passed: [] };
    if ('failed' in outcome) throw new Error(outcome.failed);
    const [first, ...more] = outcome.passed;
    if (first === undefined) out.drop();
    else out.pass(first);
    for (const each of more) out.make(each);
  }

  close(): Promise<void> {
    return this.#module.close();
  }

  async #run(part: readonly Draft[], budget: { leftMs: number }): Promise<void> {
    const readings = part.map((draft) => draft.toReading());
    const state = this.states.get(STATE) ?? null;
    const startMs = systemClock.monotonicMs();
    const result = await this.#module.call({
      input: encodeInput(readings),
      count: part.length,
      state: this.#instanceState === state ? undefined : state,
    });
    if (!('failed' in result)) {
      this.#instanceState = result.state;
      if (result.state !== null) this.states.set(STATE, result.state);
      this.#settle(part, readings, result);
      return;
    }
    this.#instanceState = undefined;
    budget.leftMs -= systemClock.monotonicMs() - startMs;
    if (part.length > 1 && budget.leftMs > 0) {
      const middle = Math.ceil(part.length / 2);
      await this.#run(part.slice(0, middle), budget);
      await this.#run(part.slice(middle), budget);
      return;
    }
    const failed =
      part.length === 1 ? result.failed : `${result.failed}, on this or on one of ${part.length - 1} others`;
    for (const draft of part) this.#outcomes.set(draft, { failed });
  }

  #settle(
    part: readonly Draft[],
    readings: readonly NewReading[],
    { output, refused }: Extract<Result, { output: unknown }>,
  ): void {
    const outcomes: { passed: Draft[]; failed: string | null }[] = part.map(() => ({ passed: [], failed: null }));
    const bytes = Buffer.from(output.buffer, output.byteOffset, output.length);
    decodeOutput(bytes, part.length).forEach(({ index, kind, text }, place) => {
      const [outcome, draft, reading] = [outcomes[index], part[index], readings[index]];
      if (outcome === undefined || draft === undefined || reading === undefined) return;
      const reason = kind === REFUSED ? `the module refuses it: ${text.toString('utf8')}` : refused.get(place);
      if (reason !== undefined) outcome.failed ??= reason;
      else if (kind !== AS_IT_CAME) outcome.passed.push(new Draft({ ...reading, value: text }));
      else outcome.passed.push(outcome.passed.includes(draft) ? new Draft(reading) : draft);
    });
    part.forEach((draft, index) => {
      const { passed = [], failed = null } = outcomes[index] ?? {};
      this.#outcomes.set(draft, failed === null ? { passed } : { failed });
    });
  }
}

function partsOf(drafts: readonly Draft[]): Draft[][] {
  const parts: Draft[][] = [];
  let bytes = Infinity;
  for (const draft of drafts) {
    const size = draft.toReading().value.length;
    let part = parts.at(-1);
    if (part === undefined || part.length >= PART_READINGS_MAX || bytes + size > PART_BYTES_MAX) {
      part = [];
      parts.push(part);
      bytes = 0;
    }
    part.push(draft);
    bytes += size;
  }
  return parts;
}
