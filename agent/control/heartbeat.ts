/**
 * Tells the control plane, every ten seconds, what `AgentStatus` says. A control plane that is not there is no matter of the agent's:
 * readings go on, and the problem is kept for whoever asks.
 *
 * Limits: one request at a time, REQUEST_MS each; nothing is queued, the next heartbeat says all that a lost one said.
 */
import { describeError } from '../../lib/errors.ts';
import { pause } from '../sources/source.ts';
import type { AgentStatus } from '../status.ts';
import { refusalOf, type ControlPlane } from './control-plane.ts';

/** The control plane takes an agent for late after six of these. */
const HEARTBEAT_EVERY_MS = 10_000;
/** It may have been started at the same moment. */
const RETRY_MS = 2_000;
const REQUEST_MS = 5_000;

export interface HeartbeatOptions {
  readonly status: () => AgentStatus;
  readonly signal: AbortSignal;
  readonly onProblem: (problem: string | null) => void;
}

/** Runs until the signal fires. Never rejects. */
export async function sendHeartbeats(control: ControlPlane, options: HeartbeatOptions): Promise<void> {
  const { signal } = options;
  while (!signal.aborted) {
    let waitMs = HEARTBEAT_EVERY_MS;
    try {
      const body = { status: options.status() };
      const answer = await control.request('heartbeat', { body, signal, timeoutMs: REQUEST_MS });
      if (answer.status >= 300) throw new Error(refusalOf(answer));
      options.onProblem(null);
    } catch (error) {
      options.onProblem(`control plane ${control.url}: ${describeError(error)}`);
      waitMs = RETRY_MS;
    }
    await pause(waitMs, signal);
  }
}
