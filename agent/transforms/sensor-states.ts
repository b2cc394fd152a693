/**
 * What a transform remembers of each sensor, as a transaction: changes since the last `commit` can be taken back, because a batch that
 * the spool refused has never been.
 *
 * Invariants: states are values, never changed in place. Limits: `max` sensors; `set` names the one that was used least recently and
 * has to go.
 */
import type { Checkpoint, CheckpointState } from '../spool/spool-state.ts';

/** How states live on the disk. */
interface Durable<S> {
  /** Of their checkpoints. */
  readonly prefix: string | null;
  /** undefined for what another version wrote. */
  readonly parse: (state: CheckpointState) => S | undefined;
}

export class SensorStates<S extends CheckpointState = CheckpointState> {
  readonly #max: number;
  readonly #durable: Durable<S> | undefined;
  /** The least recently used first. */
  readonly #states = new Map<string, S>();
  /** As they were at the last commit. */
  readonly #before = new Map<string, S | undefined>();

  /** Without `durable` they live in memory only. */
  constructor(max: number, durable?: Durable<S>) {
    this.#max = max;
    this.#durable = durable;
  }

  /** null when they live in memory only. */
  get prefix(): string | null {
    return this.#durable?.prefix ?? null;
  }

  get(sensor: string): S | undefined {
    return this.#states.get(sensor);
  }

  entries(): readonly (readonly [sensor: string, state: S])[] {
    return [...this.#states];
  }

  /** Returns the state that had to make room, which is forgotten. */
  set(sensor: string, state: S): S | undefined {
    this.#note(sensor);
    this.#states.delete(sensor);
    this.#states.set(sensor, state);
    if (this.#states.size <= this.#max) return undefined;
    const [oldest, evicted] = this.#states.entries().next().value ?? [sensor, state];
    this.delete(oldest);
    return evicted;
  }

  delete(sensor: string): void {
    this.#note(sensor);
    this.#states.delete(sensor);
  }

  /** Found on the disk at the start. */
  restore(sensor: string, state: CheckpointState): void {
    const parsed = this.#durable?.parse(state);
    if (parsed !== undefined) this.#states.set(sensor, parsed);
  }

  /** What has changed since the last commit, to be stored with the readings that follow from it. */
  changes(): Checkpoint[] {
    const { prefix } = this;
    if (prefix === null) return [];
    return [...this.#before]
      .map(([sensor, before]) => ({ sensor, before, state: this.#states.get(sensor) }))
      .filter(({ before, state }) => before !== state)
      .map(({ sensor, state }) => ({ source: `${prefix}|${sensor}`, state: state ?? null }));
  }

  commit(): void {
    this.#before.clear();
  }

  rollback(): void {
    for (const [sensor, before] of this.#before) {
      if (before === undefined) this.#states.delete(sensor);
      else this.#states.set(sensor, before);
    }
    this.#before.clear();
  }

  #note(sensor: string): void {
    if (!this.#before.has(sensor)) this.#before.set(sensor, this.#states.get(sensor));
  }
}
