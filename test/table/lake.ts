/** A real, small lake for the tests of tables: SQLite and a directory. */
import { onTestFinished } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { openSqliteEngine } from '../../lib/meta/sqlite/sqlite-engine.ts';
import { openDirStore } from '../../lib/store/dir/dir-store.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { DataFile, LiveFile } from '../../lib/table/data-file.ts';
import { dataFileKey } from '../../lib/table/keys.ts';
import { newSchema } from '../../lib/table/schema.ts';
import { loadTable } from '../../lib/table/table.ts';
import type { LakeContext, TableState } from '../../lib/table/table.ts';
import { collect } from '../support/collect.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { faultyStore } from '../support/faulty-store.ts';
import type { FaultPlan } from '../support/fault.ts';
import { tempDir } from '../support/temp.ts';

export const TABLE = 'plant.vibration';
export const SCHEMA = newSchema([
  { name: 'sensor', type: 'string' },
  { name: 'rms', type: 'double' },
  { name: '_event_time', type: 'timestamptz', required: true },
]);

/** A second call with the folder of the first is another session on the same lake. */
export async function openLake(folder = tempDir('lake')): Promise<LakeContext & { folder: string }> {
  const engine = await openSqliteEngine(new URL(`sqlite:${folder}/meta.db?durability=flush`), { kind: 'test' });
  const store = await openDirStore(new URL(`dir:${folder}/objects`));
  onTestFinished(() => engine.close());
  return { engine, store, volume: 'lake', clock: systemClock, folder };
}

/** The same lake, with every call to both ports asked of `plan` first. */
export function withFaults(lake: LakeContext, plan: FaultPlan): LakeContext {
  return { ...lake, store: faultyStore(lake.store, plan), engine: faultyEngine(lake.engine, plan) };
}

/** Describes a data file of `rows` rows; the object itself is written only by tests that need it. */
export function dataFile(store: ObjectStore, name: string, options: { hour?: number; rows?: number } = {}): DataFile {
  return {
    location: store.location(dataFileKey(TABLE, `${name}.parquet`)),
    hour: options.hour ?? 500_000,
    recordCount: BigInt(options.rows ?? 1),
    bytes: 1000n,
    columnStats: new Map(),
    sortOrderId: null,
  };
}

/** Names of the live files, sorted; throws when any object of the metadata is missing. */
export async function liveNames(lake: LakeContext, filter?: { hour: number }): Promise<string[]> {
  return (await liveFiles(await mustLoad(lake), filter)).map(({ location }) => nameOf(location)).sort();
}

export async function liveFiles(state: TableState, filter?: { hour: number }): Promise<LiveFile[]> {
  return collect(state.liveFiles(filter));
}

export async function mustLoad(lake: LakeContext): Promise<TableState> {
  const state = await loadTable(lake, TABLE);
  if (state === null) throw new Error(`no table ${TABLE}`);
  return state;
}

export function nameOf(location: string): string {
  return location.slice(location.lastIndexOf('/') + 1, -'.parquet'.length);
}

/** Every object in the table's folder that is not a data file. */
export async function metadataObjects(lake: LakeContext): Promise<string[]> {
  return (await collect(lake.store.list('tables/'))).map(({ key }) => key).filter((key) => key.includes('/metadata/'));
}
