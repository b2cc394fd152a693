/** What the chart's programs may do in a cluster, and which level of Pod Security each pod needs; and the documents' manifests, as they are written. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CHART, manifests, podOf, THREE_URLS } from '../deploy/helm.ts';
import { missing } from '../support/services.ts';
import { startCluster, type Cluster } from './cluster.ts';

const ROOT = join(CHART, '..', '..', '..');

interface Access {
  readonly verbs: readonly string[];
  readonly group?: string;
  readonly resource: string;
  readonly name?: string;
  readonly namespace?: string;
}

const SNAPSHOTS = 'snapshot.storage.k8s.io';
const READ = ['get', 'list', 'watch'];
/** What the sidecars' projects ask for (their deploy/kubernetes/rbac.yaml), of what this driver offers. */
const SIDECARS_NEED: readonly Access[] = [
  { verbs: [...READ, 'create', 'patch', 'delete'], resource: 'persistentvolumes' },
  { verbs: [...READ, 'update'], resource: 'persistentvolumeclaims' },
  { verbs: ['patch'], resource: 'persistentvolumeclaims/status' },
  { verbs: ['list', 'watch', 'create', 'update', 'patch'], resource: 'events' },
  { verbs: READ, group: 'storage.k8s.io', resource: 'storageclasses' },
  { verbs: READ, group: 'storage.k8s.io', resource: 'volumeattributesclasses' },
  { verbs: [...READ, 'update'], group: SNAPSHOTS, resource: 'volumesnapshots' },
  { verbs: [...READ, 'update', 'patch'], group: SNAPSHOTS, resource: 'volumesnapshotcontents' },
  { verbs: ['update', 'patch'], group: SNAPSHOTS, resource: 'volumesnapshotcontents/status' },
  { verbs: READ, group: SNAPSHOTS, resource: 'volumesnapshotclasses' },
  {
    verbs: [...READ, 'create', 'update', 'delete'],
    group: 'coordination.k8s.io',
    resource: 'leases',
    namespace: 'penstock',
  },
  { verbs: ['get'], resource: 'secrets', namespace: 'penstock', name: 'penstock' },
];
const NOBODY_MAY: readonly Access[] = [
  // Of drivers with topology, with attaching, and that must know who uses a volume.
  { verbs: READ, resource: 'nodes' },
  { verbs: READ, resource: 'pods' },
  { verbs: READ, group: 'storage.k8s.io', resource: 'csinodes' },
  { verbs: READ, group: 'storage.k8s.io', resource: 'volumeattachments' },
  { verbs: ['list', 'watch'], resource: 'secrets' },
  { verbs: ['list', 'create', 'update'], resource: 'secrets', namespace: 'penstock' },
  { verbs: ['get'], resource: 'secrets', namespace: 'penstock', name: 'penstock-token' },
  { verbs: ['get'], resource: 'secrets', namespace: 'kube-system', name: 'any' },
  { verbs: ['create', 'update', 'delete'], resource: 'pods' },
  { verbs: ['create', 'get'], resource: 'pods/exec' },
  { verbs: ['create'], resource: 'serviceaccounts/token', namespace: 'penstock' },
  { verbs: ['update', 'patch'], resource: 'nodes' },
  { verbs: ['create', 'delete'], resource: 'persistentvolumeclaims' },
  { verbs: ['create', 'delete'], group: SNAPSHOTS, resource: 'volumesnapshotcontents' },
  { verbs: ['create', 'bind', 'escalate'], group: 'rbac.authorization.k8s.io', resource: 'clusterroles' },
  { verbs: ['create', 'update'], group: 'coordination.k8s.io', resource: 'leases', namespace: 'kube-system' },
  { verbs: ['*'], group: '*', resource: '*' },
];

