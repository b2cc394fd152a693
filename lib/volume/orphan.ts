/**
 * Orphan record, {v}o <ino>: a file without a name that somebody may have open, as the ids of the mounts that still want it (latin1, one
 * a line): the one that took the last name away, for the grace period of an orphan, and every one that has it open. The inode has nlink 0.
 * Whoever takes the last id off removes the file's records.
 */
import type { SessionInfo } from '../meta/engine.ts';
import { isMountOf } from './mounts.ts';

/**
 * So long a mount that has the file open may take to hear of the unlink and enter itself: three leases, so that one that lost its
 * connection has it back or has lost its session.
 */
export const ORPHAN_GRACE_MS = 15_000;

export function encodeOrphan(mounts: readonly string[]): Buffer {
  return Buffer.from(mounts.join('\n'), 'latin1');
}

export function decodeOrphan(value: Buffer): string[] {
  return value
    .toString('latin1')
    .split('\n')
    .filter((mount) => mount !== '');
}

/** Ids of the volume's mounts that live, or lost their session so short a time ago that they may be about to renew it. */
export function mountsAlive(sessions: readonly SessionInfo[], volume: string): Set<string> {
  const newestMs = Math.max(0, ...sessions.map(({ renewedMs }) => renewedMs));
  const alive = sessions.filter(
    (session) => isMountOf(session, volume) && (session.live || session.renewedMs >= newestMs - ORPHAN_GRACE_MS),
  );
  return new Set(alive.map(({ detail }) => String(detail['mountId'])));
}
