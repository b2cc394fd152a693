/**
 * A Kubernetes of one's own on loopback: etcd, kube-apiserver (RBAC, and every admission plugin that is on by default), kube-controller-manager and
 * kube-scheduler, built by `bin/install.mjs --kubernetes`. No container runs: `nodes.ts` says for the nodes what becomes of pods.
 *
 * Limits: its files are in a temporary folder, and etcd does not sync them.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { generateKeyPairSync } from 'node:crypto';
import { requireService } from '../support/services.ts';
import { makeTempDir } from '../support/temp.ts';
import { freePort } from '../support/ports.ts';

const START_DEADLINE_MS = 90_000;
const ADMINISTRATOR = 'administrator-token';

export interface KubeObject {
  readonly kind: string;
  readonly apiVersion: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
    readonly ownerReferences?: readonly { readonly kind: string; readonly name: string }[];
  };
}

export interface Answer<T> {
  readonly status: number;
  readonly body: T;
}

export interface Outcome {
  readonly status: number | null;
  readonly output: string;
  readonly errors: string;
}

export interface Cluster {
  readonly folder: string;
  /** Of the administrator. */
  readonly kubeconfig: string;
  /** One call of the API, as the administrator. A body of PATCH is a strategic merge. */
  api<T>(method: string, path: string, body?: object): Promise<Answer<T>>;
  kubectl(args: readonly string[], input?: string): Promise<Outcome>;
  /** Throws with its message and the state of the cluster when it fails. */
  helm(args: readonly string[]): Promise<string>;
  /** Defines those that the chart and its examples have. */
  customResources(): Promise<void>;
  /** A program that ends with the cluster; its log is `folder/NAME.log`. */
  spawn(name: string, command: string, args: readonly string[], env?: Readonly<Record<string, string>>): void;
  /** The path of a kubeconfig for a bearer of this token. */
  kubeconfigOf(name: string, token: string): string;
  stop(): Promise<void>;
}

/** Of what `bin/install.mjs --kubernetes` built; etcd's program is called after its module. */
function program(name: string): string {
  return join(requireService('kubernetes'), name === 'etcd' ? 'server' : name);
}

/** Runs a command to its end; output is kept, never inherited. */
async function finish(
  command: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  input: string,
  deadlineMs = 240_000,
): Promise<Outcome> {
  const child = spawn(command, args, { env, timeout: deadlineMs, killSignal: 'SIGKILL' });
  let output = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  const [status] = (await once(child, 'close')) as [number | null];
  return { status, output, errors };
}

