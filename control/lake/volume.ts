/** The volume of the pipeline: its format, what is in use, and who has it mounted. */
import type { MetaEngine, SessionInfo } from '../../lib/meta/engine.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { decodeLocks, type Lock } from '../../lib/volume/lock-record.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';

const PAGE = 500;

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

export interface LockOfFile extends Pick<Lock, 'kind' | 'type' | 'pid' | 'mount' | 'session'> {
  readonly inode: number;
  readonly start: string;
  readonly end: string;
  readonly waits: boolean;
}

/** Held and waited for. */
export async function readLocks(engine: MetaEngine, volume: string): Promise<LockOfFile[]> {
  const { locks: bucket } = new VolumeKeys(volume);
  const locks = new Map<number, LockOfFile[]>();
  for (let cursor: string | null = ''; cursor !== null;) {
    const page = await engine.scan(bucket, cursor, PAGE);
    for (const [field, { value }] of page.entries) {
      const inode = Number(field);
      const { held, waiting } = decodeLocks(value, inode);
      const shown =
        (waits: boolean) =>
        (lock: Lock): LockOfFile => {
          const { kind, type, pid, mount, session } = lock;
          return { inode, kind, type, waits, start: String(lock.start), end: String(lock.end), pid, mount, session };
        };
      // A scan may give a record twice: the later one is it.
      locks.set(inode, [...held.map(shown(false)), ...waiting.map(shown(true))]);
    }
    cursor = page.cursor;
  }
  return [...locks.values()].flat();
}

export async function describeVolume(engine: MetaEngine, volume: string): Promise<VolumeState> {
  const keys = new VolumeKeys(volume);
  const format = await readFormat(engine, volume);
  const [bytes, inodes] = await engine.readNumbers([keys.counter('bytes'), keys.counter('inodes')]);
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
    mounts: await liveMounts(engine, volume),
  };
}
