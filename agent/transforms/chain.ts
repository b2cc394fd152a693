/**
 * The transforms of an agent, one behind the other.
 *
 * A batch goes through as a transaction: `run` gives what is to be stored, the changed states among it, and `commit` or `rollback` says
 * whether it was. Counters move at `commit`, so a batch that the spool refused and that comes again is counted once. A reading that a
 * step throws at is `failed`: the others go on.
 *
 * Invariants: readings of a sensor keep their order. Failure: states on the disk whose transform is no longer configured are turned
 * into the readings they stand for (`orphans`).
 */
import { describeError } from '../../lib/errors.ts';
import { isSurelyFine, refusal, type NewReading } from '../spool/frame.ts';
import type { Readings } from '../spool/packed-readings.ts';
import type { Checkpoint, CheckpointState } from '../spool/spool-state.ts';
import { deadbandStep } from './deadband.ts';
import { Draft } from './draft.ts';
import { convertStep, filterStep, renameStep, routeStep, sampleStep, scaleStep, selectStep } from './stateless.ts';
import { emptyTally, Outlet, type Step, type Tally } from './step.ts';
import { heldIn, swingingDoorStep } from './swinging-door.ts';
import type { TransformConfig } from './transform-config.ts';
import { aggregateIn, aggregateStep } from './window-aggregate.ts';

/** Of the checkpoints that hold states. */
const STATES_PREFIX = 'transform:';

export interface TransformCounters extends Readonly<Tally> {
  readonly name: string;
}

/** A reading that a transform could not judge. */
export interface Failed {
  readonly transform: string;
  readonly reading: NewReading;
  readonly reason: string;
}

export interface ChainRun {
  readonly readings: readonly NewReading[];
  readonly failed: readonly Failed[];
  readonly checkpoints: readonly Checkpoint[];
  commit(): void;
  rollback(): void;
}

interface StoredStates {
  checkpoint(key: string): CheckpointState | undefined;
  checkpointSources(prefix: string): readonly string[];
}

export class TransformChain {
  readonly #steps: readonly Step[];
  readonly #totals: readonly Tally[];

  constructor(steps: readonly Step[]) {
    this.#steps = steps;
    this.#totals = steps.map(emptyTally);
  }

  /** `baseDir` is what relative paths of modules are from. Throws `config`. The caller closes it. */
  static async open(configs: readonly TransformConfig[], baseDir: string): Promise<TransformChain> {
    const steps: Step[] = [];
    try {
      for (const config of configs) steps.push(await stepOf(config, baseDir));
      return new TransformChain(steps);
    } catch (error) {
      await new TransformChain(steps).close();
      throw error;
    }
  }

  async close(): Promise<void> {
    for (const step of this.#steps) await step.close?.();
  }

  get isEmpty(): boolean {
    return this.#steps.length === 0;
  }

  /** Whether a batch must not be run before the one before it is settled. */
  get hasStates(): boolean {
    return this.#steps.some(({ states }) => states !== undefined);
  }

  counters(): readonly TransformCounters[] {
    return this.#steps.map(({ name }, index) => ({ name, ...(this.#totals[index] ?? emptyTally()) }));
  }

  /** Takes the states from the disk, and returns what those of removed transforms held back, with their end. */
  restore(stored: StoredStates): {
    readonly readings: readonly NewReading[];
    readonly checkpoints: readonly Checkpoint[];
  } {
    const readings: NewReading[] = [];
    const checkpoints: Checkpoint[] = [];
    for (const source of stored.checkpointSources(STATES_PREFIX)) {
      const state = stored.checkpoint(source) ?? null;
      const owner = this.#steps.find(
        ({ states }) => typeof states?.prefix === 'string' && source.startsWith(`${states.prefix}|`),
      );
      const prefix = owner?.states?.prefix;
      if (typeof prefix === 'string') {
        owner?.states?.restore(source.slice(prefix.length + 1), state);
        continue;
      }
      const reading = source.startsWith(`${STATES_PREFIX}aggregate:`) ? aggregateIn(state) : heldIn(state);
      if (reading !== null) readings.push(reading);
      checkpoints.push({ source, state: null });
    }
    return { readings, checkpoints };
  }

