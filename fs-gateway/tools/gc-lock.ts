/**
 * One gc of a volume at a time: another one would take away the notes that this one's walk needs. The lock is a record ({v}meta gc)
 * with the session that holds it; it falls with the session.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, Stored } from '../../lib/meta/engine.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';

export interface GcLock {
  /** Throws `fenced` when the record, as it is now, is not ours. */
  check(current: Stored | null): void;
  release(): Promise<void>;
}

/** Throws `held`. */
export async function holdLock(engine: MetaEngine, keys: VolumeKeys): Promise<GcLock> {
  const key = keys.gcLock;
  const [held] = await engine.read([key]);
  const holder = held === null || held === undefined ? undefined : Number(held.value.toString());
  if ((await engine.sessions()).some((session) => session.live && session.id === holder)) {
    throw new PenstockError('held', `a gc of volume '${keys.volume}' is running (session ${holder ?? 0})`);
  }
  const taken = await engine.commit({
    compare: [{ key, version: held?.version ?? null }],
    write: [{ key, value: Buffer.from(String(engine.sessionId)) }],
  });
  if (!taken.ok) throw new PenstockError('held', `a gc of volume '${keys.volume}' has just begun`);
  const { version } = taken;
  return {
    check(current) {
      if (current?.version === version && !engine.lost.aborted) return;
      throw new PenstockError('fenced', `this gc of volume '${keys.volume}' lost its lock; nothing more is deleted`);
    },
    async release() {
      // Without a session the lock has fallen, and no commit is possible.
      if (engine.lost.aborted) return;
      await engine.commit({ compare: [{ key, version }], write: [{ key, value: null }] });
    },
  };
}
