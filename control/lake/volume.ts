/** The volume of the pipeline: its format, what is in use, and who has it mounted. */
import type { MetaEngine, SessionInfo } from '../../lib/meta/engine.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';

export interface VolumeState {
  readonly name: string;
  readonly formatted: boolean;
  readonly store: string | null;
  readonly blockSize: number | null;
  readonly inlineBytes: number | null;
  readonly graceMs: number | null;
  readonly trashMs: number | null;
  readonly durability: string | null;
  readonly createdMs: number | null;
  readonly bytesUsed: number;
  readonly inodesUsed: number;
  readonly mounts: SessionInfo[];
}

export async function describeVolume(engine: MetaEngine, volume: string): Promise<VolumeState> {
  const keys = new VolumeKeys(volume);
  const format = await readFormat(engine, volume);
  const [bytes, inodes] = await engine.readNumbers([keys.counter('bytes'), keys.counter('inodes')]);
  const sessions = await engine.sessions();
  return {
    name: volume,
    formatted: format !== null,
    store: format?.store ?? null,
    blockSize: format?.blockSize ?? null,
    inlineBytes: format?.inlineBytes ?? null,
    graceMs: format?.graceMs ?? null,
    trashMs: format?.trashMs ?? null,
    durability: format?.durability ?? null,
    createdMs: format?.createdMs ?? null,
    bytesUsed: Number(bytes ?? 0n),
    inodesUsed: Number(inodes ?? 0n),
    mounts: sessions.filter(({ kind, live }) => kind === 'mount' && live),
  };
}
