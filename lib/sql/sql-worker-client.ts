/**
 * SqlWorker: a DuckDB in a child process, so that a query that needs too much memory, crashes or must stop at once takes nothing
 * else with it.
 *
 * Invariants: the child is dead when `close` returns; it never outlives this process (sql-worker.ts).
 * Failure: when the child dies, every open request fails with `unavailable` and the worker is of no more use; files that a
 * COPY was writing may be half there: they are in the caller's scratch directory and nothing refers to them.
 * Limits: the memory limit is DuckDB's own; the child has 100 MB beside it from the start, and up to 200 after many large statements.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { PenstockError } from '../errors.ts';
import type { DuckDbOptions, Row, Selected, SelectLimits } from './duckdb.ts';
import type { WorkerReply, WorkerRequest } from './worker-protocol.ts';

interface Pending {
  resolve(reply: WorkerReply): void;
  reject(error: PenstockError): void;
}

/** `Omit` over each member of a union. */
type WithoutId<T> = T extends unknown ? Omit<T, 'id'> : never;

/** Enough to read a crash by; DuckDB prints nothing in good times. */
const STDERR_CHARS_MAX = 4096;

export class SqlWorker {
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, Pending>();
  readonly #exited: Promise<unknown>;
  #nextId = 1;
  #cpuMicros = 0;
  #rssBytes = 0;
  #stderr = '';
  #ended: PenstockError | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#exited = once(child, 'exit');
    child.on('message', (reply: WorkerReply) => this.#settle(reply));
    child.on('exit', (code, signal) => this.#fail(`ended with ${signal ?? `status ${code ?? '?'}`}`));
    child.on('error', (error) => this.#fail(error.message));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_CHARS_MAX);
    });
  }

  /** `signal` ends the start, not what comes after it. */
  static async start(options: DuckDbOptions, signal?: AbortSignal): Promise<SqlWorker> {
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
    const module = fileURLToPath(new URL(`./sql-worker.${extension}`, import.meta.url));
    const child = fork(module, [], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [],
      // glibc keeps freed memory in an arena for each thread that ever allocated: a fifth of what a worker held after many statements.
      env: { ...process.env, MALLOC_ARENA_MAX: '1' },
    });
    const worker = new SqlWorker(child);
    const stop = (): void => void worker.close();
    signal?.addEventListener('abort', stop);
    try {
      await worker.#request({ kind: 'open', options });
    } catch (error) {
      await worker.close();
      throw error;
    } finally {
      signal?.removeEventListener('abort', stop);
    }
    return worker;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** CPU seconds that the child has used, as of its last answer. */
  get cpuSeconds(): number {
    return this.#cpuMicros / 1e6;
  }

  /** Resident memory of the child, as of its last answer. */
  get rssBytes(): number {
    return this.#rssBytes;
  }

  /** Answers the number of rows changed or copied. Throws `full`, `corrupt`, `aborted`, `unavailable` (the child died), `io`. */
  async run(sql: string): Promise<number> {
    return (await this.#request({ kind: 'run', sql })).rowsChanged ?? 0;
  }

  /** For small answers: they are held whole on both sides. */
  async query(sql: string): Promise<readonly Row[]> {
    return (await this.#request({ kind: 'query', sql })).rows ?? [];
  }

  /** See `DuckDb.lockDown`. */
  async lockDown(paths: readonly string[]): Promise<void> {
    await this.#request({ kind: 'lock-down', paths });
  }

  /** See `DuckDb.select`. */
  async select(sql: string, limits: SelectLimits): Promise<Selected> {
    const { selected } = await this.#request({ kind: 'select', sql, limits });
    if (selected === undefined) throw new PenstockError('io', 'the SQL worker gave no answer to a SELECT');
    return selected;
  }

  /** Kills the child, whatever it is doing. */
  async close(): Promise<void> {
    this.#fail('was closed');
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await this.#exited;
  }

  #request(request: WithoutId<WorkerRequest>): Promise<WorkerReply> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#child.send({ ...request, id }, (error) => {
        if (error !== null) this.#fail(error.message);
      });
    });
  }

  #settle(reply: WorkerReply): void {
    this.#cpuMicros = reply.cpuMicros;
    this.#rssBytes = reply.rssBytes;
    const pending = this.#pending.get(reply.id);
    this.#pending.delete(reply.id);
    if (reply.error === undefined) pending?.resolve(reply);
    else pending?.reject(new PenstockError(reply.error.code, reply.error.message));
  }

  #fail(why: string): void {
    const detail = this.#stderr === '' ? '' : `: ${this.#stderr.trim()}`;
    this.#ended ??= new PenstockError('unavailable', `the SQL worker ${why}${detail}`, { retryable: false });
    for (const pending of this.#pending.values()) pending.reject(this.#ended);
    this.#pending.clear();
  }
}
