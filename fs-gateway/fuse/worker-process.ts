/** The supervisor's side of one worker: forks the caller's module with the device, asks it things, ends it. */
import { fork, type ChildProcess } from 'node:child_process';
import { PenstockError } from '../../lib/errors.ts';
import type { Assignment, FromWorker, ToWorker, WorkerAnswer } from './messages.ts';
import type { HeldFiles } from './held-files.ts';
import type { NotificationWriter } from './notification-writer.ts';

/** Workers of one mount share libuv's pool with the loop's idle wait (one thread), hence more than the default of four. */
const THREAD_POOL_SIZE = '8';
/**
 * What a worker keeps is bounded and small, but V8 and malloc let garbage grow as far as they may before they look for it: by default to
 * 400 MB after a listing of 240,000 files, with these limits to 140. Data is in Buffers, which the limit of the heap does not count.
 */
const HEAP_LIMITS = ['--max-semi-space-size=4', '--max-old-space-size=256'];
const MALLOC_ARENAS = '1';

export interface WorkerExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class WorkerProcess {
  /** Resolves once it serves; rejects when it failed or ended before. */
  readonly serving: Promise<unknown>;
  readonly exited: Promise<WorkerExit>;
  /** The worker saw the end of the mount. */
  unmounted = false;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  #nextId = 1;
  /** Between its word that it serves and its end. */
  #listening = false;
  #answers: readonly WorkerAnswer[] = [];

  constructor(modulePath: string, fd: number, notifications: NotificationWriter, held: HeldFiles) {
    const child = fork(modulePath, [], {
      stdio: ['ignore', 2, 2, 'ipc', fd], // the device becomes DEVICE_FD; standard output is the command's own
      execArgv: [...process.execArgv, ...HEAP_LIMITS],
      env: { ...process.env, UV_THREADPOOL_SIZE: THREAD_POOL_SIZE, MALLOC_ARENA_MAX: MALLOC_ARENAS },
    });
    this.#child = child;
    const serving = Promise.withResolvers<undefined>();
    const exited = Promise.withResolvers<WorkerExit>();
    serving.promise.catch(() => undefined); // Whoever starts a worker may be interested in its exit only.
    this.serving = serving.promise;
    this.exited = exited.promise;
    child.on('message', (message: FromWorker) => {
      if (message.type === 'serving') {
        this.#listening = true;
        this.#answers = message.answers ?? [];
        serving.resolve(undefined);
      } else if (message.type === 'failed') {
        serving.reject(new PenstockError('io', message.message));
      } else if (message.type === 'unmounted') {
        this.unmounted = true;
      } else if (message.type === 'notify') {
        void notifications.write(message.batch).then((count) => this.#send({ type: 'notified', count }));
      } else if (message.type === 'hold') {
        held.hold(message.held, this.pid, message.fd, message.file);
      } else if (message.type === 'let-go') {
        held.letGo(message.held);
      } else {
        this.#settle(message);
      }
    });
    const onEnd = (exit: WorkerExit): void => {
      const error = new PenstockError('unavailable', `the worker ended (${describeExit(exit)})`);
      this.#listening = false;
      serving.reject(error);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
      exited.resolve(exit);
    };
    child.on('exit', (code, signal) => onEnd({ code, signal }));
    child.on('error', () => onEnd({ code: 1, signal: null }));
  }

  /** Once it serves. */
  answers(type: WorkerAnswer): boolean {
    return this.#answers.includes(type);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  assign(assignment: Assignment): void {
    this.#send({ type: 'assign', assignment });
  }

  reopenLog(): void {
    this.#send({ type: 'reopen-log' });
  }

  /** Throws what the worker threw (`io`), `timeout`, or `unavailable` when it does not serve. Without `timeoutMs` it ends with the worker only. */
  async ask(type: 'flush' | 'stop' | 'stats' | 'usage' | 'ping', timeoutMs?: number): Promise<unknown> {
    if (!this.#listening) throw new PenstockError('unavailable', 'the worker does not serve');
    const id = this.#nextId++;
    const waiting = Promise.withResolvers<unknown>();
    this.#waiting.set(id, waiting);
    const giveUp = (): void =>
      waiting.reject(new PenstockError('timeout', `the worker did not answer '${type}' within ${timeoutMs} ms`));
    const timer = timeoutMs === undefined ? undefined : setTimeout(giveUp, timeoutMs);
    try {
      this.#send({ type, id });
      return await waiting.promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  /** Waits for the exit; after `timeoutMs` it is killed. */
  async end(timeoutMs: number): Promise<void> {
    const timer = setTimeout(() => this.kill(), timeoutMs);
    await this.exited;
    clearTimeout(timer);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #send(message: ToWorker): void {
    if (this.#child.connected) this.#child.send(message, () => undefined); // A lost channel shows as the worker's exit.
  }

  #settle(message: Extract<FromWorker, { type: 'answer' }>): void {
    const waiting = this.#waiting.get(message.id);
    if (message.error === undefined) waiting?.resolve(message.value);
    else waiting?.reject(new PenstockError('io', message.error));
  }
}

export function describeExit({ code, signal }: WorkerExit): string {
  return signal === null ? `exit status ${code ?? 'unknown'}` : signal;
}
