/**
 * What a volume needs now and then: a backup of its metadata every `backup`, a gc every `gc` (options of the volume). Every mount looks
 * whether something is due; the one that gets the lock does it. When it was done last is told by what it left in the store, so nobody has
 * to remember.
 *
 * Failure: killed at any point, the lock falls with the session, and another mount does it when it looks.
 * Limits: a backup begins no sooner than DUTY times after the last one as it took.
 */
import type { Clock } from '../../lib/clock.ts';
import { describeError, isCode } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { expireBackups, listBackups, lockBackups, writeBackup } from './backup.ts';
import { clockKey, collectGarbage } from './gc.ts';
import { formatOf } from './tool.ts';

const DUTY = 20;

export interface MaintenanceOptions {
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly volume: string;
  readonly clock: Clock;
  readonly directory: string;
  readonly report: (message: string) => void;
}

export interface Maintained {
  readonly backups: number;
  readonly collections: number;
}

/** Does what is due and nobody else does. A part that fails is reported, and due again. */
export async function maintain(options: MaintenanceOptions): Promise<Maintained> {
  const format = await formatOf(options.engine, options.volume);
  const backups = await attempt(options, 'backup', () => backUp(options, format));
  const collections = await attempt(options, 'gc', () => collect(options, format));
  return { backups, collections };
}

async function attempt(
  { volume, report }: MaintenanceOptions,
  what: string,
  run: () => Promise<number>,
): Promise<number> {
  try {
    return await run();
  } catch (error) {
    // Another one does it.
    if (!isCode(error, 'held')) report(`${what} of volume '${volume}' failed: ${describeError(error)}`);
    return 0;
  }
}

async function isBackupDue({ store, clock }: MaintenanceOptions, format: VolumeFormat): Promise<boolean> {
  if (format.backupMs === 0) return false;
  const last = (await listBackups(store, format)).at(-1);
  if (last === undefined) return true;
  const tookMs = Math.max(0, last.writtenMs - last.startedMs);
  return clock.nowMs() >= last.startedMs + Math.max(format.backupMs, DUTY * tookMs);
}

async function backUp(options: MaintenanceOptions, format: VolumeFormat): Promise<number> {
  if (!(await isBackupDue(options, format))) return 0;
  const { store, clock, report } = options;
  return lockBackups(options, async (lock) => {
    if (!(await isBackupDue(options, format))) return 0;
    const { key, bytes, consistent } = await writeBackup(options, lock);
    report(`backup of the metadata: ${store.location(key)}, ${bytes} bytes${consistent ? '' : ', not of one instant'}`);
    await expireBackups(store, format, clock.nowMs());
    return 1;
  });
}

async function collect(options: MaintenanceOptions, format: VolumeFormat): Promise<number> {
  const { engine, store, volume, clock, report } = options;
  if (format.gcMs === 0) return 0;
  const last = await store.head(clockKey(format.id));
  if (last !== null && clock.nowMs() < last.modifiedMs + format.gcMs) return 0;
  const { deletedObjects, deletedBytes, waitingObjects, abandonedBackups, problem } = await collectGarbage({
    engine,
    store,
    volume,
    clock,
  });
  const left = abandonedBackups === 0 ? '' : `; ${abandonedBackups} backups that were never finished are void`;
  const failed = problem === null ? '' : `; ${problem}`;
  report(`gc: ${deletedObjects} objects (${deletedBytes} bytes) deleted, ${waitingObjects} wait${left}${failed}`);
  return 1;
}
