/** An empty staging area for the table of a dataset as it is now. */
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import { type LakeContext, loadTable, type TableState } from '../../lib/table/table.ts';
import { engineTimeMs } from '../../lib/meta/engine-time.ts';
import { ADDED_COLUMNS } from './field-names.ts';
import { maxFieldId } from '../../lib/table/schema.ts';
import type { ValueDecoder } from '../values/value-decoder.ts';
import { Staging } from './staging.ts';
import { Timely, type Now } from './timely.ts';
import { fieldsFor, toIceberg } from './table-fields.ts';

export interface OpenStaging {
  readonly staging: Staging;
  /** For fields that inference adds. */
  readonly nextFieldId: () => number;
}

/** Throws `config` for a declared schema that the table cannot take on. */
export async function openStaging(
  lake: LakeContext,
  dataset: DatasetConfig,
  db: DuckDb,
  decoder: ValueDecoder | null,
): Promise<OpenStaging> {
  const table = await loadTable(lake, dataset.name);
  const lastColumnId = table?.metadata['last-column-id'] ?? ADDED_COLUMNS.length;
  const fields = fieldsFor(dataset, table?.schema ?? null, lastColumnId, decoder?.columns() ?? null);
  let lastFieldId = Math.max(lastColumnId, maxFieldId({ type: 'struct', fields: fields.map(toIceberg) }));
  const staging = await Staging.open({
    db,
    dataset: dataset.name,
    timely: new Timely(dataset, await now(lake, table)),
    eventTime: dataset.eventTime,
    infer: dataset.schema === 'infer',
    fields,
    decoder,
  });
  return { staging, nextFieldId: () => ++lastFieldId };
}

/**
 * By a clock that is years behind every reading would be one of the future, by one that is ahead one of the past. On a machine by itself lander and engine go by one clock; that it
 * is behind is told by the table, which was changed before.
 */
async function now(lake: LakeContext, table: TableState | null): Promise<Now> {
  const ownMs = lake.clock.nowMs();
  const engineMs = (await engineTimeMs(lake.engine)) || ownMs;
  return {
    earliestMs: Math.min(ownMs, engineMs),
    latestMs: Math.max(ownMs, engineMs, table?.metadata['last-updated-ms'] ?? 0),
  };
}
