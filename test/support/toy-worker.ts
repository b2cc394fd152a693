/** A worker module that serves the toy file system: options `{ root, ttlMs }`. While `root/@fail` exists it cannot start. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { runWorker, serveDevice } from '../../fs-gateway/fuse/worker.ts';
import { toyFs } from './toy-fs.ts';

await runWorker(async (assignment) => {
  const { root, ttlMs = 0 } = assignment.options as { root: string; ttlMs?: number }; // mountToy passes these
  if (existsSync(join(root, '@fail'))) throw new Error('told to fail');
  await serveDevice(assignment, toyFs(root, { ttlMs, notifier: assignment.notifier }));
});
