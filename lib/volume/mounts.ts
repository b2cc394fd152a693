/** Who has a volume mounted. */
import type { MetaEngine, SessionInfo } from '../meta/engine.ts';

/** The mounts of a volume that have a live session. One that does not say its volume may be of this one. */
export async function liveMounts(engine: MetaEngine, volume: string): Promise<SessionInfo[]> {
  const sessions = await engine.sessions();
  return sessions.filter(
    ({ live, kind, detail }) => live && kind === 'mount' && (detail['volume'] ?? volume) === volume,
  );
}
