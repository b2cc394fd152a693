/**
 * What the mounts of a volume say of their use, for whoever shows it: one record for each, written by the mount itself every few seconds while
 * it is used. It is of its writer's last life when no live session has its mount id; gc removes it then.
 *
 *   {v}p   <mount id>   MountReport as JSON
 */
import { z } from 'zod';
import { scanJson } from '../lake/scan.ts';
import type { MetaEngine } from '../meta/engine.ts';
import type { VolumeKeys } from './keys.ts';

const count = z.number().min(0);

/** Who uses a mount: a pod, or outside of Kubernetes a container, a systemd unit or a command. Counts since the worker began. */
const workloadSchema = z.object({
  kind: z
    .enum(['pod', 'container', 'unit', 'command', 'none'])
    .meta({ description: '`none`: `unseen`, `ended`, `other` or `new`' }),
  id: z.string().meta({ description: "the pod's uid, or what the kind says" }),
  name: z.string().nullable().meta({ description: '`namespace/name` of a pod, where the node was told' }),
  requests: count,
  errors: count,
  reads: count,
  readsWaited: count.meta({ description: 'neither memory nor the cache of the node had it' }),
  writes: count,
  readBytes: count,
  writtenBytes: count,
  waitSeconds: count.meta({ description: 'from request to answer, summed up' }),
  kernelReadBytes: count.meta({ description: 'past the daemon (passthrough): an estimate' }),
  kernelWrittenBytes: count.meta({ description: 'past the daemon (passthrough): an estimate' }),
  diskReadBytes: z.number().nullable().meta({ description: 'of its cgroup: all disks and files; null: not counted' }),
  diskWrittenBytes: z
    .number()
    .nullable()
    .meta({ description: 'of its cgroup: all disks and files; null: not counted' }),
});
export type WorkloadUsage = Readonly<z.output<typeof workloadSchema>>;

const fileSchema = z.object({
  ino: z.int(),
  path: z
    .string()
    .nullable()
    .meta({ description: 'where it was last seen; null: its name is not in the cache of the node' }),
  readBytes: count.meta({ description: 'a weight: bytes, halved every minute' }),
  writtenBytes: count.meta({ description: 'a weight: bytes, halved every minute' }),
});
export type FileUsage = Readonly<z.output<typeof fileSchema>>;

/** Of the last seconds, the estimates of passthrough included. */
const ratesSchema = z.object({ requests: count, readBytes: count, writtenBytes: count, waitSeconds: count });
export type UsageRates = Readonly<z.output<typeof ratesSchema>>;

export const reportedWorkloadSchema = workloadSchema.extend({ perSecond: ratesSchema });
export type ReportedWorkload = Readonly<z.output<typeof reportedWorkloadSchema>>;

export const mountReportSchema = z.object({
  atMs: z.number(),
  workerStartedMs: z.number(),
  fetchedBytes: count.meta({ description: 'from the object store' }),
  peerFetchedBytes: count.meta({ description: 'from peers of the cache group' }),
  uploadedBytes: count,
  cachedBytes: count,
  stagedBytes: count.meta({ description: 'written by programs and not yet in the object store' }),
  workloads: z.array(reportedWorkloadSchema),
  files: z.array(fileSchema),
});
export type MountReport = Readonly<z.output<typeof mountReportSchema>>;

export async function readMountReports(
  engine: MetaEngine,
  keys: VolumeKeys,
): Promise<ReadonlyMap<string, MountReport>> {
  const reports = new Map<string, MountReport>();
  for await (const [mountId, report] of scanJson(engine, keys.mountReports, mountReportSchema)) {
    reports.set(mountId, report);
  }
  return reports;
}

/** Lost with the engine, and nothing depends on it. */
export async function saveMountReport(
  engine: MetaEngine,
  keys: VolumeKeys,
  mountId: string,
  report: MountReport,
): Promise<void> {
  const key = { bucket: keys.mountReports, field: mountId };
  await engine.commit({ write: [{ key, value: Buffer.from(JSON.stringify(report)) }] });
}
