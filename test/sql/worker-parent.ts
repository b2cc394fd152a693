/** Starts a SqlWorker with a long query, tells its pid, and waits to be killed. */
import { mkdirSync } from 'node:fs';
import { makeScratch } from '../../lib/sql/scratch.ts';
import { SqlWorker } from '../../lib/sql/sql-worker-client.ts';

const scratch = await makeScratch(process.argv[2] ?? '', 'test');
mkdirSync(`${scratch.path}/spill`);
const worker = await SqlWorker.start({
  memoryBytes: 3e8,
  threads: 1,
  scratchDir: `${scratch.path}/spill`,
  scratchBytes: 1e9,
});
const query = worker.query('SELECT count(*) FROM range(100000000000) a WHERE sqrt(range) = -1');
process.send?.({ worker: worker.pid });
await query;
