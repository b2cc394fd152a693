/** The agent's side of a source: back-pressure, quarantine of what no record can carry, counters. */
import type { Clock } from '../lib/clock.ts';
import { isCode, PenstockError } from '../lib/errors.ts';
import type { Quarantine, Rejected } from './quarantine.ts';
import type { SourceOutput } from './sources/source.ts';
import { isSurelyFine, refusal, type NewReading } from './spool/frame.ts';
import type { Intake } from './intake.ts';
import type { Checkpoint, CheckpointState } from './spool/spool-state.ts';

export interface SourceCounters {
  readonly name: string;
  /** Taken in durably (before the transforms), since the start of the agent. */
  readings: number;
  quarantined: number;
  /** Waiting for room in the spool at this moment. */
  isHeldUp: boolean;
  problem: string | null;
}

export class AgentSourceOutput implements SourceOutput {
  readonly clock: Clock;
  readonly counters: SourceCounters;
  readonly #intake: Intake;
  readonly #quarantine: Quarantine;
  readonly #signal: AbortSignal;

  constructor(name: string, intake: Intake, quarantine: Quarantine, clock: Clock, signal: AbortSignal) {
    this.clock = clock;
    this.counters = { name, readings: 0, quarantined: 0, isHeldUp: false, problem: null };
    this.#intake = intake;
    this.#quarantine = quarantine;
    this.#signal = signal;
  }

  async deliver(readings: readonly NewReading[], checkpoints: readonly Checkpoint[] = []): Promise<void> {
    const carried = readings.every(isSurelyFine) ? readings : await this.#withoutRefused(readings);
    if (carried.length === 0 && checkpoints.length === 0) return;
    await this.#whenThereIsRoom(() => this.#intake.store(carried, checkpoints));
    this.counters.readings += carried.length;
  }

  async quarantine(items: readonly Rejected[]): Promise<void> {
    if (items.length === 0) return;
    await this.#whenThereIsRoom(() => this.#quarantine.put(this.counters.name, items));
    this.counters.quarantined += items.length;
  }

  checkpoint(key: string): CheckpointState | undefined {
    return this.#intake.checkpoint(key);
  }

  checkpointKeys(prefix: string): readonly string[] {
    return this.#intake.checkpointKeys(prefix);
  }

  report(problem: string | null): void {
    this.counters.problem = problem;
  }

  async #withoutRefused(readings: readonly NewReading[]): Promise<readonly NewReading[]> {
    const rejected: Rejected[] = [];
    const carried = readings.filter((reading) => {
      const reason = isSurelyFine(reading) ? null : refusal(reading);
      if (reason === null) return true;
      const input = typeof reading.value === 'string' ? Buffer.from(reading.value) : reading.value;
      rejected.push({ reason, position: `${reading.topic}: ${reading.key?.slice(0, 100) ?? 'no sensor'}`, input });
      return false;
    });
    await this.quarantine(rejected);
    return carried;
  }

  /** Repeats what the spool or the disk has no room for. */
  async #whenThereIsRoom(act: () => Promise<void>): Promise<void> {
    for (;;) {
      if (this.#signal.aborted) throw new PenstockError('aborted', `${this.counters.name} is stopped`);
      try {
        await act();
        this.counters.isHeldUp = false;
        return;
      } catch (error) {
        if (!isCode(error, 'full')) throw error;
        this.counters.isHeldUp = true;
      }
      await this.#intake.waitForRoom(this.#signal);
    }
  }
}
