/**
 * Trees that no name leads to: a clone that is being made, a snapshot that is being removed. Record {v}c <root ino> says whose work it is;
 * when that session is over, gc removes the tree.  Value: the session's number, decimal.
 */
import type { MetaEngine } from '../meta/engine.ts';
import type { VolumeKeys } from './keys.ts';
import { scanBucket } from './references.ts';

export function encodeBuilder(sessionId: number): Buffer {
  return Buffer.from(String(sessionId));
}

/** The roots that nobody works on any more. */
export async function abandonedTrees(engine: MetaEngine, keys: VolumeKeys): Promise<number[]> {
  const trees = new Map<number, number>();
  for await (const [field, value] of scanBucket(engine, keys.buildings)) trees.set(Number(field), Number(value));
  // Asked after the scan: whoever began in between is not on the list.
  const live = new Set((await engine.sessions()).filter((session) => session.live).map(({ id }) => id));
  return [...trees].filter(([, session]) => !live.has(session)).map(([ino]) => ino);
}
