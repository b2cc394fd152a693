/**
 * What a process belongs to, by its control groups: a pod of Kubernetes, a container, a unit of systemd, or else the name of its command.
 *
 * `/proc/<pid>/cgroup` has one line per hierarchy, `id:controllers:path`; version 2 is the one with id 0 and no controllers. Paths of pods, by
 * the kubelet's cgroup driver (pkg/kubelet/cm of Kubernetes):
 *   systemd    …/kubepods-burstable.slice/kubepods-burstable-pod<uid, _ for ->.slice/cri-containerd-<id>.scope
 *   cgroupfs   …/kubepods/burstable/pod<uid>/<container id>
 * The uid of a static pod is a hash of its manifest: 32 hex digits. In a cgroup namespace the path begins with `/..`; all of it is looked at.
 */

export interface Workload {
  /** `none`: nobody that can be named (see `Callers`). */
  readonly kind: 'pod' | 'container' | 'unit' | 'command' | 'none';
  /** The pod's uid, the first 12 digits of the container's id, the unit's or the command's name. */
  readonly id: string;
}

const POD =
  /(?:^|\/)(?:[^/]*-)?pod([0-9a-f]{8}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{12})(?:\.slice)?(?=\/|$)/;
const CONTAINER = /(?:^|\/)(?:[a-z-]+-)?([0-9a-f]{12})[0-9a-f]{52}(?:\.scope)?(?=\/|$)/;
const UNIT = /.*\/([^/]+\.(?:service|scope))(?=\/|$)/;
const TEXT_MAX = 128;

export function workloadOf(cgroups: string, command: string): Workload {
  const paths = pathsOf(cgroups);
  const pod = firstMatch(paths, POD);
  if (pod !== undefined) return { kind: 'pod', id: pod.replaceAll('_', '-') };
  const container = firstMatch(paths, CONTAINER);
  if (container !== undefined) return { kind: 'container', id: container };
  const unit = firstMatch(paths, UNIT);
  if (unit !== undefined) return { kind: 'unit', id: unit.slice(0, TEXT_MAX) };
  return { kind: 'command', id: command.slice(0, TEXT_MAX) };
}

function firstMatch(paths: readonly string[], pattern: RegExp): string | undefined {
  for (const path of paths) {
    const found = pattern.exec(path)?.[1];
    if (found !== undefined) return found;
  }
  return undefined;
}

function pathsOf(cgroups: string): string[] {
  return cgroups
    .split('\n')
    .map((line) => /^\d+:[^:]*:(\/.*)$/.exec(line)?.[1])
    .filter((path) => path !== undefined && path !== '/') as string[]; // the filter leaves no undefined
}

/** The path in the hierarchy that counts block I/O: of version 2, or of version 1's `blkio`; null: the root or none. */
export function diskCgroup(cgroups: string): { readonly version: 1 | 2; readonly path: string } | null {
  for (const line of cgroups.split('\n')) {
    const [, controllers = '', path = '/'] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (path === '/') continue;
    if (controllers.split(',').includes('blkio')) return { version: 1, path };
  }
  const path = /^0::(\/.+)$/m.exec(cgroups)?.[1];
  return path === undefined ? null : { version: 2, path };
}
