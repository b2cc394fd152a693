/**
 * The end of replaced files: after the grace period their snapshots expire, their names leave the volume's listings, and only then
 * are the objects deleted that nothing refers to any more. Also removes what killed runs left in the store.
 *
 * Invariants: an object is deleted only when neither a snapshot of the table nor the volume, nor a backup of the volume's metadata, refers to
 * it, and it is older than the grace (see lib/table/maintenance.ts, which reads the table anew before every batch). While the clocks of this
 * machine and of the metadata engine are apart nothing is removed (engine-clock.ts). A clock that both go by (SQLite, or a Redis on this
 * machine) and that is set forward is not seen: it ends grace periods early.
 */
import { expireSnapshots, removeOrphans } from '../../lib/table/maintenance.ts';
import { type LakeContext, loadTable } from '../../lib/table/table.ts';
import { settleBackups } from '../../lib/volume/backups.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { expireListings } from '../../lib/volume/lake-expire.ts';
import { openableNames } from '../../lib/volume/listed-hours.ts';
import { clonedLakeObjects } from '../../lib/volume/references.ts';
import { deadLetterFolder, quarantineBucket } from '../../lib/lake/quarantine.ts';
import { fileNameOf } from '../parquet-object.ts';
import { assertEngineClock } from '../engine-clock.ts';

/** A commit that is under way may take this long from its first object to its last. */
const GRACE_MS_MIN = 3_600_000;
const DELETE_BATCH = 500;

export interface Retired {
  readonly snapshots: number;
  readonly objects: number;
  readonly bytes: number;
}

/** Throws `unavailable` when the clocks disagree. */
export async function removeReplaced(
  lake: LakeContext,
  dataset: string,
  options: { readonly keepReplacedMs: number; readonly signal: AbortSignal },
): Promise<Retired> {
  if ((await loadTable(lake, dataset)) === null) return { snapshots: 0, objects: 0, bytes: 0 };
  await assertEngineClock(lake);
  const nowMs = lake.clock.nowMs();
  await expireListings(lake.engine, lake.volume, nowMs, options.keepReplacedMs);
  const snapshots = await expireSnapshots(lake, dataset, { olderThanMs: nowMs - options.keepReplacedMs, keepLast: 1 });
  const graceMs = Math.max(GRACE_MS_MIN, options.keepReplacedMs);
  const keys = new VolumeKeys(lake.volume);
  let openable: Promise<ReadonlySet<string>> | undefined;
  const orphans = await removeOrphans(lake, dataset, {
    graceMs,
    keep: async (objects) => {
      // Expiry goes by when a snapshot was made, not by when it was replaced: its files may have been replaced a minute ago.
      openable ??= openableNames(lake.engine, lake.volume, dataset);
      const [names, cloned] = [await openable, await clonedLakeObjects(lake.engine, keys, objects)];
      return new Set(objects.filter((key) => cloned.has(key) || names.has(fileNameOf(key))));
    },
    oldestBackupMs: async () => {
      const format = await readFormat(lake.engine, lake.volume);
      return format === null ? undefined : (await settleBackups(lake, format, false)).oldestMs;
    },
    signal: options.signal,
  });
  const letters = await removeStrayDeadLetters(lake, dataset, nowMs - graceMs, options.signal);
  return {
    snapshots: snapshots.length,
    objects: orphans.objects + letters.objects,
    bytes: orphans.bytes + letters.bytes,
  };
}

/** Dead letters whose commit never came: the same records were quarantined again by the next run. */
async function removeStrayDeadLetters(
  lake: LakeContext,
  dataset: string,
  olderThanMs: number,
  signal: AbortSignal,
): Promise<{ readonly objects: number; readonly bytes: number }> {
  const bucket = quarantineBucket(lake.volume, dataset);
  const removed = { objects: 0, bytes: 0 };
  let batch: { readonly key: string; readonly bytes: number }[] = [];
  const flush = async (): Promise<void> => {
    const records = await lake.engine.read(batch.map(({ key }) => ({ bucket, field: key })));
    const stray = batch.filter((_, index) => (records[index] ?? null) === null);
    await lake.store.delete(
      stray.map(({ key }) => key),
      { signal },
    );
    removed.objects += stray.length;
    removed.bytes += stray.reduce((sum, { bytes }) => sum + bytes, 0);
    batch = [];
  };
  for await (const object of lake.store.list(deadLetterFolder(lake, dataset), { signal })) {
    if (object.modifiedMs >= olderThanMs) continue;
    batch.push(object);
    if (batch.length >= DELETE_BATCH) await flush();
  }
  if (batch.length > 0) await flush();
  return removed;
}
