/** What the volume tools share: what they are given, and how they tell how far they are. */
import { PenstockError, type ErrorCode } from '../../lib/errors.ts';
import type { MetaEngine, SessionInfo } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { readFormat } from '../../lib/volume/format.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { Errno, PosixError } from '../vfs/operations.ts';

/** What the file system refuses a program by number is told to whoever asked a tool for it; everything else is as it was thrown. */
export function toolError(error: unknown): unknown {
  if (!(error instanceof PosixError)) return error;
  const code = new Map<number, ErrorCode>([
    [Errno.ENOENT, 'not-found'],
    [Errno.EEXIST, 'exists'],
    [Errno.EDQUOT, 'quota'],
    [Errno.EROFS, 'denied'],
    [Errno.EPERM, 'denied'],
    [Errno.ENOTDIR, 'usage'],
    [Errno.EINVAL, 'usage'],
    [Errno.ENAMETOOLONG, 'usage'],
  ]).get(error.errno);
  return new PenstockError(code ?? 'io', error.message, { cause: error });
}

/** Called often; whoever shows it decides how often it does. What it throws ends the work, and what is left of that is as after a kill. */
export type Progress = (phase: string, done: number) => void;

/** Throws `not-found` when the volume was never formatted. */
export async function formatOf(engine: MetaEngine, volume: string): Promise<VolumeFormat> {
  const format = await readFormat(engine, volume);
  if (format === null)
    throw new PenstockError('not-found', `volume '${volume}' is not formatted: run penstock fs format`);
  return format;
}

export function mountNames(mounts: readonly SessionInfo[]): string {
  return mounts.map(({ host, detail }) => `${host}:${String(detail['mountpoint'])}`).join(', ');
}

/** The store's time, asked by writing an object. (S3's times are whole seconds, rounded down, and so is what is asked here.) */
export async function storeTimeMs(store: ObjectStore, key: string, nowMs: number): Promise<number> {
  await store.put(key, Buffer.from('written by penstock to learn the time of the store\n'));
  const written = await store.head(key);
  return written?.modifiedMs ?? nowMs;
}

/**
 * The earlier of this machine's and the store's time. Objects have the store's times: on a machine whose clock is ahead, young ones would
 * look old.
 */
export async function storeNowMs(store: ObjectStore, key: string, nowMs: number): Promise<number> {
  return Math.min(nowMs, await storeTimeMs(store, key, nowMs));
}
