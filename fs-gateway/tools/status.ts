/** What a volume is, how much of it is in use, and where it is mounted. */
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { ROOT_INO, VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeQuota } from '../../lib/volume/quota.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';
import { formatOf } from './tool.ts';

export interface VolumeStatus extends VolumeFormat {
  readonly usedBytes: number;
  readonly usedInodes: number;
  /** The quota of the whole volume; null: none. */
  readonly bytesMax: number | null;
  readonly inodesMax: number | null;
  readonly mounts: readonly StatusMount[];
}

interface StatusMount {
  readonly host: string;
  readonly mountpoint: string;
  /** Of its worker. */
  readonly pid: number;
  /** ISO 8601, by the engine's clock. */
  readonly since: string;
}

const NO_QUOTA = { bytesMax: null, inodesMax: null };

/** Throws `not-found`. */
export async function volumeStatus(engine: MetaEngine, volume: string): Promise<VolumeStatus> {
  const format = await formatOf(engine, volume);
  const keys = new VolumeKeys(volume);
  const [bytes, inodes] = await engine.readNumbers([keys.counter('bytes'), keys.counter('inodes')]);
  const [quota = null] = await engine.read([keys.quota(ROOT_INO)]);
  const { bytesMax, inodesMax } = quota === null ? NO_QUOTA : decodeQuota(quota.value, ROOT_INO);
  const mounts = (await liveMounts(engine, volume)).map(({ host, pid, startedMs, detail }) => ({
    ...{ host, mountpoint: String(detail['mountpoint'] ?? ''), pid },
    since: new Date(startedMs).toISOString(),
  }));
  return { ...format, usedBytes: Number(bytes ?? 0n), usedInodes: Number(inodes ?? 0n), bytesMax, inodesMax, mounts };
}
