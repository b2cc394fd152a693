/** Kills processes in the middle of their commits, and looks at what is left. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { expect, onTestFinished } from 'vitest';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { NUMBERS, key, readNumber, scanAll } from './meta-helpers.ts';
import { until } from './redis.ts';

const WORKER = new URL('meta-worker.ts', import.meta.url).pathname;

export class Worker {
  readonly name: string;
  readonly acknowledged: number[] = [];
  sessionId = 0;
  readonly #child: ChildProcess;

  constructor(url: string, name: string) {
    this.name = name;
    const child = spawn(process.execPath, [WORKER, url, name], { stdio: ['ignore', 'pipe', 'ignore'] });
    this.#child = child;
    onTestFinished(() => this.end());
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (this.sessionId === 0) this.sessionId = Number(line);
      else this.acknowledged.push(Number(line));
    });
  }

  async hasCommitted(count: number): Promise<void> {
    await until(() => {
      if (this.#child.exitCode !== null) throw new Error(`the worker ${this.name} ended by itself`);
      return this.acknowledged.length >= count;
    });
  }

  /** Resolves when the process is gone and all that it printed was read. */
  async end(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const closed = once(this.#child, 'close');
    this.#child.kill(signal);
    await closed;
  }
}

/** Acknowledged commits are there, and every commit is there whole or not at all. */
export async function expectWhole(engine: MetaEngine, workers: readonly Worker[]): Promise<void> {
  const one = await scanAll(engine, '{v}one', 1000);
  const two = await scanAll(engine, '{v}two', 1000);
  const missing = workers.flatMap(({ name, acknowledged }) =>
    acknowledged.map((n) => `${name}-${n}`).filter((field) => !one.has(field)),
  );
  expect(missing).toEqual([]);
  expect([...two.keys()].sort()).toEqual([...one.keys()].sort());
  expect(await readNumber(engine, key('commits', NUMBERS))).toBe(BigInt(one.size));
}
