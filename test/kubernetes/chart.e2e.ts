/** The life of a release in a real Kubernetes: installed, upgraded, rolled back, removed and installed again, each object checked by the API server. */
import { appendFileSync, cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CHART, manifests, MATRIX, podOf, THREE_URLS } from '../deploy/helm.ts';
import { until } from '../support/mount-guard.ts';
import { missing } from '../support/services.ts';
import { startCluster, type Cluster, type KubeObject } from './cluster.ts';
import { pods, startNodes, type Pod } from './nodes.ts';

const SPOT = { key: 'karpenter.sh/capacity-type', value: 'spot', effect: 'NoSchedule' };
const NEAR = { 'topology.kubernetes.io/zone': 'eu-central-1a' };
const NODES = [
  { name: 'core', labels: { 'topology.kubernetes.io/zone': 'eu-central-1b' } },
  { name: 'near', labels: NEAR },
  { name: 'spot', labels: { ...NEAR, 'karpenter.sh/capacity-type': 'spot' }, taints: [SPOT] },
  { name: 'plant', labels: { edge: 'true' }, taints: [{ key: 'edge', effect: 'NoExecute' }] },
];
/** What comes and goes by itself. */
const TRANSIENT = /^(events|leases|pods|endpoints|endpointslices|replicasets|controllerrevisions|jobs)\b/;

/** Every object of the cluster, as resource/namespace/name. */
async function everything(cluster: Cluster): Promise<Set<string>> {
  interface Resources {
    readonly resources: readonly { readonly name: string; readonly verbs: readonly string[] }[];
  }
  const { body: groups } = await cluster.api<{
    readonly groups: readonly { readonly preferredVersion: { readonly groupVersion: string } }[];
  }>('GET', '/apis');
  const versions = [
    '/api/v1',
    ...groups.groups.map(({ preferredVersion }) => `/apis/${preferredVersion.groupVersion}`),
  ];
  const found = new Set<string>();
  for (const version of versions) {
    const { body } = await cluster.api<Resources>('GET', version);
    for (const { name, verbs } of body.resources) {
      if (!verbs.includes('list') || TRANSIENT.test(name)) continue;
      const { body: list } = await cluster.api<{ readonly items: readonly KubeObject[] | null }>(
        'GET',
        `${version}/${name}`,
      );
      for (const { metadata } of list.items ?? []) found.add(`${name}/${metadata.namespace ?? ''}/${metadata.name}`);
    }
  }
  return found;
}