describe.skipIf(missing('kubernetes', 'custom-resources', 'helm'))('the chart, in a real Kubernetes', () => {
  let cluster: Cluster;
  let rendered: string;

  beforeAll(async () => {
    cluster = await startCluster();
    await cluster.customResources();
    // Without nodes no hook ends.
    const release = ['penstock', CHART, '-n', 'penstock', ...THREE_URLS];
    await cluster.helm(['install', ...release, '--create-namespace', '--no-hooks']);
    const whole = [
      '--set',
      'csi.snapshots.enabled=true',
      '--set',
      'agent.hostPaths[0].name=logs',
      '--set',
      'agent.hostPaths[0].path=/var/log/machine',
    ];
    rendered = await cluster.helm(['template', ...release, ...whole, '--kube-version', '1.37.2']);
  });
  afterAll(() => cluster.stop());

  async function may(
    account: string,
    verb: string,
    { group = '', resource, name, namespace }: Access,
  ): Promise<boolean> {
    const [plain, subresource] = resource.split('/');
    const { body } = await cluster.api<{ readonly status: { readonly allowed: boolean } }>(
      'POST',
      '/apis/authorization.k8s.io/v1/subjectaccessreviews',
      {
        apiVersion: 'authorization.k8s.io/v1',
        kind: 'SubjectAccessReview',
        spec: {
          user: `system:serviceaccount:penstock:penstock-${account}`,
          groups: ['system:serviceaccounts', 'system:serviceaccounts:penstock', 'system:authenticated'],
          resourceAttributes: { verb, group, resource: plain, subresource, name, namespace },
        },
      },
    );
    return body.status.allowed;
  }

  it('lets the sidecars do what they need', async () => {
    const refused: string[] = [];
    for (const access of SIDECARS_NEED) {
      for (const verb of access.verbs) {
        if (!(await may('csi-controller', verb, access))) refused.push(`${verb} ${access.resource}`);
      }
    }
    expect(refused).toEqual([]);
  });

  it('lets nobody do more, and programs that do not speak to Kubernetes nothing', async () => {
    const allowed: string[] = [];
    for (const account of ['csi-controller', 'csi-node', 'pipeline', 'agent']) {
      for (const access of [...NOBODY_MAY, ...(account === 'csi-controller' ? [] : SIDECARS_NEED)]) {
        for (const verb of access.verbs) {
          if (await may(account, verb, access)) allowed.push(`${account} ${verb} ${access.resource}`);
        }
      }
    }
    expect(allowed).toEqual([]);
  });

  it('needs a privileged namespace for what is on the nodes, and for nothing else', async () => {
    for (const level of ['baseline', 'restricted']) {
      const labels = { 'pod-security.kubernetes.io/enforce': level };
      await cluster.api('POST', '/api/v1/namespaces', { metadata: { name: level, labels } });
      await cluster.api('POST', `/api/v1/namespaces/${level}/serviceaccounts`, { metadata: { name: 'any' } });
    }
    const accepted = async (level: string, spec: object): Promise<boolean> => {
      const pod = {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'pod' },
        spec: { ...spec, serviceAccountName: 'any' },
      };
      const { status, body } = await cluster.api<{ readonly message?: string }>(
        'POST',
        `/api/v1/namespaces/${level}/pods?dryRun=All&fieldValidation=Strict`,
        pod,
      );
      if (status !== 201) expect(body.message).toContain('violates PodSecurity');
      return status === 201;
    };
    const levels: Record<string, string> = {};
    for (const manifest of manifests(rendered)) {
      const spec = podOf(manifest);
      if (spec === undefined) continue;
      const level = (await accepted('restricted', spec))
        ? 'restricted'
        : (await accepted('baseline', spec))
          ? 'baseline'
          : 'privileged';
      levels[manifest.metadata.name] = level;
    }
    expect(levels).toEqual({
      'penstock-agent': 'privileged',
      'penstock-compactor': 'restricted',
      'penstock-control': 'restricted',
      'penstock-csi-controller': 'restricted',
      'penstock-csi-mounts': 'privileged',
      'penstock-csi-node': 'privileged',
      'penstock-format': 'restricted',
      'penstock-gc': 'restricted',
      'penstock-lander': 'restricted',
    });
  });

  it('has documents and examples that a cluster takes as they are written', async () => {
    await cluster.kubectl(['create', 'namespace', 'argocd']);
    const documents = ['INSTALL.md', 'VOLUMES.md', 'RUNBOOK.md'].map((name) =>
      readFileSync(join(ROOT, 'docs', name), 'utf8'),
    );
    const blocks = documents.flatMap((text) =>
      [...text.matchAll(/```yaml\n([^]*?)```/g)].map(([, block = '']) => block),
    );
    const examples = join(ROOT, 'deploy', 'examples');
    const files = readdirSync(examples).filter((name) => name.endsWith('.yaml'));
    const objects = [...files.map((name) => readFileSync(join(examples, name), 'utf8')), ...blocks].filter((text) =>
      text.includes('apiVersion:'),
    );
    expect(objects.length).toBeGreaterThan(3);
    for (const text of objects) {
      const strict = ['apply', '--server-side', '--dry-run=server', '--validate=strict', '-f', '-'];
      expect(await cluster.kubectl(strict, text), text).toMatchObject({ status: 0, errors: '' });
    }
  });

  it.each([['ReadWriteMany'], ['ReadOnlyMany'], ['ReadWriteOnce'], ['ReadWriteOncePod']])(
    'takes a claim of %s',
    async (mode) => {
      const claim = {
        ...{ apiVersion: 'v1', kind: 'PersistentVolumeClaim', metadata: { name: mode.toLowerCase() } },
        spec: { storageClassName: 'penstock', accessModes: [mode], resources: { requests: { storage: '1Gi' } } },
      };
      const path = '/api/v1/namespaces/penstock/persistentvolumeclaims?fieldValidation=Strict';
      expect(await cluster.api('POST', path, claim)).toMatchObject({ status: 201 });
    },
  );
});
