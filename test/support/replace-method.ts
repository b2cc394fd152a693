import { onTestFinished } from 'vitest';

/**
 * Replaces a method of a class until the test ends, or what it returns is called. Not by vi.spyOn, which waits for the promises that it sees.
 */
export function replaceMethod<T extends object, K extends keyof T>(
  prototype: T,
  name: K,
  by: (original: T[K]) => T[K],
): () => void {
  const own = Object.getOwnPropertyDescriptor(prototype, name) ?? {};
  const restore = (): void => void Object.defineProperty(prototype, name, own);
  onTestFinished(restore);
  Object.defineProperty(prototype, name, { ...own, value: by(prototype[name]) });
  return restore;
}
