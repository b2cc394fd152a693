/** What an uplink tells about itself. */
import type { UplinkProblem } from './retried-step.ts';
import type { BudgetStatus } from './uplink-budget.ts';

export interface UplinkStatus {
  /** Readings stored by this run, batches found stored at the start included. */
  readonly delivered: number;
  /** Their bytes as sent. */
  readonly bytes: number;
  /** Batches sent and not answered. */
  readonly inFlight: number;
  /** Readings in the spool that are not acknowledged to it. */
  readonly lag: bigint;
  /** Whether something is sent behind the present. */
  readonly backlog: boolean;
  /** null without a limit. */
  readonly budget: BudgetStatus | null;
  readonly quarantined: number;
  /** Damaged files that were set aside at the start. */
  readonly setAside: readonly string[];
  /** What went wrong since the last delivery, or at the last step of a topic. */
  readonly lastError: UplinkProblem | null;
  /** Why nothing gets through at present; null while something does, or nothing is to be sent. */
  readonly linkProblem: string | null;
  /** Topics that the log does not take, with what they hold up. */
  readonly heldUp: readonly HeldUpTopic[];
  /** What the log forgot of what it had acknowledged, since the start: the newest, in words. */
  readonly cuts: readonly string[];
}

export interface HeldUpTopic {
  readonly topic: string;
  readonly problem: string;
  /** True: the log answered, and will not take it as things are. */
  readonly isRefused: boolean;
  readonly readings: number;
}
