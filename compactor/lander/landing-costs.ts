/**
 * The cost of a lander, recorded every hour while it runs and at its end, shared between datasets by records: they share the process.
 *
 * Failure: a record that cannot be written is written with the next one's figures in it; a killed lander costs the records of its last hour.
 */
import { describeError } from '../../lib/errors.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { CostMeter, writeCost } from '../cost/cost.ts';

/** As the compactor runs: what a dataset costs in an hour is a landing record and a compaction record. */
const RECORD_EVERY_MS = 3_600_000;

export class LandingCosts {
  readonly #target: LakeContext;
  readonly #meter: CostMeter;
  readonly #records = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;
  #writing: Promise<string | null> = Promise.resolve(null);

  constructor(lake: LakeContext, everyMs = RECORD_EVERY_MS) {
    this.#target = lake;
    this.#meter = new CostMeter(lake);
    this.#timer = setInterval(() => void this.record(), everyMs);
    this.#timer.unref();
  }

  /** Work with this lake: what it uses is counted. */
  get lake(): LakeContext {
    return this.#meter.lake;
  }

  add(dataset: string, records: number): void {
    if (records > 0) this.#records.set(dataset, (this.#records.get(dataset) ?? 0) + records);
  }

  /** Writes what was used since the last record. Resolves to what went wrong, or null. */
  record(): Promise<string | null> {
    this.#writing = this.#writing.then(() => this.#write());
    return this.#writing;
  }

  /** The last record. */
  end(): Promise<string | null> {
    clearInterval(this.#timer);
    return this.record();
  }

  async #write(): Promise<string | null> {
    const taken = [...this.#records];
    const total = taken.reduce((sum, [, records]) => sum + records, 0);
    if (total === 0) return null;
    const usages = taken.map(([dataset, records]) => ({ dataset, records, usage: this.#meter.usage(records / total) }));
    try {
      for (const { dataset, records, usage } of usages) {
        await writeCost(this.#target, dataset, { kind: 'land', ...usage, rows: records });
        const more = (this.#records.get(dataset) ?? 0) - records;
        if (more > 0) this.#records.set(dataset, more);
        else this.#records.delete(dataset);
      }
      this.#meter.restart();
      return null;
    } catch (error) {
      return `the cost of this run was not recorded: ${describeError(error)}`;
    }
  }
}
