/**
 * Commits rows that stand in files: the table's pointer, the directory listings and the caller's own records in ONE minitransaction.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { Minitransaction } from '../../lib/meta/engine.ts';
import { commitTable } from '../../lib/table/commit.ts';
import type { Schema } from '../../lib/table/schema.ts';
import { createTable } from '../../lib/table/table.ts';
import { configuredOrder } from '../sort-order.ts';
import type { Field } from './fields.ts';
import { type CommitScope, type OffsetRange, offsetRanges, type StagedFile } from './land-files.ts';
import { addedIcebergFields, fitsSchema, schemaChange, toIceberg } from './table-fields.ts';

/** What becomes true together with the rows. */
export type OwnRecords = Pick<Required<Minitransaction>, 'compare' | 'write' | 'patch'>;

export interface LandedRows {
  readonly fields: readonly Field[];
  readonly files: readonly StagedFile[];
  readonly ranges: readonly OffsetRange[];
  readonly own: OwnRecords;
  /** Throws `conflict` when the compares of `own` can never hold again. Asked before every attempt. */
  assertCurrent(): Promise<void>;
}

/** Makes the table unless it is there: before its first file, as a catalog may hand out credentials for what is in tables only. */
export async function ensureTable({ lake, dataset }: CommitScope, fields: readonly Field[]): Promise<void> {
  const schema: Schema = { type: 'struct', fields: [...addedIcebergFields(), ...fields.map(toIceberg)] };
  const sortFields = configuredOrder(dataset, schema).map((name) => ({ name }));
  await createTable(lake, dataset.name, { schema, sortFields });
}

/** Into a table that is there. Throws `conflict` from `assertCurrent`, and when others changed the schema in another way. */
export async function commitRows({ lake, dataset, place }: CommitScope, rows: LandedRows): Promise<void> {
  const { fields, files, ranges, own } = rows;
  const add = files.map((file) => file.dataFile);
  await commitTable(lake, dataset.name, async (state) => {
    await rows.assertCurrent();
    if (!fitsSchema(state.schema, state.metadata['last-column-id'], fields)) {
      throw new PenstockError('conflict', `the schema of ${dataset.name} was changed by another writer`);
    }
    const changed = schemaChange(state.schema, fields);
    return {
      change: {
        operation: 'append',
        add,
        remove: [],
        summary: { 'penstock.topic-id': place.topicId, 'penstock.offsets': offsetRanges(ranges) },
        ...(changed === undefined ? {} : { schema: changed }),
      },
      extra: own,
      hours: files.map(({ key, name, dataFile, modifiedMs }) => ({
        hour: dataFile.hour,
        add: [{ name, key, bytes: Number(dataFile.bytes), modifiedMs }],
        remove: [],
      })),
    };
  });
}
