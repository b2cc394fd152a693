/** Who has a volume mounted. */
import type { MetaEngine, SessionInfo } from '../meta/engine.ts';

/** Whether the session, live or not, is of a mount of the volume. One that does not say its volume may be of this one. */
export function isMountOf({ kind, detail }: SessionInfo, volume: string): boolean {
  return kind === 'mount' && (detail['volume'] ?? volume) === volume;
}

/** The mounts of a volume that have a live session. */
export async function liveMounts(engine: MetaEngine, volume: string): Promise<SessionInfo[]> {
  const sessions = await engine.sessions();
  return sessions.filter((session) => session.live && isMountOf(session, volume));
}
