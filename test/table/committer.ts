/** Appends files to the table of a lake until it is killed; prints the name of each that was acknowledged. */
import { systemClock } from '../../lib/clock.ts';
import { openSqliteEngine } from '../../lib/meta/sqlite/sqlite-engine.ts';
import { openDirStore } from '../../lib/store/dir/dir-store.ts';
import { commitTable } from '../../lib/table/commit.ts';
import { dataFileKey } from '../../lib/table/keys.ts';

const [folder = '', table = '', id = ''] = process.argv.slice(2);
const engine = await openSqliteEngine(new URL(`sqlite:${folder}/meta.db?durability=flush`), { kind: 'committer' });
const store = await openDirStore(new URL(`dir:${folder}/objects`));
for (let n = 0; ; n++) {
  const name = `${id}-${String(n).padStart(4, '0')}`;
  const location = store.location(dataFileKey(table, `${name}.parquet`));
  const file = {
    location,
    hour: n,
    recordCount: 1n,
    bytes: 1n,
    columnStats: new Map<number, never>(),
    sortOrderId: null,
  };
  await commitTable({ engine, store, volume: 'lake', clock: systemClock }, table, async () => ({
    change: { operation: 'append', add: [file], remove: [] },
    extra: {},
  }));
  process.stdout.write(`${name}\n`);
}
