/**
 * Takes ids of a volume in blocks: one round trip for `count` of them. A block that is not used up leaves a gap, nothing more.
 *
 * Invariants: an id is given once, also when a failover, or a database that was restored, lost the counters' last steps: the epoch of the
 * engine that ids were last taken in is a record, every taking compares it, and the first one in another epoch skips IDS_SKIPPED ids.
 * What the lost commits named is still in kernels, caches and the store: an object that is written a second time would be read as the first.
 * Limits: a loss of more than IDS_SKIPPED ids (a million creates behind the replica) is not covered.
 */
import { PenstockError } from '../errors.ts';
import type { MetaEngine, Version } from '../meta/engine.ts';
import type { VolumeKeys } from './keys.ts';

const IDS_SKIPPED = 1n << 20n;
const ATTEMPTS_MAX = 16;

/** Of the record, by engine and volume: a session lives in one epoch. */
const known = new WeakMap<MetaEngine, Map<string, Version>>();

/** The first of `count` fresh ids. */
export async function takeIds(
  engine: MetaEngine,
  keys: VolumeKeys,
  counter: 'ino' | 'object',
  count: number,
): Promise<number> {
  const versions = known.get(engine) ?? new Map<string, Version>();
  known.set(engine, versions);
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const version = versions.get(keys.volume) ?? (await enterEpoch(engine, keys));
    if (version === null) continue;
    const result = await engine.commit({
      compare: [{ key: keys.idsEpoch, version }],
      patch: [{ number: keys.counter(counter), add: BigInt(count) }],
    });
    if (!result.ok) {
      versions.delete(keys.volume);
      continue;
    }
    versions.set(keys.volume, version);
    const [last] = result.numbers;
    if (last === null || last === undefined) throw new Error('a counter that was added to has a value');
    return Number(last) - count + 1;
  }
  throw new PenstockError('conflict', `the epoch of the ids of volume '${keys.volume}' changed ${ATTEMPTS_MAX} times`);
}

/** The version of the record that names this engine's epoch; null when somebody else has just written it. */
async function enterEpoch(engine: MetaEngine, keys: VolumeKeys): Promise<Version | null> {
  const key = keys.idsEpoch;
  const [stored] = await engine.read([key]);
  if (stored?.value.toString() === engine.epoch) return stored.version;
  const skip = (['ino', 'object'] as const).map((name) => ({ number: keys.counter(name), add: IDS_SKIPPED }));
  const result = await engine.commit({
    compare: [{ key, version: stored?.version ?? null }],
    write: [{ key, value: Buffer.from(engine.epoch) }],
    // Without a record no id was taken yet.
    patch: stored === null || stored === undefined ? [] : skip,
  });
  return result.ok ? result.version : null;
}
