/**
 * Time that passes with the turns of the event loop: a millisecond a turn at most, and never faster than it does. So a timeout in this process
 * cannot overtake what the other end, in this process or the kernel, has sent already, however long the machine stands still.
 */
import { onTestFinished, vi } from 'vitest';

const { setTimeout: realTimeout } = globalThis;

/** Timers of JavaScript run so from here on, until the promise is settled. Node's own, of sockets and servers, are as ever. */
export async function inTurns<T>(act: () => Promise<T>): Promise<T> {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
  let isOver = false;
  const acting = act().finally(() => (isOver = true));
  acting.catch(() => undefined); // Awaited below.
  while (!isOver) {
    await new Promise((resolve) => realTimeout(resolve, 1));
    vi.advanceTimersByTime(1);
  }
  vi.useRealTimers();
  return acting;
}
