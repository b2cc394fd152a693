/**
 * Rules: what the agent changes about itself while the spool fills, the link is down, or the machine is short of something. They are
 * judged here, from what the agent knows, so they work without the control plane.
 *
 * Invariants
 * - An alarm is never sampled, routed or given another priority.
 * - A rule begins when all its conditions have held for `for`, and ends when they have not for `for`; a threshold that was
 *   passed counts as passed until it is left by `hysteresis`.
 * - What cannot be measured meets no condition.
 * Failure: the state is in memory; after a start a rule begins anew, `for` later.
 */
import { ALARM_PRIORITY, type NewReading } from '../spool/frame.ts';
import type { Readings } from '../spool/packed-readings.ts';
import { isSampled } from '../transforms/stateless.ts';
import type { RuleConfig, Threshold } from './rule-config.ts';

/** Percent; null: cannot be measured. */
export interface Measurements {
  readonly spoolUsed: number;
  readonly cpu: number | null;
  readonly battery: number | null;
  readonly isUplinkUp: boolean;
}

export interface RuleState {
  /** As the configuration says it: `spoolUsed >80%, uplink down`. */
  readonly when: string;
  readonly active: boolean;
  /** How often it began since the start. */
  readonly times: number;
}

export class Rules {
  readonly #rules: readonly Rule[];
  /** Readings that `sample` left out, since the start. */
  sampledOut = 0;

  constructor(configs: readonly RuleConfig[]) {
    this.#rules = configs.map((config) => new Rule(config));
  }

  get isEmpty(): boolean {
    return this.#rules.length === 0;
  }

  /** `nowMs` is monotonic. */
  judge(measured: Measurements, nowMs: number): void {
    for (const rule of this.#rules) rule.judge(measured, nowMs);
  }

  states(): readonly RuleState[] {
    return this.#rules.map(({ when, isActive, times }) => ({ when, active: isActive, times }));
  }

  /** Whether a source with these names is to rest. */
  disables(names: readonly string[]): boolean {
    return this.#active().some(({ config }) => config.do.disable?.some((name) => names.includes(name)) === true);
  }

  /** What the active rules make of readings, in the rules' order. */
  apply(readings: Readings): Readings {
    const active = this.#active();
    return active.length === 0 ? readings : [...readings].flatMap((reading) => this.#applyTo(reading, active) ?? []);
  }

  #applyTo(reading: NewReading, active: readonly Rule[]): NewReading | null {
    if (reading.priority >= ALARM_PRIORITY) return reading;
    let { topic, priority } = reading;
    for (const { config } of active) {
      const { sample, route } = config.do;
      if (config.on?.includes(topic) === false) continue;
      if (sample !== undefined && !isSampled(reading.key, reading.eventUs, priority, sample)) return null;
      topic = route ?? topic;
      priority = config.do.priority ?? priority;
    }
    return { ...reading, topic, priority };
  }

  #active(): readonly Rule[] {
    return this.#rules.filter(({ isActive }) => isActive);
  }
}

class Rule {
  readonly config: RuleConfig;
  readonly when: string;
  isActive = false;
  times = 0;
  /** By condition: whether its threshold counts as passed. */
  readonly #passed = new Map<string, boolean>();
  /** Since when the conditions say otherwise than `isActive`. */
  #otherwiseSinceMs: number | undefined;

  constructor(config: RuleConfig) {
    this.config = config;
    this.when = describe(config.when);
  }

  judge(measured: Measurements, nowMs: number): void {
    const { when } = this.config;
    const holds = [
      this.#isPassed('spoolUsed', when.spoolUsed, measured.spoolUsed),
      this.#isPassed('cpu', when.cpu, measured.cpu),
      this.#isPassed('battery', when.battery, measured.battery),
      when.uplink === undefined || (when.uplink === 'up') === measured.isUplinkUp,
    ].every(Boolean);
    if (holds === this.isActive) {
      this.#otherwiseSinceMs = undefined;
      return;
    }
    this.#otherwiseSinceMs ??= nowMs;
    if (nowMs - this.#otherwiseSinceMs < this.config.for) return;
    this.isActive = holds;
    this.#otherwiseSinceMs = undefined;
    if (holds) this.times += 1;
  }

  #isPassed(name: string, threshold: Threshold | undefined, value: number | null): boolean {
    if (threshold === undefined) return true;
    const wasPassed = this.#passed.get(name) ?? false;
    // To leave it takes more than to pass it.
    const margin = wasPassed ? this.config.hysteresis : 0;
    const isPassed =
      value !== null && (threshold.above ? value > threshold.value - margin : value < threshold.value + margin);
    this.#passed.set(name, isPassed);
    return isPassed;
  }
}

function describe({ spoolUsed, cpu, battery, uplink }: RuleConfig['when']): string {
  const parts = Object.entries({ spoolUsed, cpu, battery }).flatMap(([name, threshold]) =>
    threshold === undefined ? [] : [`${name} ${threshold.above ? '>' : '<'}${threshold.value}%`],
  );
  return [...parts, ...(uplink === undefined ? [] : [`uplink ${uplink}`])].join(', ');
}