  run(readings: Readings): Promise<ChainRun> {
    return this.#settled(
      Array.from(readings, (reading) => new Draft(reading)),
      () => undefined,
    );
  }

  /** The steps that hold readings back. */
  get holding(): readonly Step[] {
    return this.#steps.filter((step) => step.overdue !== undefined);
  }

  /** What one of `holding` has held back for too long; null when there is nothing. */
  overdue(nowUs: number, holder: Step): Promise<ChainRun | null> {
    return this.#released((step, out) => {
      if (step === holder) step.overdue?.(nowUs, out);
    });
  }

  /** Everything that is held back; null when there is nothing. */
  flush(): Promise<ChainRun | null> {
    return this.#released((step, out) => step.flush?.(out));
  }

  async #released(release: (step: Step, out: Outlet) => void): Promise<ChainRun | null> {
    let count = 0;
    const run = await this.#settled([], (step, out) => {
      release(step, out);
      count += out.tally.made;
    });
    return count === 0 ? null : run;
  }

  /** Through all steps; `release` may add behind each what was held back there. */
  async #settled(drafts: readonly Draft[], release: (step: Step, out: Outlet) => void): Promise<ChainRun> {
    const failed: Failed[] = [];
    const tallies: Tally[] = [];
    const states = this.#steps.flatMap((step) => step.states ?? []);
    const rollback = (): void => {
      for (const sensorStates of states) sensorStates.rollback();
    };
    let left = drafts;
    let readings: NewReading[];
    try {
      for (const step of this.#steps) {
        const out = new Outlet();
        // Without it, a batch goes through in one go, and no other can come in between.
        if (step.prepare !== undefined) await step.prepare(left.filter(({ topic }) => topic === step.on));
        applyTo(left, step, out, failed);
        release(step, out);
        tallies.push(out.tally);
        left = out.passed;
      }
      readings = carried(left, failed);
    } catch (error) {
      rollback();
      throw error;
    }
    return {
      readings,
      failed,
      checkpoints: states.flatMap((sensorStates) => sensorStates.changes()),
      commit: () => {
        for (const sensorStates of states) sensorStates.commit();
        this.#totals.forEach((total, index) => addTo(total, tallies[index] ?? emptyTally()));
      },
      rollback,
    };
  }
}

/** A change can make a value larger than any record, or one that JSON cannot say. */
function carried(drafts: readonly Draft[], failed: Failed[]): NewReading[] {
  const readings: NewReading[] = [];
  for (const draft of drafts) {
    const { reading, problem } = written(draft);
    const reason = problem ?? (isSurelyFine(reading) ? null : refusal(reading));
    if (reason === null) readings.push(reading);
    else failed.push({ transform: `transforms of ${draft.topic}`, reading, reason });
  }
  return readings;
}

/** As it came, and why, where it cannot be written as it is. */
function written(draft: Draft): { readonly reading: NewReading; readonly problem: string | null } {
  try {
    return { reading: draft.toReading(), problem: null };
  } catch (error) {
    return { reading: draft.original, problem: reasonOf(error) };
  }
}

function applyTo(drafts: readonly Draft[], step: Step, out: Outlet, failed: Failed[]): void {
  for (const draft of drafts) {
    if (draft.topic !== step.on) {
      out.pass(draft);
      continue;
    }
    out.tally.seen += 1;
    try {
      step.apply(draft, out);
    } catch (error) {
      // What a reading looks like must never end the agent: whatever a step throws is this reading's failure.
      out.tally.failed += 1;
      failed.push({ transform: step.name, reading: written(draft).reading, reason: reasonOf(error) });
    }
  }
}

/** CEL draws the place in its expression in further lines. */
function reasonOf(error: unknown): string {
  return describeError(error).split('\n', 1)[0] ?? '';
}

function addTo(total: Tally, tally: Tally): void {
  total.seen += tally.seen;
  total.dropped += tally.dropped;
  total.missed += tally.missed;
  total.made += tally.made;
  total.failed += tally.failed;
}

async function stepOf(config: TransformConfig, baseDir: string): Promise<Step> {
  switch (config.type) {
    case 'rename':
      return renameStep(config);
    case 'select':
      return selectStep(config);
    case 'filter':
      return filterStep(config);
    case 'route':
      return routeStep(config);
    case 'sample':
      return sampleStep(config);
    case 'scale':
      return scaleStep(config);
    case 'convert':
      return convertStep(config);
    case 'deadband':
      return deadbandStep(config);
    case 'swingingDoor':
      return swingingDoorStep(config);
    case 'aggregate':
      return aggregateStep(config);
    case 'parse': {
      const { parseStep } = await import('./parse/parse-step.ts');
      return parseStep(config);
    }
    case 'wasm': {
      // Loaded when it is configured, as the sources are.
      const { wasmStep } = await import('./wasm/wasm-step.ts');
      return wasmStep(config, baseDir);
    }
  }
}
