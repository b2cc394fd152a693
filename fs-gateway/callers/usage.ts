/** Who uses a mount how much, and which files: what the control socket answers, and what a mount tells the control plane. */
import type { FileUsage, WorkloadUsage } from '../../lib/volume/mount-reports.ts';
import type { Callers, WorkloadCounts } from './callers.ts';
import { podNames } from './pod-names.ts';

const FILES_SHOWN = 20;

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
