/** What `agent top` and `fs stats --watch` share: a look once a second, drawn over the one before in a terminal. */
import { setTimeout as delay } from 'node:timers/promises';
import { untilSignal } from './output.ts';

const EVERY_MS = 1000;
const CLEAR_SCREEN = '\x1b[H\x1b[2J';

/** A look at a running program, and when it was. */
export interface Timed<T> {
  readonly value: T;
  /** Monotonic. */
  readonly atMs: number;
}

export interface WatchOptions<T> {
  readonly look: () => Promise<T>;
  readonly show: (before: Timed<T>, now: Timed<T>) => string;
  /** Ends behind the first one. */
  readonly once?: true | undefined;
  readonly json?: true | undefined;
}

/** Until SIGTERM or Ctrl-C. Rejects as `look` does. */
export async function watch<T>({ look, show, once, json }: WatchOptions<T>): Promise<void> {
  const signal = untilSignal();
  const timed = async (): Promise<Timed<T>> => ({ value: await look(), atMs: performance.now() });
  const clear = once !== true && json !== true && process.stdout.isTTY ? CLEAR_SCREEN : '';
  for (let before = await timed(); ;) {
    await delay(EVERY_MS, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    const now = await timed();
    process.stdout.write(`${clear}${show(before, now)}`);
    if (once === true) return;
    before = now;
  }
}

export function secondsBetween<T>(before: Timed<T>, now: Timed<T>): number {
  return Math.max(0.001, (now.atMs - before.atMs) / 1000);
}

/** How much a counter moved in each second between two looks; 0 when it began anew meanwhile. */
export function perSecond<T>(before: Timed<T>, now: Timed<T>, count: (of: T) => number | undefined): number {
  return Math.max(0, (count(now.value) ?? 0) - (count(before.value) ?? 0)) / secondsBetween(before, now);
}
