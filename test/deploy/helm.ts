/** Renders the chart with the real helm. */
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { requireService } from '../support/services.ts';
import { run } from '../support/mount-guard.ts';

export const CHART = join(import.meta.dirname, '..', '..', 'deploy', 'helm', 'penstock');
const KUBERNETES = '1.31.0';
export const THREE_URLS = [
  ...['--set', 'log=kafka://kafka:9092', '--set', 'meta=redis://redis:6379/0'],
  ...['--set', 'store=s3://lake/prefix?region=eu-central-1'],
];

/** Each switch of the chart at least once on and once off. */
export const MATRIX: Readonly<Record<string, object>> = {
  defaults: {},
  everything: {
    s3: { accessKeyId: 'key-id', secretAccessKey: 'hunter2' },
    serviceAccount: { annotations: { 'eks.amazonaws.com/role-arn': 'arn:aws:iam::1:role/penstock' } },
    image: { digest: `sha256:${'0'.repeat(64)}`, pullSecrets: [{ name: 'pull' }] },
    runtimeClassName: 'kata',
    ca: { secret: 'authorities' },
    credentials: { secret: 'passwords' },
    seLinuxOptions: { type: 'spc_t' },
    zone: 'eu-central-1a',
    pipeline: { compactor: { memoryBytes: '2GB' }, topics: { partitions: 12 } },
    volume: { options: ['blockSize=4MiB'], claim: { subPath: 'lake' } },
    agent: {
      hostPaths: [
        { name: 'logs', path: '/var/log/machine' },
        { name: 'containers', path: '/var/log/containers' },
        { name: 'pods', path: '/var/log/pods' },
        { name: 'run-log', path: '/run/log' },
      ],
      sources: [
        { type: 'file', path: '/var/log/machine/*.ndjson', sensor: 'id', to: 'machine' },
        { type: 'file', path: '/var/log/containers/*.log', exclude: ['**/*_penstock_*'], format: 'cri', to: 'logs' },
        { type: 'journald', units: ['kubelet'], to: 'journal' },
      ],
      extraConfig: {
        transforms: [{ type: 'parse', on: 'logs', field: 'message', format: 'json' }],
        rules: [{ when: { spoolUsed: '>80%' }, do: { sample: 0.1 }, on: ['logs'] }],
      },
      control: { tokenSecret: 'agents' },
      nodeSelector: { edge: 'true' },
      priorityClassName: 'high',
    },
    lander: { keda: { enabled: true, minReplicas: 2, triggerAuthentication: 'kafka', metadata: { tls: 'enable' } } },
    bucket: { create: true, name: 'plant-lake' },
    compactor: { shards: 4, karpenter: { enabled: true }, scratch: { hostPath: '/mnt/nvme' } },
    control: { replicas: 2, maxConnections: 1_000_000, service: { type: 'LoadBalancer', annotations: { a: 'b' } } },
    csi: {
      inline: { enabled: true },
      snapshots: { enabled: true, default: true },
      storageClass: { default: true, parameters: { cacheSize: '50GB', blockSize: '4MiB' } },
    },
    monitoring: {
      enabled: true,
      labels: { release: 'prometheus' },
      traces: { endpoint: 'http://collector.observability:4318' },
    },
    networkPolicy: { controlFrom: [{ namespaceSelector: { matchLabels: { name: 'ingress' } } }] },
    tenants: [{ name: 'team-a', group: 'team-a', storage: '1Ti', lake: { subPath: 'lake/edge.host' } }, { name: 'b' }],
  },
  'pipeline only': {
    ca: { configMap: 'authorities' },
    compactor: { spot: false, karpenter: { enabled: true }, scratch: { storageClassName: 'local' } },
    csi: { enabled: false },
    control: { enabled: false },
    gc: { enabled: false },
    monitoring: { dashboards: false },
  },
  'volumes only': {
    agent: { enabled: false },
    lander: { enabled: false },
    compactor: { enabled: false, spot: false },
    networkPolicy: { enabled: false },
    volume: { claim: { enabled: false } },
    csi: { storageClass: { create: false } },
  },
};

