/** Judges the rules once a second, and lets sources rest and go on as they say. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../lib/clock.ts';
import { namesOf, type SourceConfig } from '../config.ts';
import { batteryPercent, CpuMeter } from './resources.ts';
import type { Measurements, Rules } from './rules.ts';

const JUDGE_EVERY_MS = 1000;

/** A time in which a source may run. */
interface Turn {
  /** Fires when the source has to rest, or the agent stops. */
  readonly signal: AbortSignal;
  end(): void;
}

export class Ruler {
  readonly #rules: Rules;
  readonly #clock: Clock;
  readonly #measure: () => Pick<Measurements, 'spoolUsed' | 'isUplinkUp'>;
  readonly #cpu = new CpuMeter();
  /** Called after each judgement. */
  readonly #watchers = new Set<() => void>();

  constructor(rules: Rules, clock: Clock, measure: () => Pick<Measurements, 'spoolUsed' | 'isUplinkUp'>) {
    this.#rules = rules;
    this.#clock = clock;
    this.#measure = measure;
  }

  /** Until the signal fires. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    if (this.#rules.isEmpty) return;
    while (!signal.aborted) {
      const battery = await batteryPercent();
      const measured = { ...this.#measure(), cpu: this.#cpu.sample(), battery };
      this.#rules.judge(measured, this.#clock.monotonicMs());
      for (const watch of this.#watchers) watch();
      await delay(JUDGE_EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Resolves when no rule disables the source, or `stop` fires. */
  async turnOf(source: SourceConfig, stop: AbortSignal): Promise<Turn> {
    const names = namesOf(source);
    while (this.#rules.disables(names) && !stop.aborted) await this.#nextJudgement(stop);
    const rest = new AbortController();
    const watch = (): void => {
      if (this.#rules.disables(names)) rest.abort();
    };
    this.#watchers.add(watch);
    return { signal: AbortSignal.any([stop, rest.signal]), end: () => void this.#watchers.delete(watch) };
  }

  #nextJudgement(stop: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        this.#watchers.delete(end);
        stop.removeEventListener('abort', end);
        resolve();
      };
      this.#watchers.add(end);
      stop.addEventListener('abort', end, { once: true });
    });
  }
}
