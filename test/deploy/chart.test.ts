/** The Helm chart: rendered by helm over a matrix of values, checked by Kubernetes' own schemas and against the rules it promises to keep. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { stringify } from 'yaml';
import { agentSchema } from '../../agent/config.ts';
import { DRIVER_NAME } from '../../fs-gateway/csi/identity.ts';
import { parseConfig } from '../../lib/config/load.ts';
import { pipelineSchema } from '../../lib/config/pipeline.ts';
import { run } from '../support/mount-guard.ts';
import { missing, requireService } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { CHART, configOf, containersOf, helm, manifests, MATRIX, template, THREE_URLS } from './helm.ts';
import type { Manifest } from './helm.ts';

/** The only containers that may be privileged: what mounts. */
const MOUNTING = new Set(['penstock-csi-node/csi', 'penstock-csi-mounts/mounts']);

/** Their schemas are not Kubernetes' own. */
const CUSTOM = 'VolumeSnapshotClass,ServiceMonitor,PodMonitor,PrometheusRule,NodePool,Bucket,Application,ScaledObject';

/** Who may scrape where there are tenants. */
const NO_TENANTS = [
  { namespaceSelector: { matchExpressions: [{ key: 'penstock.io/tenant', operator: 'DoesNotExist' }] } },
];

interface KubeconformReport {
  readonly summary: Readonly<Record<string, number>>;
  readonly resources?: unknown;
}

const absent = missing('helm', 'kubeconform', 'k8s-schemas');

async function render(values: object, more: readonly string[] = []): Promise<string> {
  const path = join(tempDir('chart'), 'values.yaml');
  writeFileSync(path, stringify(values));
  return template([...THREE_URLS, '-f', path, ...more]);
}

/** Checks a file against the schemas of a Kubernetes; returns the counts. */
async function conform(path: string, version: string): Promise<Readonly<Record<string, number>>> {
  const schema = `${requireService('k8s-schemas')}/${version}/{{.ResourceKind}}{{.KindSuffix}}.json`;
  const options = ['-n', '1', '-strict', '-summary', '-output', 'json', '-skip', CUSTOM, '-schema-location', schema];
  const { stdout, stderr } = await run(requireService('kubeconform'), [...options, path]);
  const { summary, resources } = JSON.parse(stdout || stderr) as KubeconformReport;
  expect(summary, `${version}: ${JSON.stringify(resources, null, 1)}`).toMatchObject({ invalid: 0, errors: 0 });
  return summary;
}

