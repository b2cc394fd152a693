/**
 * One round of a volume's maintenance, in a process of its own, so that no file operation waits for it. Started by a mount's worker
 * (maintenance.ts), which says what to look at; it ends when it is done, or when the worker is gone.
 */
import { setPriority } from 'node:os';
import { z } from 'zod';
import { systemClock } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import { onEngineTime } from '../lib/meta/engine-time.ts';
import { openMeta, openStore } from '../lib/registry.ts';
import { readFormat } from '../lib/volume/format.ts';
import { maintain } from './tools/maintenance.ts';

const NICE = 10;

const taskSchema = z.object({
  metaUrl: z.string(),
  volume: z.string(),
  directory: z.string(),
  credentials: z.object({ accessKeyId: z.string(), secretAccessKey: z.string() }).optional(),
});

/** What is told to the worker, a line each. */
function report(message: string): void {
  if (process.connected) process.send?.({ message });
}

async function run(message: unknown): Promise<void> {
  const { metaUrl, volume, directory, credentials } = taskSchema.parse(message);
  const engine = await openMeta(metaUrl, { kind: 'maintenance', detail: { volume } });
  try {
    const format = await readFormat(engine, volume);
    if (format === null) return;
    const store = await openStore(format.store, credentials);
    try {
      // By a clock of its own that is days ahead, one node would end the time of the trash, the grace of the lake's files, and all backups but its own.
      const clock = await onEngineTime(engine, systemClock);
      await maintain({ engine, store, volume, clock, directory, report });
    } finally {
      await store.close();
    }
  } finally {
    await engine.close();
  }
}

setPriority(NICE);
process.once('disconnect', () => process.exit(1));
process.once('message', (message) => {
  run(message)
    .catch((error: unknown) => report(`maintenance: ${describeError(error)}`))
    .finally(() => process.exit(0));
});
