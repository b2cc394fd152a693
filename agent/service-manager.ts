/**
 * Telling systemd how the agent is (sd_notify(3)): ready, alive, stopping. The protocol is a datagram to a Unix socket, which Node cannot
 * send; `systemd-notify` is on every machine whose systemd asks for it. The unit needs `NotifyAccess=all`.
 *
 * Invariants: READY=1 is told once sources run on an open spool, WATCHDOG=1 only from a status of an agent whose spool is in order, so a
 * hanging event loop or a broken disk is not kept alive.
 * Failure: a manager that cannot be told is logged once; without NOTIFY_SOCKET nothing happens.
 */
import { execFile } from 'node:child_process';
import { describeError } from '../lib/errors.ts';
import type { AgentStatus } from './status.ts';

export class ServiceManager {
  readonly #log: (line: string) => void;
  readonly #isAsked: boolean;
  /** Half of what systemd allows. Infinity: it does not ask. */
  readonly #everyMs: number;
  #isReady = false;
  #toldMs = -Infinity;
  #hasFailed = false;

  constructor(env: NodeJS.ProcessEnv, log: (line: string) => void) {
    this.#log = log;
    this.#isAsked = env['NOTIFY_SOCKET'] !== undefined && env['NOTIFY_SOCKET'] !== '';
    const watchdogUs = Number(env['WATCHDOG_USEC'] ?? NaN);
    this.#everyMs = watchdogUs > 0 ? watchdogUs / 2000 : Infinity;
  }

  /** With each status of the agent. */
  tell(status: Pick<AgentStatus, 'sources'>): void {
    if (!this.#isAsked) return;
    const nowMs = performance.now();
    if (!this.#isReady && status.sources.length > 0) {
      this.#isReady = true;
      this.#toldMs = nowMs;
      this.#send('--ready', `--pid=${process.pid}`);
    } else if (this.#isReady && nowMs - this.#toldMs >= this.#everyMs) {
      this.#toldMs = nowMs;
      this.#send('WATCHDOG=1');
    }
  }

  stopping(): void {
    if (this.#isAsked) this.#send('STOPPING=1');
  }

  #send(...args: readonly string[]): void {
    execFile('systemd-notify', args, (error) => {
      if (error === null || this.#hasFailed) return;
      this.#hasFailed = true;
      this.#log(`cannot tell systemd: ${describeError(error)}`);
    });
  }
}
