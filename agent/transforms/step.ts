/** One transform in the chain, as the chain sees it, and where its readings go. */
import type { Draft } from './draft.ts';
import type { SensorStates } from './sensor-states.ts';

/** What a transform did with the readings of its topic: seen - dropped - failed + made have gone on. */
export interface Tally {
  seen: number;
  /** Left out, held back, or folded into a window. */
  dropped: number;
  /** Passed on unchanged, because a field was missing. */
  missed: number;
  /** Windows, and readings that were held back before. */
  made: number;
  /** Given to the quarantine with the reason. */
  failed: number;
}

export interface Step {
  /** `deadband vibration.rms` */
  readonly name: string;
  readonly on: string;
  /** Looks at all readings of a batch, before `apply` decides about each of them. Rejects when it cannot at present: the batch has not been. */
  prepare?(drafts: readonly Draft[]): Promise<void>;
  /** Decides about one reading. Throws an Error with the reason when the reading cannot be judged: it has not been, then. */
  apply(draft: Draft, out: Outlet): void;
  /** What it remembers of the sensors. */
  readonly states?: SensorStates;
  /** Gives what has been held back for too long. */
  overdue?(nowUs: number, out: Outlet): void;
  /** Gives everything that is held back. */
  flush?(out: Outlet): void;
  close?(): Promise<void>;
}

/** Where a step's readings go, in order, and the count of them. */
export class Outlet {
  readonly tally: Tally = emptyTally();
  readonly passed: Draft[] = [];

  pass(draft: Draft): void {
    this.passed.push(draft);
  }

  drop(): void {
    this.tally.dropped += 1;
  }

  miss(draft: Draft): void {
    this.tally.missed += 1;
    this.passed.push(draft);
  }

  make(draft: Draft): void {
    this.tally.made += 1;
    this.passed.push(draft);
  }
}

export function emptyTally(): Tally {
  return { seen: 0, dropped: 0, missed: 0, made: 0, failed: 0 };
}

export function sensorId(draft: Draft): string {
  return draft.key ?? '';
}
