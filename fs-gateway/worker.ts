/** The process that serves a mount: started by the supervisor, replaced by it when it dies. All state that matters is elsewhere. */
import { setFlagsFromString } from 'node:v8';
import { z } from 'zod';
import { systemClock } from '../lib/clock.ts';
import { Callers } from './callers/callers.ts';
import { usageOf } from './callers/usage.ts';
import type { Usage } from './callers/usage.ts';
import { findMount } from './fuse/mount.ts';
import { runWorker, serveDevice } from './fuse/worker.ts';
import { startMaintenance } from './maintenance.ts';
import { openVolume } from './open-volume.ts';
import { Reports } from './reports.ts';

/**
 * By default V8 looks for garbage whenever 30 MB of Buffers came, and marks the whole heap for it: a cold read spent half of its CPU on that (128 MiB in
 * 1.05 s, with this in 0.64 s; 30 to 60 MB more at the peak). A V8 that does not know the flag says so and goes on.
 */
setFlagsFromString('--external-memory-accounted-in-global-limit');

/** Where the kernel cannot be told that all it knows is void, it may believe us no longer than a session's lease. */
const TTL_WITHOUT_EPOCH_MS = 5000;
/** Changes of others are pushed; this only bounds what a lost push could cost. */
const TTL_MS = 60_000;

const workerOptions = z.strictObject({
  metaUrl: z.string(),
  volume: z.string(),
  folder: z.string().optional(),
  cacheDir: z.string(),
  cacheBytes: z.number(),
  passthrough: z.enum(['off', 'read', 'full']),
  writeback: z.boolean(),
  openCache: z.boolean(),
  cacheGroup: z.strictObject({ name: z.string(), listen: z.string() }).optional(),
  credentials: z.strictObject({ accessKeyId: z.string(), secretAccessKey: z.string() }).optional(),
});

await runWorker(async (assignment) => {
  const { credentials, cacheGroup, folder, ...options } = workerOptions.parse(assignment.options);
  const { backing, holder, log } = assignment;
  if (options.passthrough !== 'off' && backing === undefined) {
    log('the kernel has no FUSE passthrough: the daemon serves the data');
  }
  const volume = await openVolume(
    {
      ...options,
      ...(credentials !== undefined && { credentials }),
      ...(cacheGroup !== undefined && { cacheGroup }),
      ...(folder !== undefined && { folder }),
      passthrough: backing === undefined ? 'off' : options.passthrough,
      ...(backing !== undefined && { kernel: backing }),
      holder,
      mountpoint: assignment.mountpoint,
      mountLife: assignment.session,
      ttlMs: assignment.negotiated.incrementEpoch ? TTL_MS : TTL_WITHOUT_EPOCH_MS,
    },
    systemClock,
    assignment.notifier,
    log,
  );
  const maintenance = startMaintenance(
    {
      metaUrl: options.metaUrl,
      volume: options.volume,
      directory: options.cacheDir,
      ...(credentials !== undefined && { credentials }),
    },
    log,
  );
  const callers = new Callers({
    device: backing === undefined ? undefined : findMount(assignment.mountpoint)?.device,
    passesThrough: (ino) => volume.passesThrough(ino),
  });
  const usage = (): Promise<Usage> => usageOf(callers, (inos) => volume.pathsOf(inos));
  const stats = (): ReturnType<typeof volume.stats> => volume.stats();
  const reports = new Reports({
    isIdle: () => callers.isIdle,
    usage,
    stats,
    save: (report) => volume.saveReport(report),
    clock: systemClock,
  });
  await serveDevice(assignment, volume.operations, { stats, callers, usage });
  await reports.close();
  maintenance.stop();
  await volume.close();
});
