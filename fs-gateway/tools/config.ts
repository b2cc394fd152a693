/**
 * Changes the options of a volume that there is (lib/volume/format.ts).
 *
 * What the tools and the maintenance go by (`grace`, `gc`, `backup`, `backupKeep`) holds from their next run on. Mounts take the format when
 * their worker begins: for `trash`, `inlineBytes` and `durability` they go on as they are until `fs upgrade` or the next mount, and the report
 * names them. Each of these may differ between mounts without harm.
 * Only of an unmounted volume are changed
 * - `compression`: a mount of an older Penstock would meet pieces that it cannot read. Pieces that there are stay as they are, and say
 *   themselves how they are stored; a volume that was ever compressed keeps format version 2, so that clients which know only 1 refuse it by name.
 * - `grace` to a shorter one: an upload that has begun counts on the grace period as it was.
 * `blockSize` stays: how a file is cut decides which of its blocks a write replaces, and mounts that cut differently would tear each other's
 * blocks into fragments.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { changeFormat, COMPRESSED_VERSION } from '../../lib/volume/format.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';
import { formatOf, mountNames } from './tool.ts';

const OF_MOUNTS = ['trashMs', 'inlineBytes', 'durability'] as const;

export interface ConfigReport extends VolumeFormat {
  /** Mounts that go on with what was changed as it was, until `fs upgrade` or the next mount; empty: none, or they need not know. */
  readonly outdatedMounts: readonly string[];
}

/** Throws `held` for what is changed only while the volume is unmounted, `config` for what cannot be changed, `not-found`, `conflict`. */
export async function configureVolume(
  engine: MetaEngine,
  volume: string,
  options: Partial<VolumeFormat>,
): Promise<ConfigReport> {
  const before = await formatOf(engine, volume);
  if (options.blockSize !== undefined && options.blockSize !== before.blockSize) {
    const text = `blockSize of volume '${volume}' is ${before.blockSize} for its life, because its files are cut by it`;
    throw new PenstockError('config', `${text}: make another volume, and copy`);
  }
  const mounts = await liveMounts(engine, volume);
  const unmountedOnly = neededUnmounted(before, options);
  if (unmountedOnly !== undefined && mounts.length > 0) {
    const text = `${unmountedOnly} of volume '${volume}' is changed while it is unmounted`;
    throw new PenstockError('held', `${text}; it is mounted at ${mountNames(mounts)}`);
  }
  if (Object.keys(options).length === 0) return { ...before, outdatedMounts: [] };
  const changed = await changeFormat(engine, volume, (format) => {
    const { compression = format.compression } = options;
    const version = compression === 'none' ? format.version : Math.max(format.version, COMPRESSED_VERSION);
    return { ...format, ...options, version };
  });
  const outdated = OF_MOUNTS.some((key) => changed[key] !== before[key]);
  return { ...changed, outdatedMounts: outdated ? mounts.map((mount) => mountNames([mount])) : [] };
}

function neededUnmounted(before: VolumeFormat, options: Partial<VolumeFormat>): string | undefined {
  const { compression, graceMs = before.graceMs } = options;
  if (compression !== undefined) return 'the compression';
  return graceMs < before.graceMs ? 'the grace period, to a shorter one,' : undefined;
}
