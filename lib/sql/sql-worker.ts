/**
 * The child process of SqlWorker: one DuckDB, driven over the IPC channel. It dies with its parent, however the parent dies: the
 * channel's end kills it, also in the middle of a query (a plain exit would wait for DuckDB's threads).
 */
import { describeError } from '../errors.ts';
import { DuckDb, toPenstockError } from './duckdb.ts';
import type { WorkerReply, WorkerRequest } from './worker-protocol.ts';

let db: DuckDb | undefined;

async function answer(request: WorkerRequest): Promise<Omit<WorkerReply, 'id' | 'cpuMicros' | 'rssBytes'>> {
  if (request.kind === 'open') {
    db = await DuckDb.open(request.options);
    return {};
  }
  if (db === undefined) throw new Error('no database is open');
  if (request.kind === 'run') return { rowsChanged: await db.run(request.sql) };
  if (request.kind === 'query') return { rows: await db.query(request.sql) };
  if (request.kind === 'select') return { selected: await db.select(request.sql, request.limits) };
  await db.lockDown(request.paths);
  return {};
}

process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
// The parent decides when to stop: a Ctrl-C in its terminal reaches the whole process group.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);
process.on('message', (request: WorkerRequest) => {
  const reply = (rest: Omit<WorkerReply, 'id' | 'cpuMicros' | 'rssBytes'>): void => {
    const { user, system } = process.cpuUsage();
    process.send?.({ id: request.id, cpuMicros: user + system, rssBytes: process.memoryUsage.rss(), ...rest });
  };
  answer(request).then(reply, (error: unknown) => {
    const { code } = toPenstockError(error);
    reply({ error: { code, message: describeError(error) } });
  });
});
