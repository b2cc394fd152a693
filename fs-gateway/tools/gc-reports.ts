/** Removes what mounts reported that are no more. One that lives, and was taken for dead, reports again within a minute of use. */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { mountsAlive } from '../../lib/volume/orphan.ts';
import { scanBucket } from '../../lib/volume/references.ts';

export async function forgetReports(engine: MetaEngine, keys: VolumeKeys): Promise<void> {
  const alive = mountsAlive(await engine.sessions(), keys.volume);
  const gone: string[] = [];
  for await (const [mountId] of scanBucket(engine, keys.mountReports)) if (!alive.has(mountId)) gone.push(mountId);
  for (const field of gone)
    await engine.commit({ write: [{ key: { bucket: keys.mountReports, field }, value: null }] });
}
