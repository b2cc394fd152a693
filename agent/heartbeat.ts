/**
 * Tells the control plane, every ten seconds, what `AgentStatus` says. A control plane that is not there is no matter of the agent's:
 * readings go on, and the problem is kept for whoever asks.
 *
 * Limits: one request at a time, REQUEST_MS each; nothing is queued, the next heartbeat says all that a lost one said.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { describeError } from '../lib/errors.ts';
import type { AgentStatus } from './status.ts';

/** The control plane takes an agent for late after three of these. */
const HEARTBEAT_EVERY_MS = 10_000;
/** It may have been started at the same moment. */
const RETRY_MS = 2_000;
const REQUEST_MS = 5_000;

export interface HeartbeatOptions {
  readonly url: string;
  /** A file with the bearer token, read anew each time: it may be renewed under a running agent. */
  readonly tokenFile: string | undefined;
  readonly agent: string;
  readonly status: () => AgentStatus;
  readonly signal: AbortSignal;
  readonly onProblem: (problem: string | null) => void;
}

/** Runs until the signal fires. Never rejects. */
export async function sendHeartbeats(options: HeartbeatOptions): Promise<void> {
  const url = new URL(`v1/agents/${encodeURIComponent(options.agent)}/heartbeat`, withSlash(options.url));
  while (!options.signal.aborted) {
    let waitMs = HEARTBEAT_EVERY_MS;
    try {
      await send(url, options);
      options.onProblem(null);
    } catch (error) {
      options.onProblem(`control plane ${options.url}: ${describeError(error)}`);
      waitMs = RETRY_MS;
    }
    await delay(waitMs, undefined, { signal: options.signal }).catch(() => undefined);
  }
}

async function send(url: URL, options: HeartbeatOptions): Promise<void> {
  const token = options.tokenFile === undefined ? undefined : (await readFile(options.tokenFile, 'utf8')).trim();
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify({ status: options.status() }),
    signal: AbortSignal.any([options.signal, AbortSignal.timeout(REQUEST_MS)]),
  });
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${(await response.text()).slice(0, 200)}`);
}

/** A base without a slash at its end would lose its last part. */
function withSlash(url: string): string {
  return url.endsWith('/') ? url : `${url}/`;
}
