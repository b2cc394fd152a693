/**
 * Nodes that run nothing: for every pod that the scheduler gave them they say what a kubelet says when all is well. Pods of Jobs have succeeded, the others are
 * ready, and what is deleted goes at once.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../support/mount-guard.ts';
import type { Cluster, KubeObject } from './cluster.ts';

const PACE_MS = 200;

export interface Pod extends KubeObject {
  readonly spec: {
    readonly nodeName?: string;
    readonly containers: readonly { readonly name: string; readonly image: string }[];
  };
  readonly status: { readonly phase: string };
}

export interface NodeOptions {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly taints?: readonly { readonly key: string; readonly value?: string; readonly effect: string }[];
}

export async function pods({ api }: Pick<Cluster, 'api'>): Promise<readonly Pod[]> {
  const { body } = await api<{ readonly items: readonly Pod[] | null }>('GET', '/api/v1/pods');
  return body.items ?? [];
}

async function settle(cluster: Cluster, { metadata, spec, status }: Pod): Promise<void> {
  const path = `/api/v1/namespaces/${metadata.namespace ?? ''}/pods/${metadata.name}`;
  if (spec.nodeName === undefined) return;
  if (metadata.deletionTimestamp !== undefined) {
    await cluster.api('DELETE', path, { gracePeriodSeconds: 0 });
  } else if (status.phase === 'Pending') {
    const ended = metadata.ownerReferences?.some(({ kind }) => kind === 'Job') === true;
    const at = new Date().toISOString().replace(/\.\d+/, '');
    const state = ended
      ? { terminated: { exitCode: 0, reason: 'Completed', startedAt: at, finishedAt: at } }
      : { running: { startedAt: at } };
    await cluster.api('PATCH', `${path}/status`, {
      status: {
        phase: ended ? 'Succeeded' : 'Running',
        conditions: ['PodScheduled', 'Initialized', 'ContainersReady', 'Ready'].map((type) => ({
          ...{ type, status: ended && type.endsWith('Ready') ? 'False' : 'True', lastTransitionTime: at },
        })),
        containerStatuses: spec.containers.map(({ name, image }) => ({
          ...{ name, image, imageID: image, ready: !ended, started: !ended, restartCount: 0, state },
        })),
      },
    });
  }
}

/** Adds them; resolves when pods can be scheduled. The result ends what acts for them. */
export async function startNodes(cluster: Cluster, nodes: readonly NodeOptions[]): Promise<() => Promise<void>> {
  for (const { name, labels = {}, taints = [] } of nodes) {
    await cluster.api('POST', '/api/v1/nodes', {
      ...{ apiVersion: 'v1', kind: 'Node', spec: { taints } },
      metadata: { name, labels: { 'kubernetes.io/hostname': name, 'kubernetes.io/os': 'linux', ...labels } },
    });
    const capacity = { cpu: '16', memory: '64Gi', 'ephemeral-storage': '500Gi', pods: '110' };
    await cluster.api('PATCH', `/api/v1/nodes/${name}/status`, {
      status: {
        capacity,
        allocatable: capacity,
        conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady' }],
      },
    });
  }
  await until('the nodes are ready', async () => {
    const { body } = await cluster.api<{ readonly items: readonly { readonly spec: NodeOptions }[] }>(
      'GET',
      '/api/v1/nodes',
    );
    return body.items.every(({ spec }) => spec.taints?.some(({ key }) => key.endsWith('/not-ready')) !== true);
  });
  const ended = new AbortController();
  const acting = (async () => {
    while (!ended.signal.aborted) {
      for (const pod of await pods(cluster)) await settle(cluster, pod);
      await delay(PACE_MS, undefined, { signal: ended.signal }).catch(() => undefined);
    }
  })();
  return async () => {
    ended.abort();
    await acting;
  };
}
