/** Workers (loader-worker.ts) that a benchmark has read or write files at once: processes, as those of a data loader are. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Job, Part } from './loader-worker.ts';

export const whole = (path: string): Part => ({ path, offset: 0, bytes: 0 });

export function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

/** Reads, dealt out to so many workers. */
export function deal(workers: number, parts: readonly Part[]): Job[] {
  return Array.from({ length: workers }, (_, n) => ({
    kind: 'read' as const,
    parts: parts.filter((_part, i) => i % workers === n),
  }));
}

interface Member {
  readonly child: ChildProcess;
  /** Rejects when it ends before the bench does. */
  readonly ended: Promise<never>;
}

const crew: Member[] = [];

/** Bytes and seconds of all workers together, from their start signal to the last one's end. */
export async function work(
  root: string,
  jobs: readonly Job[],
): Promise<{ readonly bytes: number; readonly seconds: number }> {
  while (crew.length < jobs.length) {
    const child = fork(join(import.meta.dirname, 'loader-worker.ts'));
    const ended = once(child, 'exit').then(() => Promise.reject(new Error('a worker of the bench ended')));
    ended.catch(() => undefined); // At the end of the bench it is meant to.
    await Promise.race([once(child, 'message'), ended]);
    crew.push({ child, ended });
  }
  const startMs = performance.now();
  const answers = jobs.map(async ({ kind, parts }, n) => {
    const member = crew[n];
    if (member === undefined) throw new Error('a worker is missing');
    const { child, ended } = member;
    child.send({ kind, parts: parts.map((part) => ({ ...part, path: join(root, part.path) })) } satisfies Job);
    const [{ bytes }] = (await Promise.race([once(child, 'message'), ended])) as [{ bytes: number }]; // loader-worker.ts
    return bytes;
  });
  const bytes = (await Promise.all(answers)).reduce((a, b) => a + b, 0);
  return { bytes, seconds: (performance.now() - startMs) / 1000 };
}

/** Ends them all. */
export function dismiss(): void {
  for (const { child } of crew.splice(0)) child.disconnect();
}
