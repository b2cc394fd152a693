/**
 * Orphans that nobody comes back for: the mounts that want them have had no session for a while, and the file was removed before the grace
 * period. Both because a mount may have the file open and have lost its session for a moment, or not have heard yet of the removal.
 */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { decodeInode } from '../../lib/volume/inode.ts';
import { decodeOrphan, mountsAlive, ORPHAN_GRACE_MS } from '../../lib/volume/orphan.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { scanBucket } from '../../lib/volume/references.ts';

const PORTION = 500;

/** Throws `corrupt`. */
export async function expiredOrphans(
  engine: MetaEngine,
  keys: VolumeKeys,
  nowMs: number,
  graceMs: number,
): Promise<number[]> {
  const mounts = mountsAlive(await engine.sessions(), keys.volume);
  // While nothing is mounted, nobody can have it open.
  const removedBeforeMs = nowMs - (mounts.size === 0 ? graceMs : Math.max(graceMs, ORPHAN_GRACE_MS));
  const left = new Set<number>();
  for await (const [field, owner] of scanBucket(engine, keys.orphans)) {
    if (!decodeOrphan(owner).some((mount) => mounts.has(mount))) left.add(Number(field));
  }
  const expired: number[] = [];
  const inos = [...left];
  for (let at = 0; at < inos.length; at += PORTION) {
    const portion = inos.slice(at, at + PORTION);
    const records = await engine.read(portion.map((ino) => keys.inode(ino)));
    for (const [index, ino] of portion.entries()) {
      const record = records[index] ?? null;
      // Unlinking sets the ctime. Without an inode only the orphan record is left to remove.
      const removedMs = record === null ? 0 : Number(decodeInode(record.value, ino).ctimeNs / 1_000_000n);
      if (removedMs <= removedBeforeMs) expired.push(ino);
    }
  }
  return expired;
}
