/** A worker module that serves the toy file system: options `{ root, ttlMs }`. While `root/@fail` exists it cannot start; with `root/@older` it is of a version without pings. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { runWorker, serveDevice } from '../../fs-gateway/fuse/worker.ts';
import { toyFs } from './toy-fs.ts';

function forgetPings(): void {
  const send = process.send?.bind(process);
  process.send = (message: { readonly type: string }): boolean =>
    send?.(message.type === 'serving' ? { type: 'serving' } : message) ?? false;
  const emit = process.emit.bind(process) as (event: string, ...args: readonly unknown[]) => boolean;
  process.emit = (event: string, ...args: readonly unknown[]): boolean => {
    const [message] = args as readonly ({ readonly type?: string } | undefined)[];
    return event === 'message' && message?.type === 'ping' ? true : emit(event, ...args);
  };
}

await runWorker(async (assignment) => {
  const { root, ttlMs = 0 } = assignment.options as { root: string; ttlMs?: number }; // mountToy passes these
  if (existsSync(join(root, '@fail'))) throw new Error('told to fail');
  if (existsSync(join(root, '@older'))) forgetPings();
  await serveDevice(assignment, toyFs(root, { ttlMs, notifier: assignment.notifier }));
});
