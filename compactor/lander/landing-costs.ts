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

interface Landed {
  readonly records: number;
  readonly commits: number;
  readonly files: number;
  readonly bytes: number;
}

const NOTHING: Landed = { records: 0, commits: 0, files: 0, bytes: 0 };

export class LandingCosts {
  readonly #target: LakeContext;
  readonly #meter: CostMeter;
  readonly #landed = new Map<string, Landed>();
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

  /** After each commit. */
  add(dataset: string, { records, files, bytes }: Omit<Landed, 'commits'>): void {
    if (records > 0) this.#count(dataset, { records, commits: 1, files, bytes }, 1);
  }

  #count(dataset: string, more: Landed, sign: 1 | -1): void {
    const { records, commits, files, bytes } = this.#landed.get(dataset) ?? NOTHING;
    const sum = {
      records: records + sign * more.records,
      commits: commits + sign * more.commits,
      files: files + sign * more.files,
      bytes: bytes + sign * more.bytes,
    };
    if (sum.records > 0) this.#landed.set(dataset, sum);
    else this.#landed.delete(dataset);
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
    const taken = [...this.#landed];
    const total = taken.reduce((sum, [, { records }]) => sum + records, 0);
    if (total === 0) return null;
    const usages = taken.map(([dataset, own]) => ({ dataset, own, usage: this.#meter.usage(own.records / total) }));
    try {
      for (const { dataset, own, usage } of usages) {
        const { records, ...landed } = own;
        await writeCost(this.#target, dataset, { kind: 'land', ...usage, rows: records, landed });
        this.#count(dataset, own, -1);
      }
      this.#meter.restart();
      return null;
    } catch (error) {
      return `the cost of this run was not recorded: ${describeError(error)}`;
    }
  }
}
