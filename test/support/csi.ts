/** The CSI driver as a process of its own, as Kubernetes runs it, and a client that speaks to it. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { credentials, Metadata, makeGenericClientConstructor, type ServiceError } from '@grpc/grpc-js';
import { csiService } from '../../fs-gateway/csi/protocol.ts';
import { until } from './mount-guard.ts';

const CALL_MS = 60_000;
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

export type CsiAnswer = Readonly<Record<string, unknown>>;

export interface CsiDriverOptions {
  readonly base: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Tells drivers in one folder apart. */
  readonly name?: string;
}

/** Started and answering; the caller kills it. */
export async function startCsiDriver({
  base,
  args = [],
  env = {},
  name = 'csi',
}: CsiDriverOptions): Promise<CsiDriver> {
  const socket = join(base, `${name}.sock`);
  const logPath = join(base, `${name}.log`);
  const log = openSync(logPath, 'a');
  const own = ['csi', '--endpoint', `unix:${socket}`, '--node-id', name, '--cache-dir', join(base, `cache-${name}`)];
  const child = spawn(join(root, 'bin', 'penstock'), [...own, ...args], {
    stdio: ['ignore', log, log],
    env: { ...process.env, AWS_ACCESS_KEY_ID: '', AWS_SECRET_ACCESS_KEY: '', ...env },
  });
  closeSync(log);
  const exited = new Promise<number | null>((done) => child.once('exit', done));
  const clients = {
    Identity: clientOf('Identity', socket),
    Controller: clientOf('Controller', socket),
    Node: clientOf('Node', socket),
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

type Call = (method: string, request: object) => Promise<CsiAnswer>;

function clientOf(service: 'Identity' | 'Controller' | 'Node', socket: string): Call {
  const definition = csiService(service);
  const Client = makeGenericClientConstructor(definition, service);
  return async (method, request) => {
    const entry = definition[method];
    if (entry === undefined) throw new Error(`no method ${method}`);
    const client = new Client(`unix:${socket}`, credentials.createInsecure());
    try {
      return await new Promise<CsiAnswer>((done, reject) => {
        client.makeUnaryRequest(
          entry.path,
          entry.requestSerialize,
          entry.responseDeserialize,
          request,
          new Metadata(),
          { deadline: Date.now() + CALL_MS },
          (error: ServiceError | null, answer: unknown) => {
            if (error !== null) reject(error);
            else done(answer as CsiAnswer); // what proto-loader made of the message
          },
        );
      });
    } finally {
      client.close();
    }
  };
}

/** The gRPC status name of a call that is to fail, and what it said. */
export async function failureOf(
  call: Promise<CsiAnswer>,
): Promise<{ readonly code: number; readonly details: string }> {
  try {
    const answer = await call;
    throw new Error(`it did not fail: ${JSON.stringify(answer)}`);
  } catch (error) {
    const { code, details } = error as Partial<ServiceError>; // checked below
    if (typeof code !== 'number' || details === undefined) throw error;
    return { code, details };
  }
}