describe.skipIf(absent)('the Helm chart', () => {
  it('lints, and needs the three URLs and nothing else', async () => {
    expect((await helm('lint', [CHART, '--strict', ...THREE_URLS])).output).toContain('0 chart(s) failed');
    await expect(template()).rejects.toThrow('log, store and meta are needed');
    expect(await template(['--set', 'existingSecret=mine'])).not.toContain(
      'kind: Secret\nmetadata:\n  name: penstock\n',
    );
  });

  it.each(Object.entries(MATRIX))('is what Kubernetes takes: %s', async (name, values) => {
    const path = join(tempDir('chart'), 'rendered.yaml');
    writeFileSync(path, await render(values));
    const versions = readdirSync(requireService('k8s-schemas')).sort();
    expect(versions.length).toBeGreaterThan(2);
    // What has everything is checked against every version, what has less against the newest.
    for (const version of name === 'everything' ? versions : versions.slice(-1)) {
      const summary = await conform(path, version);
      expect(summary['valid']).toBeGreaterThan(5);
    }
  });

  it.each(Object.entries(MATRIX))('keeps its rules: %s', async (_name, values) => {
    const rendered = await render(values);
    for (const { where, container, pod } of containersOf(rendered)) {
      const { image, resources, securityContext = {}, args = [], env = [] } = container;
      expect(image, where).toMatch(/^[^:@]+(\/[^:@]+)*(:[^:@]+|@sha256:[0-9a-f]{64})$/);
      expect(image, where).not.toMatch(/:latest$/);
      expect(resources?.limits?.['memory'], where).toBeDefined();
      expect(resources?.requests?.['cpu'], where).toBeDefined();
      expect(securityContext['readOnlyRootFilesystem'], where).toBe(true);
      if (MOUNTING.has(where)) {
        expect(
          container.volumeMounts?.some(({ mountPropagation }) => mountPropagation === 'Bidirectional'),
          where,
        ).toBe(true);
      } else {
        expect(securityContext['privileged'] ?? false, where).toBe(false);
        expect(securityContext['allowPrivilegeEscalation'], where).toBe(false);
        expect(securityContext['capabilities'], where).toEqual({ drop: ['ALL'] });
      }
      // Nothing secret on a command line, nor written out in an environment.
      for (const text of [...args, ...env.map(({ value = '' }) => value)]) {
        expect(text, where).not.toMatch(/redis:|kafka:|s3:\/\/|hunter2/);
      }
      expect(pod.securityContext?.['seccompProfile'], where).toEqual({ type: 'RuntimeDefault' });
      // Within the two minutes of a spot notice.
      expect(pod.terminationGracePeriodSeconds ?? 30, where).toBeLessThanOrEqual(120);
      const volumes = new Set(pod.volumes?.map(({ name }) => name));
      for (const { name } of container.volumeMounts ?? []) expect(volumes.has(name), `${where} ${name}`).toBe(true);
    }
    expect(containersOf(rendered).length).toBeGreaterThan(0);
    // URLs and keys stand in the Secret and nowhere else.
    const others = manifests(rendered).filter(({ kind }) => kind !== 'Secret');
    expect(JSON.stringify(others)).not.toMatch(/redis:\/\/redis|kafka:\/\/kafka|hunter2/);
  });

  it('offers snapshots where the cluster has them, or where it is told to', async () => {
    const has = ['--api-versions', 'snapshot.storage.k8s.io/v1'];
    const off = ['--set', 'csi.snapshots.enabled=false'];
    const on = ['--set', 'csi.snapshots.enabled=true'];
    for (const [args, offered] of [
      [[], false],
      [has, true],
      [[...has, ...off], false],
      [on, true],
    ] as const) {
      const rendered = await template([...THREE_URLS, ...args]);
      expect(rendered.includes('/csi-snapshotter:v')).toBe(offered);
      expect(rendered.includes('volumesnapshotcontents/status')).toBe(offered);
      const [found] = manifests(rendered).filter(({ kind }) => kind === 'VolumeSnapshotClass');
      expect(found !== undefined).toBe(offered);
      if (offered) {
        expect(found).toMatchObject({
          ...{ driver: 'penstock.csi', deletionPolicy: 'Delete' },
          parameters: { 'csi.storage.k8s.io/snapshotter-secret-name': 'penstock' },
        });
      }
    }
    await expect(template([...THREE_URLS, '--set', 'csi.snapshots.enabled=maybe'])).rejects.toThrow('snapshots');
  });

  it('scales landers by the lag of each dataset where KEDA is, and leaves their number to it', async () => {
    const datasets = [
      { name: 'edge.host', topic: 'host' },
      { name: 'edge.vibration', topic: 'vibration' },
    ];
    const find = (rendered: string, kind: string): Manifest | undefined =>
      manifests(rendered).find((manifest) => manifest.kind === kind && manifest.metadata.name === 'penstock-lander');
    const off = await render({ datasets });
    expect(find(off, 'Deployment')?.spec?.['replicas']).toBe(1);
    expect(find(off, 'ScaledObject')).toBeUndefined();
    const keda = { enabled: true, triggerAuthentication: 'kafka', metadata: { tls: 'enable' } };
    const brokers = ['--set', String.raw`log=kafka://user:hunter2@a:9092\,b:9092?tls=true`];
    const on = await render({ datasets, lander: { keda } }, brokers);
    expect(find(on, 'Deployment')?.spec).not.toHaveProperty('replicas');
    const trigger = (group: string, topic: string): object => ({
      type: 'kafka',
      metadata: {
        ...{ bootstrapServers: 'a:9092,b:9092', consumerGroup: group, topic, lagThreshold: '10000000' },
        ...{ offsetResetPolicy: 'earliest', tls: 'enable' },
      },
      authenticationRef: { name: 'kafka' },
    });
    expect(find(on, 'ScaledObject')?.spec).toMatchObject({
      scaleTargetRef: { name: 'penstock-lander' },
      ...{ minReplicaCount: 1, maxReplicaCount: 8 },
      triggers: [trigger('penstock-lander-edge.host', 'host'), trigger('penstock-lander-edge.vibration', 'vibration')],
    });
    const secret = ['--set', 'existingSecret=mine,lander.keda.enabled=true'];
    await expect(template(secret)).rejects.toThrow('lander.keda.bootstrapServers=HOST:9092');
    expect(await template([...secret, '--set', 'lander.keda.bootstrapServers=k:9092'])).toContain('"k:9092"');
  });

  it('offers inline volumes, and gives nodes the secrets that they need, only where it is told to', async () => {
    for (const offered of [false, true]) {
      const rendered = await template([...THREE_URLS, '--set', `csi.inline.enabled=${String(offered)}`]);
      const driver = manifests(rendered).find(({ kind }) => kind === 'CSIDriver');
      const volumeLifecycleModes = offered ? ['Persistent', 'Ephemeral'] : ['Persistent'];
      expect(driver?.spec).toMatchObject({ podInfoOnMount: true, volumeLifecycleModes });
      const node = containersOf(rendered).find(({ where }) => where === 'penstock-csi-node/csi');
      expect(node?.container.args?.includes('--secrets=/etc/penstock/secrets')).toBe(offered);
    }
  });

  it('says what node the cost of lander and compactor is of, where it knows', async () => {
    const said = async (values: object): Promise<Readonly<Record<string, object>>> => {
      const saying = containersOf(await render(values)).flatMap(({ where, container }) => {
        const of = container.env?.filter(({ name }) => name.startsWith('PENSTOCK_NODE_')) ?? [];
        return of.length === 0
          ? []
          : [[where, Object.fromEntries(of.map(({ name, value }) => [name, value]))] as const];
      });
      return Object.fromEntries(saying);
    };
    const [lander, compactor] = ['penstock-lander/lander', 'penstock-compactor/compactor'];
    expect(await said({})).toEqual({});
    const karpenter = { enabled: true };
    expect(await said({ compactor: { karpenter } })).toEqual({ [compactor]: { PENSTOCK_NODE_SPOT: 'true' } });
    expect(
      await said({
        lander: { node: { type: 'm6i.large' } },
        compactor: { karpenter, node: { type: 'c6id.xlarge', spot: false } },
      }),
    ).toEqual({
      [lander]: { PENSTOCK_NODE_TYPE: 'm6i.large' },
      [compactor]: { PENSTOCK_NODE_TYPE: 'c6id.xlarge', PENSTOCK_NODE_SPOT: 'false' },
    });
    expect(await said({ lander: { node: { spot: false } }, compactor: { node: { spot: true } } })).toEqual({
      [lander]: { PENSTOCK_NODE_SPOT: 'false' },
      [compactor]: { PENSTOCK_NODE_SPOT: 'true' },
    });
  });

  it('gives passwords as files to what opens the log, and to nothing else', async () => {
    const rendered = await render(MATRIX['everything'] ?? {});
    const having = containersOf(rendered).filter(({ container, pod }) => {
      const mount = container.volumeMounts?.find(({ mountPath }) => mountPath === '/etc/penstock-credentials');
      const volume = pod.volumes?.find(({ name }) => name === mount?.name);
      if (mount !== undefined) expect(volume?.secret).toEqual({ secretName: 'passwords' });
      return mount?.readOnly === true;
    });
    expect(having.map(({ where }) => where).sort()).toEqual([
      ...['penstock-agent/agent', 'penstock-compactor/compactor', 'penstock-control/control', 'penstock-lander/lander'],
    ]);
  });

  it('gives a type of SELinux to what works in folders of its node, and to nothing else', async () => {
    const typed = containersOf(await render(MATRIX['everything'] ?? {})).filter(
      ({ container }) => container.securityContext?.['seLinuxOptions'] !== undefined,
    );
    const onNodes = [
      'penstock-agent/agent',
      'penstock-compactor/compactor',
      'penstock-csi-mounts/mounts',
      'penstock-csi-node/csi',
      'penstock-csi-node/registrar',
    ];
    expect(typed.map(({ where }) => where).sort()).toEqual(onNodes);
    // Whatever has a folder of its node, or shares one with somebody of another type.
    const folders = containersOf(await render({ ...MATRIX['everything'], seLinuxOptions: {} })).filter(
      ({ pod, container }) =>
        container.volumeMounts?.some(
          ({ name }) => pod.volumes?.find((one) => one.name === name)?.hostPath !== undefined,
        ),
    );
    expect(folders.map(({ where }) => where).sort()).toEqual(onNodes);
    for (const { container } of folders) expect(container.securityContext).not.toHaveProperty('seLinuxOptions');
  });

  it('renders configurations that the programs accept', async () => {
    onTestFinished(() => {
      vi.unstubAllEnvs();
    });
    vi.stubEnv('PENSTOCK_LOG', 'kafka://k:9092');
    vi.stubEnv('PENSTOCK_STORE', 's3://b/p?region=r');
    vi.stubEnv('PENSTOCK_META', 'redis://r:6379/0');
    vi.stubEnv('NODE_NAME', 'edge-7');
    for (const values of Object.values(MATRIX)) {
      const config = configOf(await render(values));
      const pipeline = parseConfig(config['pipeline.yaml'] ?? '', 'pipeline.yaml', pipelineSchema);
      expect(pipeline.meta).toBe('redis://r:6379/0');
      expect(pipeline.serve.tenants).toEqual(values === MATRIX['everything'] ? ['team-a', 'b'] : []);
      const { maxConnections } = pipeline.serve;
      expect(maxConnections).toBe(values === MATRIX['everything'] ? 1_000_000 : 25_000);
      const agent = config['agent.yaml'];
      const parsed = agent === undefined ? undefined : parseConfig(agent, 'agent.yaml', agentSchema);
      if (parsed !== undefined) expect(parsed.agent.id).toBe('edge-7');
      const control = { url: 'http://penstock-control.penstock:8080', tokenFile: '/etc/penstock-token/token' };
      if (values === MATRIX['everything']) expect(parsed?.control).toEqual(control);
    }
  });

  it('brings the sidecars that were tried in a real Kubernetes', async () => {
    const root = join(CHART, '..', '..', '..');
    const tried = readFileSync(join(root, 'test', 'kubernetes', 'sidecars', 'go.mod'), 'utf8');
    const brought = containersOf(await render(MATRIX['everything'] ?? {})).map(({ container }) => container.image);
    const modules = [...tried.matchAll(/kubernetes-csi\/external-(\w+)\/v\d+ (v[\d.]+)/g)];
    expect(modules).toHaveLength(3);
    for (const [, name = '', version = ''] of modules) {
      expect(brought).toContain(`registry.k8s.io/sig-storage/csi-${name}:${version}`);
    }
  });

  it('restarts the pods that read what has changed, and no others', async () => {
    const sums = async (args: readonly string[]): Promise<Record<string, unknown>> => {
      const workloads = manifests(await template([...THREE_URLS, ...args])).filter(({ kind }) =>
        ['Deployment', 'DaemonSet'].includes(kind),
      );
      return Object.fromEntries(workloads.map(({ metadata, spec }) => [metadata.name, JSON.stringify(spec)]));
    };
    const before = await sums([]);
    const restarted = async (...args: string[]): Promise<string[]> => {
      const after = await sums(args);
      return Object.keys(after).filter((name) => after[name] !== before[name]);
    };
    const [agent, control, controller, lander] = ['agent', 'control', 'csi-controller', 'lander'].map(
      (name) => `penstock-${name}`,
    );
    expect(await restarted('--set-json', 'datasets=[{"name":"a.b","topic":"c"}]')).toEqual([control, lander]);
    expect(await restarted('--set', 'agent.spool.maxBytes=1GB')).toEqual([agent]);
    expect(await restarted('--set', 'log=kafka://other:9092')).toEqual([agent, control, controller, lander]);
    expect(await restarted('--set', 's3.secretAccessKey=new,s3.accessKeyId=id')).toEqual([control, controller, lander]);
  });

  it('can be upgraded: what Kubernetes never changes is what it was', async () => {
    const rendered = manifests(await render(MATRIX['everything'] ?? {}));
    const selectors = rendered.flatMap(({ kind, metadata, spec }) =>
      ['Deployment', 'DaemonSet'].includes(kind) ? [[`${kind} ${metadata.name}`, spec?.['selector']] as const] : [],
    );
    const of = (component: string): object => ({
      matchLabels: {
        ...{ 'app.kubernetes.io/name': 'penstock', 'app.kubernetes.io/instance': 'penstock' },
        'app.kubernetes.io/component': component,
      },
    });
    // A release that has another one of these cannot be upgraded to this chart.
    expect(Object.fromEntries(selectors)).toEqual({
      'DaemonSet penstock-agent': of('agent'),
      'DaemonSet penstock-csi-node': of('csi-node'),
      'DaemonSet penstock-csi-mounts': of('csi-mounts'),
      'Deployment penstock-control': of('control'),
      'Deployment penstock-csi-controller': of('csi-controller'),
      'Deployment penstock-lander': of('lander'),
    });
    const driver = rendered.find(({ kind }) => kind === 'CSIDriver');
    expect(driver).toMatchObject({
      metadata: { name: DRIVER_NAME },
      spec: { attachRequired: false, fsGroupPolicy: 'File' },
    });
    const [class_] = rendered.filter(({ kind }) => kind === 'StorageClass');
    expect(class_).toMatchObject({ provisioner: DRIVER_NAME, volumeBindingMode: 'Immediate' });
    const jobs = rendered.filter(({ kind }) => kind === 'Job');
    // A Job can hardly be changed: each is made anew.
    expect(jobs.map(({ metadata }) => metadata.annotations?.['helm.sh/hook-delete-policy'])).toEqual([
      'before-hook-creation,hook-succeeded',
    ]);
  });

  it('lets Prometheus reach what it is told to scrape', async () => {
    const text = await render(MATRIX['everything'] ?? {});
    const rendered = manifests(text);
    const monitors = rendered.filter(({ kind }) => kind === 'PodMonitor' || kind === 'ServiceMonitor');
    const asked = monitors.map(({ metadata, spec }) => {
      const [endpoint] = [spec?.['podMetricsEndpoints'], spec?.['endpoints']].flatMap(
        (list) => (list ?? []) as { port: string }[],
      );
      return [metadata.name, endpoint?.port] as const;
    });
    expect(asked.length).toBe(5);
    const open = rendered
      .filter(({ kind }) => kind === 'NetworkPolicy')
      .flatMap(({ spec }) => (spec?.['ingress'] ?? []) as { from?: unknown; ports?: { port: string }[] }[])
      .flatMap(({ from, ports = [] }) =>
        from === undefined || isDeepStrictEqual(from, NO_TENANTS) ? ports.map(({ port }) => port) : [],
      );
    for (const [name, port] of asked) {
      const pod = containersOf(text).filter(({ manifest }) => manifest.metadata.name === name);
      const found = pod.find(({ container }) => container.ports?.some((one) => one.name === port));
      expect(found, `${name} ${port ?? ''}`).toBeDefined();
      // No policy of pods holds for what is on its node's network.
      if (found?.pod.hostNetwork !== true) expect(open, name).toContain(port);
    }
  });

  it('keeps the pods of tenants from metrics that name the datasets of all', async () => {
    for (const [values, from] of [
      [MATRIX['everything'], NO_TENANTS],
      [MATRIX['defaults'], undefined],
    ] as const) {
      const rules = manifests(await render(values ?? {}))
        .filter(({ kind }) => kind === 'NetworkPolicy')
        .flatMap(({ spec }) => (spec?.['ingress'] ?? []) as { from?: unknown; ports: { port: string }[] }[]);
      for (const port of ['control-metrics', 'lander-metrics']) {
        expect(rules.find(({ ports }) => ports.some((one) => one.port === port))?.from, port).toEqual(from);
      }
    }
  });

  it('asks for a private, encrypted bucket in the words of ACK, which drops others without a word', async () => {
    const bucket = manifests(await render(MATRIX['everything'] ?? {})).find(({ kind }) => kind === 'Bucket');
    expect(bucket?.spec).toEqual({
      name: 'plant-lake',
      encryption: { rules: [{ applyServerSideEncryptionByDefault: { sseAlgorithm: 'AES256' } }] },
      publicAccessBlock: {
        ...{ blockPublicACLs: true, blockPublicPolicy: true },
        ...{ ignorePublicACLs: true, restrictPublicBuckets: true },
      },
      lifecycle: {
        rules: [
          {
            ...{ id: 'penstock-uploads', status: 'Enabled', filter: { prefix: '' } },
            abortIncompleteMultipartUpload: { daysAfterInitiation: 1 },
          },
        ],
      },
    });
    expect(bucket?.metadata.annotations).toEqual({
      ...{ 'helm.sh/resource-policy': 'keep', 'services.k8s.aws/deletion-policy': 'retain' },
    });
  });

  it('keeps what tenants have when the release goes, and gives the role of the bucket to those who use it', async () => {
    const rendered = manifests(await render(MATRIX['everything'] ?? {}));
    for (const { kind, metadata } of rendered) {
      if (kind === 'Namespace') expect(metadata.annotations).toEqual({ 'helm.sh/resource-policy': 'keep' });
    }
    const roles = rendered.flatMap(({ kind, metadata }) =>
      kind === 'ServiceAccount' ? [[metadata.name, metadata.annotations !== undefined]] : [],
    );
    expect(Object.fromEntries(roles)).toEqual({
      ...{
        'penstock-agent': false,
        'penstock-pipeline': true,
        'penstock-csi-controller': true,
        'penstock-csi-node': true,
      },
    });
  });

  it('has examples that Kubernetes takes', async () => {
    const examples = join(CHART, '..', '..', 'examples');
    const newest = readdirSync(requireService('k8s-schemas')).sort().at(-1) ?? '';
    for (const name of readdirSync(examples)) await conform(join(examples, name), newest);
    const application = manifests(readFileSync(join(examples, 'argocd-application.yaml'), 'utf8'))[0];
    const { source } = application?.spec as { source: { helm: { valuesObject: object } } }; // the example, as it stands there
    expect(await render(source.helm.valuesObject)).toContain('penstock-token');
  });
});
