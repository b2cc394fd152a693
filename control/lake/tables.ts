/** The tables of the configured datasets, each loaded again only when its pointer has moved. */
import { tablePointerKey } from '../../lib/table/keys.ts';
import { loadTable, type LakeContext, type TableState } from '../../lib/table/table.ts';

export class Tables {
  readonly #loaded = new Map<string, TableState>();

  /** null: nothing has landed yet. Throws `unavailable`, `corrupt`. */
  async get(lake: LakeContext, dataset: string): Promise<TableState | null> {
    // Another program's catalog has no pointer that could be looked at.
    if (lake.catalog !== undefined) return loadTable(lake, dataset);
    const [pointer] = await lake.engine.read([tablePointerKey(lake.volume, dataset)]);
    const known = this.#loaded.get(dataset);
    if (known !== undefined && pointer?.version === known.pointerVersion) return known;
    const table = await loadTable(lake, dataset);
    if (table === null) this.#loaded.delete(dataset);
    else this.#loaded.set(dataset, table);
    return table;
  }
}

export interface LiveTotals {
  readonly rows: number;
  readonly files: number;
  /** null: another writer left the total out. */
  readonly bytes: number | null;
}

/** What the current snapshot's summary says: no manifest is read. */
export function liveTotals(table: TableState | null): LiveTotals {
  const summary = table?.currentSnapshot?.summary;
  if (summary === undefined) return { rows: 0, files: 0, bytes: 0 };
  const bytes = summary['total-files-size'];
  return {
    rows: Number(summary['total-records'] ?? 0),
    files: Number(summary['total-data-files'] ?? 0),
    bytes: bytes === undefined ? null : Number(bytes),
  };
}
