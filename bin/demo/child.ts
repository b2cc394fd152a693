/**
 * A program of the demo as a child process: started again when it dies (a kill -9 included), its progress received over IPC, ended by
 * SIGTERM. The child ends by itself when the demo is gone (`untilSignal` in bin/output.ts).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream, type WriteStream } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { PenstockError } from '../../lib/errors.ts';

/** Restarts in a row, without a minute of life between them, after which the demo gives up and says why. */
const RESTARTS_MAX = 20;

export class DemoChild {
  readonly name: string;
  /** The last progress message of the process that runs now; undefined until the first. */
  status: Readonly<Record<string, unknown>> | undefined;
  restarts = 0;
  readonly #args: readonly string[];
  readonly #restart: boolean;
  readonly #log: WriteStream;
  #process: ChildProcess | undefined;
  #stopping = false;
  #exited: Promise<number | null> = Promise.resolve(0);
  #tail = '';
  #failed: (error: Error) => void;
  /** Rejects when the child keeps dying. */
  readonly failure: Promise<never>;

  constructor(
    name: string,
    args: readonly string[],
    logPath: string,
    options: { readonly restart: boolean } = { restart: true },
  ) {
    this.name = name;
    this.#args = args;
    this.#restart = options.restart;
    this.#log = createWriteStream(logPath, { flags: 'a' });
    // A full disk costs the log of a child, not the demo.
    this.#log.on('error', () => undefined);
    let failed: (error: Error) => void = () => undefined;
    this.failure = new Promise<never>((_resolve, reject) => (failed = reject));
    this.failure.catch(() => undefined);
    this.#failed = failed;
  }

  /** Resolves when the process that runs now has exited. */
  get ended(): Promise<number | null> {
    return this.#exited;
  }

  start(): void {
    const child = spawn(process.execPath, [...process.execArgv, process.argv[1] ?? '', ...this.#args], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      // A process group of its own: Ctrl-C in the terminal reaches the head alone, which ends its children in order.
      detached: true,
    });
    this.#process = child;
    this.status = undefined;
    const started = performance.now();
    const keep = (text: Buffer): void => {
      this.#log.write(text);
      this.#tail = (this.#tail + text.toString('utf8')).slice(-2000);
    };
    child.stdout?.on('data', keep);
    child.stderr?.on('data', keep);
    child.on('message', (message) => {
      if (typeof message === 'object') this.status = message as unknown as Record<string, unknown>;
    });
    child.on('error', (error) => this.#failed(error));
    this.#exited = new Promise((resolve) => child.once('exit', (code) => resolve(code)));
    child.once('exit', (code, signal) => void this.#onExit(code, signal, performance.now() - started));
  }

  async #onExit(code: number | null, signal: NodeJS.Signals | null, livedMs: number): Promise<void> {
    if (this.#stopping || !this.#restart) return;
    this.#log.write(`[${this.name} ended: ${signal ?? `status ${code ?? '?'}`}; starting it again]\n`);
    this.restarts = livedMs > 60_000 ? 1 : this.restarts + 1;
    if (this.restarts > RESTARTS_MAX || code === 2) {
      this.#failed(
        new PenstockError(
          'unavailable',
          `the ${this.name} keeps ending: ${this.#tail.trim().split('\n').slice(-3).join(' | ')}`,
        ),
      );
      return;
    }
    await delay(Math.min(200 * this.restarts, 3000));
    // The flag may have been set while this waited.
    if (!(this.#stopping as boolean)) this.start();
  }

  /** SIGTERM, then waits; after `deadlineMs` SIGKILL. Resolves to the exit status (null: by signal). */
  async stop(deadlineMs: number): Promise<number | null> {
    this.#stopping = true;
    const child = this.#process;
    if (child === undefined) return 0;
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs);
    const code = await this.#exited;
    clearTimeout(timer);
    this.#log.end();
    return code;
  }
}
