/**
 * A WebAssembly module: its file, and calls into it, each bounded in time.
 *
 * Failure: a call that takes too long, traps or runs out of memory gives the reason; the next one has a new instance, and a new thread where
 * the old one had to be ended.
 * Limits: `memoryBytes` by the module itself (binary.ts), OWN_MEMORY_MB for what else its thread holds, `timeoutMs` by the wall clock
 * for each call.
 */
import { readFile } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describeError, PenstockError } from '../../../lib/errors.ts';
import { withMemoryMax } from './binary.ts';
import { EXPORTS } from './guest.ts';
import type { Call, Result, ThreadData } from './wasm-thread.ts';

const MODULE_BYTES_MAX = 64 * 1024 * 1024;
/** JavaScript of the thread, and what a module makes outside its memory (garbage-collected objects). */
const OWN_MEMORY_MB = 64;
const REQUIRED = ['memory', 'abi', 'alloc', 'process'] as const;

export interface WasmOptions {
  readonly module: string;
  readonly memoryBytes: number;
  readonly timeoutMs: number;
  readonly stateBytesMax: number;
  readonly config: unknown;
}

export class WasmModule {
  readonly #data: ThreadData;
  readonly #timeoutMs: number;
  #thread: Worker | undefined;

  private constructor(data: ThreadData, timeoutMs: number) {
    this.#data = data;
    this.#timeoutMs = timeoutMs;
  }

  /** Reads, compiles and starts it once. Throws `config` with what is wrong with the file or what it makes of its configuration. */
  static async open(options: WasmOptions, baseDir: string): Promise<WasmModule> {
    const { memoryBytes, stateBytesMax, timeoutMs } = options;
    const path = resolve(baseDir, options.module);
    const module = await compiled(path, memoryBytes);
    const config = options.config === undefined ? null : JSON.stringify(options.config);
    const problem = problemOf(module, config);
    if (problem !== null) throw new PenstockError('config', `${path} ${problem}`);
    const opened = new WasmModule({ module, config, stateBytesMax }, timeoutMs);
    const result = await opened.call({ input: null, count: 0, state: null });
    if (!('failed' in result)) return opened;
    await opened.close();
    throw new PenstockError('config', `${path}: ${result.failed}`);
  }

  /** One call at a time. Throws `unavailable` when the machine has no thread for it. */
  async call(call: Call): Promise<Result> {
    const thread = (this.#thread ??= await this.#start());
    const answered = Promise.withResolvers<Result>();
    const timer = setTimeout(() => {
      answered.resolve({ failed: `the module took longer than ${this.#timeoutMs} ms (timeout)` });
      this.#forget(thread);
    }, this.#timeoutMs);
    const onError = (error: Error): void => answered.resolve({ failed: `the module failed: ${describeError(error)}` });
    const onExit = (): void => answered.resolve({ failed: 'the thread of the module has ended' });
    thread.once('message', answered.resolve);
    thread.once('error', onError);
    thread.once('exit', onExit);
    try {
      thread.postMessage(call, call.input === null ? [] : [call.input.buffer as ArrayBuffer]); // its own, see encodeInput
      return await answered.promise;
    } finally {
      clearTimeout(timer);
      thread.off('message', answered.resolve);
      thread.off('error', onError);
      thread.off('exit', onExit);
    }
  }

  async close(): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    await thread?.terminate();
  }

  /** Its start is no time of the module. */
  async #start(): Promise<Worker> {
    const thread = new Worker(new URL(`./wasm-thread${extname(import.meta.filename)}`, import.meta.url), {
      workerData: this.#data,
      resourceLimits: { maxOldGenerationSizeMb: OWN_MEMORY_MB },
      env: {},
    });
    // Whatever ends it, also between two calls.
    thread.on('error', () => this.#forget(thread));
    thread.on('exit', () => this.#forget(thread));
    await new Promise<void>((done, reject) => {
      const fail = (cause: unknown): void =>
        reject(new PenstockError('unavailable', 'cannot start a thread for the module', { cause }));
      thread.once('message', () => done());
      thread.once('error', fail);
      thread.once('exit', fail);
    });
    return thread;
  }

  #forget(thread: Worker): void {
    if (this.#thread === thread) this.#thread = undefined;
    void thread.terminate();
  }
}

async function compiled(path: string, memoryBytes: number): Promise<WebAssembly.Module> {
  try {
    const bytes = await readFile(path);
    if (bytes.length > MODULE_BYTES_MAX) throw new PenstockError('config', `has ${bytes.length} bytes, at most ${MODULE_BYTES_MAX} are taken`); // prettier-ignore
    return await WebAssembly.compile(withMemoryMax(bytes, memoryBytes));
  } catch (error) {
    const why = error instanceof PenstockError ? error.message : `cannot be read or compiled: ${describeError(error)}`;
    throw new PenstockError('config', `${path} ${why}`, { cause: error });
  }
}

/** What it lacks or wants, or null. */
function problemOf(module: WebAssembly.Module, config: string | null): string | null {
  const [wanted] = WebAssembly.Module.imports(module);
  if (wanted !== undefined) {
    const name = `${wanted.module}.${wanted.name}`;
    return `imports ${name}: a module gets nothing from the agent (AssemblyScript: --use abort=, Rust: wasm32-unknown-unknown)`;
  }
  const exported = new Map(WebAssembly.Module.exports(module).map(({ name, kind }) => [name, kind]));
  const has = (key: keyof typeof EXPORTS): boolean =>
    exported.get(EXPORTS[key]) === (key === 'memory' ? 'memory' : 'function');
  const missing = REQUIRED.filter((key) => !has(key)).map((key) => EXPORTS[key]);
  if (missing.length > 0) return `does not export ${missing.join(', ')} (docs/WASM.md)`;
  if (config !== null && !has('init')) return `takes no \`config\`: it exports no ${EXPORTS.init}`;
  if (has('save') !== has('restore'))
    return `exports one of ${EXPORTS.save} and ${EXPORTS.restore}: expected both, or none`;
  return null;
}