export interface Manifest {
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec?: Readonly<Record<string, unknown>>;
  readonly data?: Readonly<Record<string, string>>;
  readonly stringData?: Readonly<Record<string, string>>;
}

export async function helm(
  command: string,
  args: readonly string[],
): Promise<{ readonly status: number | null; readonly output: string; readonly errors: string }> {
  const { status, stdout, stderr } = await run(requireService('helm'), [
    command,
    ...args,
    '--kube-version',
    KUBERNETES,
  ]);
  return { status, output: stdout, errors: stderr };
}

/** Throws helm's own message. */
export async function template(args: readonly string[] = []): Promise<string> {
  const { status, output, errors } = await helm('template', ['penstock', CHART, '--namespace', 'penstock', ...args]);
  if (status !== 0) throw new Error(errors);
  return output;
}

export function manifests(rendered: string): Manifest[] {
  return parseAllDocuments(rendered).flatMap((document) => {
    const value = document.toJS() as Manifest | null; // what helm rendered; an empty document is null
    return value === null ? [] : [value];
  });
}

/** The files of the programs' ConfigMap, by name. */
export function configOf(rendered: string): Readonly<Record<string, string>> {
  const found = manifests(rendered).find(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === 'penstock');
  return found?.data ?? {};
}

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly args?: readonly string[];
  readonly securityContext?: Readonly<Record<string, unknown>>;
  readonly resources?: {
    readonly limits?: Readonly<Record<string, string>>;
    readonly requests?: Readonly<Record<string, string>>;
  };
  readonly volumeMounts?: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly readOnly?: boolean;
    readonly mountPropagation?: string;
  }[];
  readonly env?: readonly {
    readonly name: string;
    readonly value?: string;
    readonly valueFrom?: {
      readonly secretKeyRef?: { readonly key: string };
      readonly fieldRef?: { readonly fieldPath: string };
    };
  }[];
  readonly ports?: readonly { readonly name: string; readonly containerPort: number }[];
  readonly startupProbe?: Probe;
  readonly livenessProbe?: Probe;
  readonly readinessProbe?: Probe;
}

export interface Probe {
  readonly httpGet: { readonly path: string; readonly port: string };
}

export interface PodSpec {
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly securityContext?: Readonly<Record<string, unknown>>;
  readonly volumes?: readonly {
    readonly name: string;
    readonly hostPath?: { readonly path: string; readonly type?: string };
    readonly configMap?: object;
    readonly secret?: object;
  }[];
  readonly terminationGracePeriodSeconds?: number;
  readonly hostNetwork?: boolean;
}

export interface Placed {
  /** MANIFEST/CONTAINER. */
  readonly where: string;
  readonly manifest: Manifest;
  readonly pod: PodSpec;
  readonly container: Container;
}

export function containersOf(rendered: string): Placed[] {
  return manifests(rendered).flatMap((manifest) => {
    const pod = podOf(manifest);
    if (pod === undefined) return [];
    return [...pod.containers, ...(pod.initContainers ?? [])].map((container) => ({
      where: `${manifest.metadata.name}/${container.name}`,
      ...{ manifest, pod, container },
    }));
  });
}

/** The pod of a workload, or undefined for another kind. */
export function podOf({ kind, spec }: Manifest): PodSpec | undefined {
  const job = kind === 'CronJob' ? (spec?.['jobTemplate'] as Manifest | undefined)?.spec : spec; // as batch/v1 has it
  const template = (job as { readonly template?: { readonly spec?: PodSpec } } | undefined)?.template; // as apps/v1 has it
  return ['Deployment', 'DaemonSet', 'StatefulSet', 'Job', 'CronJob'].includes(kind) ? template?.spec : undefined;
}
