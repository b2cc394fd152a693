/**
 * Names the transactions of Kafka that hold a partition back: nothing behind the first open one is read until it has ended. Most end within
 * seconds; one whose producer died ends with its timeout, and one that hangs (KIP-664) when somebody aborts it.
 */
import type { Clock } from '../../lib/clock.ts';
import type { PartitionCursor } from './topic-source.ts';

/** A producer's default `transaction.timeout.ms`: who is open for longer is worth a line. */
const HELD_MS = 60_000;

interface Held {
  readonly lastStable: number;
  readonly sinceMs: number;
  isTold: boolean;
}

export class OpenTransactions {
  readonly #clock: Clock;
  readonly #held = new Map<number, Held>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** What has been held back for HELD_MS, by name; once for each transaction. */
  look(topic: string, cursors: readonly PartitionCursor[]): readonly string[] {
    const nowMs = this.#clock.monotonicMs();
    const told: string[] = [];
    for (const { partition, next, lastStable, end } of cursors) {
      const known = this.#held.get(partition);
      if (next < lastStable || lastStable >= end) this.#held.delete(partition);
      else if (known?.lastStable !== lastStable)
        this.#held.set(partition, { lastStable, sinceMs: nowMs, isTold: false });
      else if (!known.isTold && nowMs - known.sinceMs >= HELD_MS) {
        known.isTold = true;
        told.push(heldBack(topic, partition, lastStable, end));
      }
    }
    return told;
  }
}

export function heldBack(topic: string, partition: number, lastStable: number, end: number): string {
  return `${topic}/${partition}: a transaction that is open at offset ${lastStable} holds back offsets ${lastStable} to ${end - 1}: they land when it has ended`;
}
