/**
 * What an erasure still has to do, so that one that was killed is finished by the next run, whatever that one erases:
 *
 *   {VOLUME}erase:<dataset> / hour:<hour>       written with the commit that rewrote files of the hour: its replaced files must go
 *                           / object:<key>      the hour; an object that is to be deleted
 */
import type { Key, MetaEngine, Write } from '../../lib/meta/engine.ts';
import type { LakeContext } from '../../lib/table/table.ts';

const WRITES_A_COMMIT = 500;
const SCAN_PAGE = 500;

const bucketOf = (volume: string, dataset: string): string => `{${volume}}erase:${dataset}`;

export interface PendingObject {
  readonly key: string;
  readonly hour: number;
}

export interface Pending {
  readonly hours: readonly number[];
  readonly objects: readonly PendingObject[];
}

export function pendingHour(volume: string, dataset: string, hour: number): Write {
  return { key: { bucket: bucketOf(volume, dataset), field: `hour:${hour}` }, value: Buffer.from('{}') };
}

export async function readPending(lake: LakeContext, dataset: string): Promise<Pending> {
  const bucket = bucketOf(lake.volume, dataset);
  const hours = new Set<number>();
  const objects = new Map<string, number>();
  for (let cursor: string | null = ''; cursor !== null;) {
    const page = await lake.engine.scan(bucket, cursor, SCAN_PAGE);
    for (const [field, { value }] of page.entries) {
      if (field.startsWith('hour:')) hours.add(Number(field.slice('hour:'.length)));
      else if (field.startsWith('object:')) objects.set(field.slice('object:'.length), Number(value.toString()));
    }
    cursor = page.cursor;
  }
  return { hours: [...hours].sort((a, b) => a - b), objects: [...objects].map(([key, hour]) => ({ key, hour })) };
}

/** The objects are recorded before their hours are forgotten. */
export async function recordObjects(
  lake: LakeContext,
  dataset: string,
  hours: readonly number[],
  objects: readonly PendingObject[],
): Promise<void> {
  const key = (field: string): Key => ({ bucket: bucketOf(lake.volume, dataset), field });
  await writeAll(
    lake.engine,
    objects.map((object) => ({ key: key(`object:${object.key}`), value: Buffer.from(String(object.hour)) })),
  );
  await writeAll(
    lake.engine,
    hours.map((hour) => ({ key: key(`hour:${hour}`), value: null })),
  );
}

export async function forgetObjects(lake: LakeContext, dataset: string, objects: readonly string[]): Promise<void> {
  const bucket = bucketOf(lake.volume, dataset);
  await writeAll(
    lake.engine,
    objects.map((object) => ({ key: { bucket, field: `object:${object}` }, value: null })),
  );
}

async function writeAll(engine: MetaEngine, write: readonly Write[]): Promise<void> {
  for (let at = 0; at < write.length; at += WRITES_A_COMMIT) {
    await engine.commit({ write: write.slice(at, at + WRITES_A_COMMIT) });
  }
}
