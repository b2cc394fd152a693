/**
 * What a source is to the agent, and the agent to a source. A source produces readings until its signal fires; everything that
 * must not be lost goes through `SourceOutput`.
 */
import type { Clock } from '../../lib/clock.ts';
import type { Rejected } from '../quarantine.ts';
import type { NewReading } from '../spool/frame.ts';
import type { Readings } from '../spool/packed-readings.ts';
import type { Checkpoint, CheckpointState, Receipt } from '../spool/spool-state.ts';

export interface SourceOutput {
  readonly clock: Clock;
  /**
   * Resolves when the readings, and the checkpoints and receipts with them, are on the disk; only then may the source acknowledge or
   * forget them. Waits while the spool is full: that is the back-pressure. Rejects with `aborted` when the agent stops meanwhile.
   */
  deliver(readings: Readings, checkpoints?: readonly Checkpoint[], receipts?: readonly Receipt[]): Promise<void>;
  /** As `deliver`, for a source whose sender can keep the readings: rejects with `full` instead of waiting. */
  offer(readings: readonly NewReading[], receipts?: readonly Receipt[]): Promise<void>;
  /** As `quarantine` and `deliver`, of what no sender can send again: when the agent stops it is still stored, as far as there is room. */
  keep(readings: readonly NewReading[], rejected: readonly Rejected[]): Promise<void>;
  /** Keeps input that is no reading, durably; rejects like `deliver`. */
  quarantine(items: readonly Rejected[]): Promise<void>;
  /** A checkpoint that was delivered in this run or an earlier one. */
  checkpoint(key: string): CheckpointState | undefined;
  checkpointKeys(prefix: string): readonly string[];
  /** What was accepted with readings of this source, in this run or an earlier one, by id, the oldest first. */
  receipts(): ReadonlyMap<string, string>;
  /** Counts something that is worth a look and no reading: a repeat that was recognised, a request that was refused. */
  count(event: string, times?: number): void;
  /** What is wrong at present (a folder that cannot be read), for status and log; null when it is over. */
  report(problem: string | null): void;
  /** What is as it is configured and worth a look all the same (topic filters that nothing matches), for status and log; null when it is over. */
  remark(remark: string | null): void;
}

export interface Source {
  /** Unique and stable over restarts: checkpoints and counters carry it. */
  readonly name: string;
  /** Ends when the signal fires (rejecting with `aborted` is as good) or, for a source that has an end, when all is delivered. */
  run(output: SourceOutput, signal: AbortSignal): Promise<void>;
}

/** Waits, or returns at once when the signal fires. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
      return;
    }
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end, { once: true });
  });
}
