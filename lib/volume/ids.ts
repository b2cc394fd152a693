/** Takes ids of a volume in blocks: one round trip for `count` of them. A block that is not used up leaves a gap, nothing more. */
import type { MetaEngine } from '../meta/engine.ts';
import type { VolumeKeys } from './keys.ts';

/** The first of `count` fresh ids. */
export async function takeIds(
  engine: MetaEngine,
  keys: VolumeKeys,
  counter: 'ino' | 'object',
  count: number,
): Promise<number> {
  const result = await engine.commit({ patch: [{ number: keys.counter(counter), add: BigInt(count) }] });
  const last = result.ok ? result.numbers[0] : null;
  if (last === null || last === undefined) throw new Error('a commit without compares failed');
  return Number(last) - count + 1;
}
