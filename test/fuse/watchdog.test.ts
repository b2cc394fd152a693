/** When a worker is taken to stand still, on a clock that the test moves. */
import { expect, onTestFinished, test, vi } from 'vitest';
import { watchForAnswers } from '../../fs-gateway/fuse/watchdog.ts';

function watched(ask: () => Promise<unknown>): { readonly still: () => number; readonly end: () => void } {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  let still = 0;
  const end = watchForAnswers(ask, 60_000, () => still++);
  onTestFinished(end);
  return { still: () => still, end };
}

test('one that answers, or whose question fails, is left alone; it is asked one question at a time', async () => {
  let asked = 0;
  const { still } = watched(() =>
    ++asked % 2 === 0 ? Promise.resolve() : Promise.reject(new Error('it did not serve')),
  );
  await vi.advanceTimersByTimeAsync(600_000);
  expect([still(), asked]).toEqual([0, 120]);
});

test('one that answers late, but within the time, is left alone', async () => {
  let asked = 0;
  const { still } = watched(() => new Promise((resolve) => setTimeout(resolve, 48_000, ++asked)));
  await vi.advanceTimersByTimeAsync(600_000);
  expect([still(), asked]).toEqual([0, 12]);
});

test('one that stops answering is told of once, and not before the time', async () => {
  let silent = false;
  const { still } = watched(() => (silent ? new Promise(() => undefined) : Promise.resolve()));
  await vi.advanceTimersByTimeAsync(300_000);
  silent = true;
  await vi.advanceTimersByTimeAsync(59_000);
  expect(still()).toBe(0);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(still()).toBe(1);
  await vi.advanceTimersByTimeAsync(600_000);
  expect(still()).toBe(1);
});

test('a watch that was ended says nothing', async () => {
  const { still, end } = watched(() => new Promise(() => undefined));
  end();
  await vi.advanceTimersByTimeAsync(600_000);
  expect(still()).toBe(0);
});
