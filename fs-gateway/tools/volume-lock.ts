/**
 * Work on a volume that only one may do at a time: a gc (another one would take away the notes that this one's walk needs), a backup. The
 * lock is a record with the session that holds it; it falls with the session.
 */
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { Key, MetaEngine, Stored } from '../../lib/meta/engine.ts';

export interface VolumeLock {
  /** Throws `fenced` when the record, as it is now, is not ours. */
  check(current: Stored | null): void;
  /** Asks the engine, which knows that the session is over before a process that was stopped does. Throws `fenced`. */
  assertHeld(): Promise<void>;
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
    whenFull: true,
  });
  if (!taken.ok) throw new PenstockError('held', `${what} has just begun`);
  const { version } = taken;
  const lost = (): PenstockError => new PenstockError('fenced', `${what} lost its lock; nothing more is done`);
  return {
    check(current) {
      if (current?.version !== version || engine.lost.aborted) throw lost();
    },
    async assertHeld() {
      if (!(await engine.commit({ compare: [{ key, version }] })).ok) throw lost();
    },
    async release() {
      try {
        await engine.commit({ compare: [{ key, version }], write: [{ key, value: null }] });
      } catch (error) {
        // Without a session the lock has fallen.
        if (!isCode(error, 'fenced')) throw error;
      }
    },
  };
}
