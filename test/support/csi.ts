/** The CSI driver as a process of its own, as Kubernetes runs it, and a client that speaks to it. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { csiClient } from '../../fs-gateway/csi/client.ts';
import type { CsiAnswer } from '../../fs-gateway/csi/client.ts';
import { CsiError } from '../../fs-gateway/csi/status.ts';
import { until } from './mount-guard.ts';

const root = join(import.meta.dirname, '..', '..');

export interface CsiDriver {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly socket: string;
  readonly logPath: string;
  call(service: 'Identity' | 'Controller' | 'Node', method: string, request?: object): Promise<CsiAnswer>;
  /** SIGKILL to the driver alone; its mount daemons are processes of their own. */
  kill(): Promise<void>;
  stop(): Promise<number | null>;
}

export interface CsiDriverOptions {
  readonly base: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Tells drivers in one folder apart. */
  readonly name?: string;
  /** What to put before the command, as `onHost` or a node of test/nodes/. */
  readonly prefix?: readonly string[];
}

/** As if on a machine of this name (a UTS namespace). */
export function onHost(name: string): string[] {
  return ['unshare', '--uts', 'sh', '-c', 'hostname "$0" && exec "$@"', name];
}

/** Started and answering; the caller kills it. */
export async function startCsiDriver({
  base,
  args = [],
  env = {},
  name = 'csi',
  prefix = [],
}: CsiDriverOptions): Promise<CsiDriver> {
  const socket = join(base, `${name}.sock`);
  const logPath = join(base, `${name}.log`);
  const log = openSync(logPath, 'a');
  const own = ['csi', '--endpoint', `unix:${socket}`, '--node-id', name, '--cache-dir', join(base, `cache-${name}`)];
  // Every word before it replaces itself by the next: the child is the driver.
  const program = [...prefix, join(root, 'bin', 'penstock'), ...own, ...args];
  const child = spawn(program[0] ?? '', program.slice(1), {
    stdio: ['ignore', log, log],
    env: { ...process.env, AWS_ACCESS_KEY_ID: '', AWS_SECRET_ACCESS_KEY: '', ...env },
  });
  closeSync(log);
  const exited = new Promise<number | null>((done) => child.once('exit', done));
  const clients = {
    Identity: csiClient('Identity', socket),
    Controller: csiClient('Controller', socket),
    Node: csiClient('Node', socket),
  };
  const driver: CsiDriver = {
    child,
    pid: child.pid ?? 0,
    socket,
    logPath,
    call: (service, method, request = {}) => clients[service](method, request),
    async kill() {
      child.kill('SIGKILL');
      await exited;
    },
    async stop() {
      child.kill('SIGTERM');
      return exited;
    },
  };
  await until('the driver answers', async () => {
    if (child.exitCode !== null) throw new Error(`the driver ended: ${readFileSync(logPath, 'utf8')}`);
    return driver.call('Identity', 'Probe').then(
      () => true,
      () => false,
    );
  });
  return driver;
}

/** The gRPC status of a call that is to fail, and what it said. */
export async function failureOf(
  call: Promise<CsiAnswer>,
): Promise<{ readonly code: number; readonly details: string }> {
  try {
    const answer = await call;
    throw new Error(`it did not fail: ${JSON.stringify(answer)}`);
  } catch (error) {
    if (!(error instanceof CsiError)) throw error;
    return { code: error.code, details: error.message };
  }
}