describe.skipIf(missing('kubernetes', 'custom-resources', 'helm'))('the chart in a real Kubernetes', () => {
  let cluster: Cluster;
  let stopNodes: () => Promise<void>;
  let before: Set<string>;

  beforeAll(async () => {
    cluster = await startCluster();
    stopNodes = await startNodes(cluster, NODES);
    await cluster.customResources();
    for (const object of [
      { apiVersion: 'scheduling.k8s.io/v1', kind: 'PriorityClass', metadata: { name: 'high' }, value: 1000 },
      { apiVersion: 'node.k8s.io/v1', kind: 'RuntimeClass', metadata: { name: 'kata' }, handler: 'kata' },
    ]) {
      await cluster.kubectl(['create', '-f', '-'], JSON.stringify(object));
    }
    before = await everything(cluster);
  });
  afterAll(async () => {
    await stopNodes();
    await cluster.stop();
  });

  function values(of: object): string[] {
    const path = join(cluster.folder, 'values.yaml');
    writeFileSync(path, stringify(of));
    return ['--namespace', 'penstock', '-f', path];
  }

  /** What the release has is what the API server takes with strict fields, without a word of warning; workloads run as many pods as they want. */
  async function expectSound(): Promise<readonly Pod[]> {
    const manifest = await cluster.helm(['get', 'manifest', 'penstock', '-n', 'penstock']);
    const hooks = await cluster.helm(['get', 'hooks', 'penstock', '-n', 'penstock']);
    const strict = ['apply', '--server-side', '--force-conflicts', '--dry-run=server', '--validate=strict', '-f', '-'];
    for (const text of [manifest, hooks]) {
      expect(await cluster.kubectl(strict, text)).toMatchObject({ status: 0, errors: '' });
    }
    const workloads = manifests(manifest).filter(({ kind }) => kind === 'Deployment' || kind === 'DaemonSet');
    expect(workloads.every((workload) => podOf(workload) !== undefined)).toBe(true);
    await until('every workload is as it was asked for', async () => {
      for (const { kind, metadata } of workloads) {
        const path = `/apis/apps/v1/namespaces/penstock/${kind.toLowerCase()}s/${metadata.name}`;
        const { body } = await cluster.api<{ readonly status: Readonly<Record<string, number>> }>('GET', path);
        const [wanted, ready] =
          kind === 'Deployment' ? ['updatedReplicas', 'availableReplicas'] : ['desiredNumberScheduled', 'numberReady'];
        if (body.status[wanted] === undefined || body.status[wanted] !== body.status[ready]) return false;
      }
      return (await pods(cluster)).every(
        ({ status, metadata }) => status.phase !== 'Pending' && metadata.deletionTimestamp === undefined,
      );
    });
    const { body } = await cluster.api<{
      readonly items: readonly { readonly reason: string; readonly message: string }[];
    }>('GET', '/api/v1/namespaces/penstock/events');
    expect(
      body.items
        .filter(({ reason }) => reason === 'FailedCreate' || reason === 'FailedScheduling')
        .map(({ message }) => message),
    ).toEqual([]);
    return pods(cluster);
  }

  const nodesOf = (all: readonly Pod[], component: string): string[] =>
    all
      .filter(({ metadata }) => metadata.labels?.['app.kubernetes.io/component'] === component)
      .map(({ spec }) => spec.nodeName ?? '')
      .sort();
  const everyNode = NODES.map(({ name }) => name).sort();

  it('runs with the three URLs alone', async () => {
    await cluster.helm([
      'install',
      'penstock',
      CHART,
      '-n',
      'penstock',
      '--create-namespace',
      ...THREE_URLS,
      '--wait',
      '--timeout',
      '2m',
    ]);
    const running = await expectSound();
    // Nodes with taints have agents and mounts as well.
    for (const component of ['agent', 'csi-node', 'csi-mounts']) expect(nodesOf(running, component)).toEqual(everyNode);
    expect(nodesOf(running, 'lander')).toHaveLength(1);
    expect(nodesOf(running, 'csi-controller')).toHaveLength(2);
    const { body } = await cluster.api<{ readonly status: { readonly phase: string } }>(
      'GET',
      '/api/v1/namespaces/penstock/persistentvolumeclaims/lake',
    );
    expect(body.status.phase).toBe('Bound');
    // The cluster has the CRDs of snapshots.
    expect(await everything(cluster)).toContain('volumesnapshotclasses//penstock');
  });

  /** What a refused upgrade says to do. */
  async function deleteAsTold(message: string): Promise<string[]> {
    const told = [...message.matchAll(/^kubectl (.*)$/gm)].map(([, words = '']) => words);
    for (const words of told) expect(await cluster.kubectl(words.split(' '))).toMatchObject({ status: 0 });
    return told;
  }

  it('is upgraded to everything it offers, and says first what Kubernetes cannot change', async () => {
    // The cluster has nothing that makes buckets or balancers of load.
    const all = values({ ...MATRIX['everything'], bucket: {}, control: { replicas: 2 } });
    const upgrade = ['upgrade', 'penstock', CHART, ...all, ...THREE_URLS, '--wait', '--timeout', '30s'];
    const refused = await cluster.helm(upgrade).then(String, String);
    const history = await cluster.helm(['history', 'penstock', '-n', 'penstock', '-o', 'json']);
    expect(JSON.parse(history)).toMatchObject([{ revision: 1, status: 'deployed' }]);
    expect(await deleteAsTold(refused)).toEqual([
      'delete csidriver penstock.csi',
      'delete storageclass penstock',
      '-n penstock delete persistentvolumeclaim lake',
      'delete persistentvolume penstock-penstock-lake',
    ]);
    await cluster.helm(upgrade);
    const running = await expectSound();
    // KEDA says how many; there is none here.
    expect(nodesOf(running, 'lander')).toEqual(['near']);
    const scaled = await cluster.kubectl(['get', 'scaledobject', 'penstock-lander', '-n', 'penstock', '-o', 'json']);
    expect(JSON.parse(scaled.output)).toMatchObject({
      spec: { minReplicaCount: 2, triggers: [{ metadata: { consumerGroup: 'penstock-lander-edge.host' } }] },
    });
    expect(nodesOf(running, 'agent')).toEqual(['plant']);
  });

  it('runs what the schedules start, the compactor on spot nodes', async () => {
    for (const name of ['compactor', 'gc']) {
      const job = ['create', 'job', '-n', 'penstock', `${name}-now`, `--from=cronjob/penstock-${name}`];
      expect(await cluster.kubectl(job)).toMatchObject({ status: 0 });
      const wait = ['wait', '-n', 'penstock', `job/${name}-now`, '--for=condition=complete', '--timeout=60s'];
      expect(await cluster.kubectl(wait)).toMatchObject({ status: 0 });
    }
    expect(nodesOf(await pods(cluster), 'compactor')).toEqual(['spot', 'spot', 'spot', 'spot']);
    await cluster.kubectl(['delete', 'job', '-n', 'penstock', 'compactor-now', 'gc-now']);
  });

  it('is rolled back', async () => {
    // A rollback does not look; the same objects cannot be changed back.
    for (const name of ['csidriver/penstock.csi', 'storageclass/penstock', 'pvc/lake', 'pv/penstock-penstock-lake']) {
      expect(await cluster.kubectl(['delete', '-n', 'penstock', name])).toMatchObject({ status: 0 });
    }
    await cluster.helm(['rollback', 'penstock', '1', '-n', 'penstock', '--wait', '--timeout', '30s']);
    const running = await expectSound();
    expect(nodesOf(running, 'agent')).toEqual(everyNode);
    expect(nodesOf(running, 'lander')).toHaveLength(1);
  });

  it('takes your values from an older chart, and refuses what that one had as defaults', async () => {
    const older = join(cluster.folder, 'older');
    cpSync(CHART, older, { recursive: true });
    appendFileSync(join(older, 'values.yaml'), 'gone: true\n');
    rmSync(join(older, 'values.schema.json'));
    const release = (chart: string, ...args: string[]): Promise<string> =>
      cluster.helm(['upgrade', 'penstock', chart, '-n', 'penstock', '--wait', '--timeout', '30s', ...args]);
    await release(older, ...THREE_URLS, '--set', 'agent.port=9465');
    await expect(release(CHART, '--reuse-values')).rejects.toThrow("additional properties 'gone' not allowed");
    await release(CHART, '--reset-then-reuse-values');
    const values = await cluster.helm(['get', 'values', 'penstock', '-n', 'penstock', '-o', 'json']);
    expect(JSON.parse(values)).toMatchObject({ agent: { port: 9465 }, log: 'kafka://kafka:9092' });
    await expectSound();
  });

  it('leaves only what it says, and comes back to it', async () => {
    const token = async (): Promise<string> =>
      (
        await cluster.api<{ readonly data: { readonly token: string } }>(
          'GET',
          '/api/v1/namespaces/penstock/secrets/penstock-token',
        )
      ).body.data.token;
    const kept = await token();
    await cluster.helm(['uninstall', 'penstock', '-n', 'penstock', '--wait']);
    let left: string[] = [];
    // Its own namespace, and those of tenants, with all that they have.
    const namespaces = ['b', 'penstock', 'team-a'];
    const expected = [
      ...namespaces.map((name) => `configmaps/${name}/kube-root-ca.crt`),
      ...namespaces.map((name) => `namespaces//${name}`),
      'secrets/penstock/penstock-token',
      ...namespaces.map((name) => `serviceaccounts/${name}/default`),
    ];
    await until('nothing else is left', async () => {
      left = [...(await everything(cluster))].filter((name) => !before.has(name)).sort();
      return left.length <= expected.length;
    }).catch(() => undefined);
    expect(left).toEqual(expected);
    await cluster.helm(['install', 'penstock', CHART, '-n', 'penstock', ...THREE_URLS, '--wait', '--timeout', '30s']);
    await expectSound();
    expect(await token()).toBe(kept);
  });
});
