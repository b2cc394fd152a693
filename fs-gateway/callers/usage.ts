/** Who uses a mount how much, and which files: what the control socket answers, and what a mount tells the control plane. */
import type { Callers, WorkloadCounts } from './callers.ts';
import { podNames } from './pod-names.ts';
import type { Workload } from './workload.ts';

const FILES_SHOWN = 20;

export interface WorkloadUsage {
  readonly kind: Workload['kind'];
  readonly id: string;
  /** `namespace/name` of a pod, where the CSI driver was told. */
  readonly name: string | null;
  readonly requests: number;
  readonly errors: number;
  readonly reads: number;
  readonly readsWaited: number;
  readonly writes: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly waitSeconds: number;
  /** By the kernel alone: estimates. */
  readonly kernelReadBytes: number;
  readonly kernelWrittenBytes: number;
  /** Of its cgroup: all disks, all files; null: not counted. */
  readonly diskReadBytes: number | null;
  readonly diskWrittenBytes: number | null;
}

export interface FileUsage {
  readonly ino: number;
  /** Where it was last seen; null: its name is not in the cache. */
  readonly path: string | null;
  /** Of the last minutes: weights that halve every minute. */
  readonly readBytes: number;
  readonly writtenBytes: number;
}

/** Since the worker began. */
export interface Usage {
  readonly workloads: readonly WorkloadUsage[];
  readonly files: readonly FileUsage[];
}

export async function usageOf(
  callers: Callers,
  pathsOf: (inos: ReadonlySet<number>) => ReadonlyMap<number, string>,
): Promise<Usage> {
  const counts = await callers.snapshot();
  const names = podNames(counts.flatMap(({ workload: { kind, id } }) => (kind === 'pod' ? [id] : [])));
  const hot = callers.files.top(FILES_SHOWN, performance.now());
  const paths = pathsOf(new Set(hot.map(({ ino }) => ino)));
  return {
    workloads: counts.map((each) => workloadUsage(each, names)),
    files: hot.map((file) => ({ ...file, path: paths.get(file.ino) ?? null })),
  };
}

function workloadUsage({ workload, counts, disk }: WorkloadCounts, names: ReadonlyMap<string, string>): WorkloadUsage {
  const { waitUs, requests, errors, reads, readsWaited, writes, readBytes, writtenBytes } = counts;
  const { kernelReadBytes, kernelWrittenBytes } = counts;
  return {
    ...workload,
    name: workload.kind === 'pod' ? (names.get(workload.id) ?? null) : null,
    requests,
    errors,
    reads,
    readsWaited,
    writes,
    readBytes,
    writtenBytes,
    waitSeconds: Math.round(waitUs) / 1e6,
    kernelReadBytes,
    kernelWrittenBytes,
    diskReadBytes: disk?.readBytes ?? null,
    diskWrittenBytes: disk?.writtenBytes ?? null,
  };
}