export async function startCluster(): Promise<Cluster> {
  const folder = makeTempDir('kubernetes');
  const path = (name: string): string => join(folder, name);
  const stops: (() => Promise<void>)[] = [];
  const start = (
    name: string,
    command: string,
    args: readonly string[],
    env: Readonly<Record<string, string>> = {},
  ): void => {
    const log = openSync(path(`${name}.log`), 'a');
    const child = spawn(command, args, { stdio: ['ignore', log, log], env: { ...process.env, ...env } });
    closeSync(log);
    const exited = once(child, 'exit');
    stops.unshift(async () => {
      child.kill('SIGKILL');
      await exited;
    });
  };
  const stop = async (): Promise<void> => {
    for (const end of stops) await end();
    rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  };
  const [etcdPort, peerPort, port, managerPort, schedulerPort] = [
    await freePort(),
    await freePort(),
    await freePort(),
    await freePort(),
    await freePort(),
  ];
  const { publicKey, privateKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  writeFileSync(path('sa.pub'), publicKey);
  writeFileSync(path('sa.key'), privateKey, { mode: 0o600 });
  writeFileSync(path('tokens.csv'), `${ADMINISTRATOR},administrator,1,system:masters\n`);

  const etcd = `http://127.0.0.1:${etcdPort}`;
  const peer = `http://127.0.0.1:${peerPort}`;
  start('etcd', program('etcd'), [
    ...['--data-dir', path('etcd'), '--unsafe-no-fsync', '--log-level', 'error'],
    ...['--listen-client-urls', etcd, '--advertise-client-urls', etcd],
    ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer, '--initial-cluster', `default=${peer}`],
  ]);
  start('kube-apiserver', program('kube-apiserver'), [
    ...[
      '--etcd-servers',
      etcd,
      '--bind-address',
      '127.0.0.1',
      '--secure-port',
      String(port),
      '--cert-dir',
      path('tls'),
    ],
    ...['--token-auth-file', path('tokens.csv'), '--authorization-mode', 'RBAC'],
    ...['--service-account-key-file', path('sa.pub'), '--service-account-signing-key-file', path('sa.key')],
    ...['--service-account-issuer', 'https://kubernetes.default.svc', '--service-cluster-ip-range', '10.0.0.0/24'],
    ...['--endpoint-reconciler-type', 'none', '--allow-privileged'],
  ]);

  const url = `https://127.0.0.1:${port}`;
  const certificate = path('tls/apiserver.crt');
  const kubeconfigOf = (name: string, token: string): string => {
    const of = {
      ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'test' },
      clusters: [{ name: 'test', cluster: { server: url, 'certificate-authority': certificate } }],
      users: [{ name: 'test', user: { token } }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'test', namespace: 'penstock' } }],
    };
    writeFileSync(path(`${name}.kubeconfig`), JSON.stringify(of), { mode: 0o600 });
    return path(`${name}.kubeconfig`);
  };
  const kubeconfig = kubeconfigOf('administrator', ADMINISTRATOR);
  let agent: Agent | undefined;
  const api = async <T>(method: string, route: string, body?: object): Promise<Answer<T>> => {
    agent ??= new Agent({ ca: readFileSync(certificate), keepAlive: true });
    const text = body === undefined ? '' : JSON.stringify(body);
    const headers = {
      authorization: `Bearer ${ADMINISTRATOR}`,
      'content-type': method === 'PATCH' ? 'application/strategic-merge-patch+json' : 'application/json',
      // Node does not say it of a DELETE by itself.
      'content-length': Buffer.byteLength(text),
    };
    const sent = request(`${url}${route}`, { method, headers, agent, timeout: 30_000 });
    sent.on('timeout', () => sent.destroy(new Error(`no answer to ${method} ${route}`)));
    sent.end(text);
    const [response] = (await once(sent, 'response')) as [AsyncIterable<Buffer> & { readonly statusCode: number }];
    const chunks: Buffer[] = [];
    for await (const chunk of response) chunks.push(chunk);
    const answer = Buffer.concat(chunks).toString();
    // What the caller says the API answers to this call; /readyz alone answers text.
    return { status: response.statusCode, body: (answer.startsWith('{') ? JSON.parse(answer) : answer) as T };
  };
  const env = {
    ...process.env,
    KUBECONFIG: kubeconfig,
    HOME: folder,
    PATH: `${requireService('kubernetes')}:${requireService('helm').replace(/\/helm$/, '')}:${process.env['PATH'] ?? ''}`,
  };
  try {
    const deadline = performance.now() + START_DEADLINE_MS;
    const ready = (): Promise<boolean> =>
      api('GET', '/readyz').then(
        ({ status }) => status === 200,
        () => false,
      );
    while (!(await ready())) {
      if (performance.now() > deadline) {
        throw new Error(
          `kube-apiserver did not start:\n${readFileSync(path('kube-apiserver.log'), 'utf8').slice(-4000)}`,
        );
      }
      await delay(100);
    }
    const common = [
      '--kubeconfig',
      kubeconfig,
      '--leader-elect=false',
      '--bind-address',
      '127.0.0.1',
      '--cert-dir',
      path('tls'),
    ];
    start('kube-controller-manager', program('kube-controller-manager'), [
      ...[...common, '--secure-port', String(managerPort), '--root-ca-file', certificate],
      ...['--service-account-private-key-file', path('sa.key'), '--controllers', '*'],
      // The nodes of `nodes.ts` send no sign of life.
      ...['--node-monitor-grace-period', '2h', '--pvclaimbinder-sync-period', '2s'],
    ]);
    start('kube-scheduler', program('kube-scheduler'), [...common, '--secure-port', String(schedulerPort)]);
  } catch (error) {
    await stop();
    throw error;
  }
  const kubectl = (args: readonly string[], input = ''): Promise<Outcome> =>
    finish(program('kubectl'), args, env, input);
  return {
    ...{ folder, kubeconfig, kubectl, api, kubeconfigOf, stop, spawn: start },
    async customResources() {
      for (const args of [
        ['create', '-f', requireService('custom-resources')],
        ['wait', '--for=condition=established', 'crd', '--all', '--timeout=60s'],
      ]) {
        const { status, errors } = await kubectl(args);
        if (status !== 0) throw new Error(errors);
      }
    },
    async helm(args) {
      const { status, output, errors } = await finish(requireService('helm'), args, env, '');
      if (status === 0) return output;
      const state = await kubectl(['get', 'pods,deployments,daemonsets,jobs,persistentvolumeclaims', '-A']);
      const events = await kubectl(['get', 'events', '-A', '--field-selector', 'type=Warning']);
      throw new Error(`${errors}\n${state.output}\n${events.output}`);
    },
  };
}
