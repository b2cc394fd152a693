/** The agent's side of a source: back-pressure, quarantine of what no record can carry, counters. */
import type { Clock } from '../lib/clock.ts';
import { isCode, PenstockError } from '../lib/errors.ts';
import type { Quarantine, Rejected } from './quarantine.ts';
import { SaidLines } from './said-lines.ts';
import type { SourceOutput } from './sources/source.ts';
import { isSurelyFine, refusal, type NewReading } from './spool/frame.ts';
import { PackedReadings, type Readings } from './spool/packed-readings.ts';
import type { Intake } from './intake.ts';
import type { Checkpoint, CheckpointState, Receipt } from './spool/spool-state.ts';

export interface SourceCounters {
  readonly name: string;
  /** Taken in durably (before the transforms), since the start of the agent. */
  readings: number;
  quarantined: number;
  /** What else happened, by name: repeats that were recognised, refused requests, connections. */
  readonly events: Record<string, number>;
  /** Waiting for room in the spool at this moment. */
  isHeldUp: boolean;
  problem: string | null;
  remark: string | null;
}

export class AgentSourceOutput implements SourceOutput {
  readonly clock: Clock;
  readonly counters: SourceCounters;
  readonly #intake: Intake;
  readonly #quarantine: Quarantine;
  readonly #signal: AbortSignal;
  readonly #said: SaidLines;

  /** `log` takes a line when a problem or a remark begins, and when a problem is over. */
  constructor(
    name: string,
    intake: Intake,
    quarantine: Quarantine,
    clock: Clock,
    signal: AbortSignal,
    log: (line: string) => void,
  ) {
    this.clock = clock;
    this.counters = { name, readings: 0, quarantined: 0, events: {}, isHeldUp: false, problem: null, remark: null };
    this.#said = new SaidLines(log, clock);
    this.#intake = intake;
    this.#quarantine = quarantine;
    this.#signal = signal;
  }

  async deliver(
    readings: Readings,
    checkpoints: readonly Checkpoint[] = [],
    receipts: readonly Receipt[] = [],
  ): Promise<void> {
    const isFine = readings instanceof PackedReadings || readings.every(isSurelyFine);
    const carried = isFine ? readings : await this.#withoutRefused(readings);
    if (carried.length + checkpoints.length + receipts.length === 0) return;
    if (this.#signal.aborted) throw this.#stopped();
    await this.#whenThereIsRoom(() => this.#intake.store(carried, checkpoints, receipts));
    this.counters.readings += carried.length;
  }

  async keep(readings: readonly NewReading[], rejected: readonly Rejected[]): Promise<void> {
    await this.#setAside(rejected);
    if (readings.length === 0) return;
    await this.#whenThereIsRoom(() => this.#intake.store(readings, [], []));
    this.counters.readings += readings.length;
  }

  async offer(readings: readonly NewReading[], receipts: readonly Receipt[] = []): Promise<void> {
    if (this.#signal.aborted) throw this.#stopped();
    if (readings.length + receipts.length === 0) return;
    try {
      await this.#intake.store(readings, [], receipts);
    } catch (error) {
      this.counters.isHeldUp = isCode(error, 'full');
      throw error;
    }
    this.counters.isHeldUp = false;
    this.counters.readings += readings.length;
  }

  async quarantine(items: readonly Rejected[]): Promise<void> {
    if (items.length === 0) return;
    if (this.#signal.aborted) throw this.#stopped();
    await this.#setAside(items);
  }

  checkpoint(key: string): CheckpointState | undefined {
    return this.#intake.checkpoint(key);
  }

  checkpointKeys(prefix: string): readonly string[] {
    return this.#intake.checkpointKeys(prefix);
  }

  receipts(): ReadonlyMap<string, string> {
    return this.#intake.receipts(this.counters.name);
  }

  count(event: string, times = 1): void {
    this.counters.events[event] = (this.counters.events[event] ?? 0) + times;
  }

  report(problem: string | null): void {
    if (problem === this.counters.problem) return;
    this.#said.say(`${this.counters.name}: ${problem ?? 'works again'}`);
    this.counters.problem = problem;
  }

  remark(remark: string | null): void {
    if (remark !== null && this.counters.remark === null) this.#said.say(`${this.counters.name}: ${remark}`);
    this.counters.remark = remark;
  }

  #stopped(): PenstockError {
    return new PenstockError('aborted', `${this.counters.name} is stopped`);
  }

  async #setAside(items: readonly Rejected[]): Promise<void> {
    if (items.length === 0) return;
    await this.#whenThereIsRoom(() => this.#quarantine.put(this.counters.name, items));
    this.counters.quarantined += items.length;
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

  /** Repeats what the spool or the disk has no room for, until the agent stops. */
  async #whenThereIsRoom(act: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        await act();
        this.counters.isHeldUp = false;
        return;
      } catch (error) {
        if (!isCode(error, 'full')) throw error;
        this.counters.isHeldUp = true;
      }
      if (this.#signal.aborted) throw this.#stopped();
      await this.#intake.waitForRoom(this.#signal);
    }
  }
}
