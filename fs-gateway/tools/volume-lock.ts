/**
 * Work on a volume that only one may do at a time: a gc (another one would take away the notes that this one's walk needs), a backup. The
 * lock is a record with the session that holds it; it falls with the session.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { Key, MetaEngine, Stored } from '../../lib/meta/engine.ts';

export interface VolumeLock {
  /** Throws `fenced` when the record, as it is now, is not ours. */
  check(current: Stored | null): void;
  release(): Promise<void>;
}

/** `what` is for people: "a gc of volume 'lake'". Throws `held`. */
export async function holdLock(engine: MetaEngine, key: Key, what: string): Promise<VolumeLock> {
  const [held] = await engine.read([key]);
  const holder = held === null || held === undefined ? undefined : Number(held.value.toString());
  if ((await engine.sessions()).some((session) => session.live && session.id === holder)) {
    throw new PenstockError('held', `${what} is running (session ${holder ?? 0})`);
  }
  const taken = await engine.commit({
    compare: [{ key, version: held?.version ?? null }],
    write: [{ key, value: Buffer.from(String(engine.sessionId)) }],
  });
  if (!taken.ok) throw new PenstockError('held', `${what} has just begun`);
  const { version } = taken;
  return {
    check(current) {
      if (current?.version === version && !engine.lost.aborted) return;
      throw new PenstockError('fenced', `${what} lost its lock; nothing more is done`);
    },
    async release() {
      // Without a session the lock has fallen, and no commit is possible.
      if (engine.lost.aborted) return;
      await engine.commit({ compare: [{ key, version }], write: [{ key, value: null }] });
    },
  };
}
