/**
 * Changes in what the new pieces of a volume are stored. Pieces that there are stay as they are, and are read either way: a piece says itself
 * how it is stored (lib/volume/extents.ts).
 *
 * A volume that was ever compressed keeps format version 2, so that clients which know only 1 refuse it by name. Mounts take the format when
 * they begin, and one of an older Penstock would not hear of the change: so it is refused while the volume is mounted.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { changeFormat, COMPRESSED_VERSION } from '../../lib/volume/format.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { liveMounts, mountNames } from './tool.ts';

/** Throws `held` while the volume is mounted, `not-found`, `conflict`. */
export async function setCompression(
  engine: MetaEngine,
  volume: string,
  compression: VolumeFormat['compression'],
): Promise<VolumeFormat> {
  const mounts = await liveMounts(engine, volume);
  if (mounts.length > 0) {
    const text = `the compression of volume '${volume}' is changed while it is unmounted`;
    throw new PenstockError('held', `${text}; it is mounted at ${mountNames(mounts)}`);
  }
  return changeFormat(engine, volume, (format) => ({
    ...format,
    compression,
    version: compression === 'none' ? format.version : Math.max(format.version, COMPRESSED_VERSION),
  }));
}
