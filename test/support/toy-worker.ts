/** A worker module that serves the toy file system: options `{ root, ttlMs }`. */
import { runWorker, serveDevice } from '../../fs-gateway/fuse/worker.ts';
import { toyFs } from './toy-fs.ts';

await runWorker(async (assignment) => {
  const {
    root,
    ttlMs = 0,
    failToStart = false,
  } = assignment.options as {
    // what the test passed
    root: string;
    ttlMs?: number;
    failToStart?: boolean;
  };
  if (failToStart) throw new Error('told to fail');
  await serveDevice(assignment, toyFs(root, { ttlMs, notifier: assignment.notifier }));
});
