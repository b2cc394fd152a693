/**
 * The gRPC server on a Unix socket: every call with a bound on its time, an answer with a status the specification names, a line in the
 * log and a count in the metrics.
 *
 * Invariants: a request is never written to the log, only its method, volume and outcome: secrets are in the request.
 * Failure: a socket file that nobody serves is replaced; one that answers is another driver's (`held`).
 * Limits: CALL_MS a call; what goes on after it is answered ABORTED to a repeat until it has ended (in-flight.ts).
 */
import { chmodSync, lstatSync, mkdirSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { dirname, resolve } from 'node:path';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import type { handleUnaryCall, UntypedServiceImplementation } from '@grpc/grpc-js';
import { describeError, PenstockError, systemCode } from '../../lib/errors.ts';
import { csiService } from './protocol.ts';
import { CsiError, Status, toGrpc } from './status.ts';

const CALL_MS = 55_000;
const DRAIN_MS = 10_000;
/** Far above any request of the specification, whose lists are short. */
const MESSAGE_BYTES_MAX = 1 << 20;

export interface CallReport {
  readonly method: string;
  readonly code: string;
  readonly seconds: number;
}

export interface CsiServerOptions {
  /** `unix:PATH` or `unix:///PATH`. */
  readonly endpoint: string;
  readonly services: Readonly<Partial<Record<'Identity' | 'Controller' | 'Node', object>>>;
  readonly onCall: (report: CallReport) => void;
  readonly log: (message: string) => void;
}

export interface CsiServer {
  readonly path: string;
  /** Lets calls end for a moment, then closes. */
  stop(): Promise<void>;
}

/** Throws `usage` for an endpoint that is no Unix socket, `held` when another driver serves it. */
export async function serveCsi(options: CsiServerOptions): Promise<CsiServer> {
  const path = socketPath(options.endpoint);
  await clearSocket(path);
  const server = new Server({ 'grpc.max_receive_message_length': MESSAGE_BYTES_MAX });
  for (const name of ['Identity', 'Controller', 'Node'] as const) {
    const service = options.services[name];
    if (service !== undefined) server.addService(csiService(name), handlersOf(name, service, options));
  }
  await new Promise<void>((done, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) done();
      else reject(new PenstockError('io', `cannot listen on ${path}: ${describeError(error)}`, { cause: error }));
    });
  });
  // The orchestrator's processes beside us run as the same user.
  chmodSync(path, 0o600);
  return {
    path,
    async stop() {
      const timer = setTimeout(() => server.forceShutdown(), DRAIN_MS);
      await new Promise<void>((done) => server.tryShutdown(() => done()));
      clearTimeout(timer);
      rmSync(path, { force: true });
    },
  };
}

/** Throws `usage`. */
export function socketPath(endpoint: string): string {
  const path = /^unix:(?:\/\/)?(.+)$/.exec(endpoint)?.[1];
  if (path === undefined) throw new PenstockError('usage', `${endpoint} is not a Unix socket: expected unix:PATH`);
  return resolve(path);
}

async function clearSocket(path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const stats = lstatSync(path, { throwIfNoEntry: false });
  if (stats === undefined) return;
  if (!stats.isSocket()) throw new PenstockError('usage', `--endpoint: ${path} exists and is not a socket`);
  const answers = await new Promise<boolean>((done) => {
    const socket = createConnection(path, () => {
      socket.destroy();
      done(true);
    });
    socket.on('error', (error) => done(systemCode(error) !== 'ECONNREFUSED'));
  });
  if (answers) throw new PenstockError('held', `another process serves ${path}`);
  rmSync(path);
}

function handlersOf(service: string, target: object, options: CsiServerOptions): UntypedServiceImplementation {
  const handlers: UntypedServiceImplementation = {};
  for (const [method, { originalName = '' }] of Object.entries(csiService(service as 'Node'))) {
    const call: unknown = Reflect.get(target, originalName);
    // What the service lacks is answered UNIMPLEMENTED by the library.
    if (typeof call !== 'function') continue;
    handlers[method] = handler(
      method,
      async (request) => (await Reflect.apply(call, target, [request])) as object,
      options,
    );
  }
  return handlers;
}

function handler(
  method: string,
  work: (request: unknown) => Promise<object>,
  { onCall, log }: CsiServerOptions,
): handleUnaryCall<unknown, unknown> {
  return (call, answer) => {
    const startedMs = performance.now();
    const end = (code: Status, details?: string): void => {
      const seconds = (performance.now() - startedMs) / 1000;
      onCall({ method, code: Status[code], seconds });
      if (details !== undefined) log(`${method} ${subject(call.request)}: ${Status[code]}: ${details}`);
      else if (!QUIET.has(method)) log(`${method} ${subject(call.request)}: done in ${seconds.toFixed(3)} s`);
    };
    withinCall(work(call.request)).then(
      (response) => {
        end(Status.OK);
        answer(null, response);
      },
      (error: unknown) => {
        const status = toGrpc(error);
        end(status.code, status.details);
        answer(status);
      },
    );
  };
}

/** Asked all the time, and of no interest. */
const QUIET = new Set([
  ...['GetPluginInfo', 'GetPluginCapabilities', 'Probe', 'ControllerGetCapabilities'],
  ...['NodeGetCapabilities', 'NodeGetInfo', 'NodeGetVolumeStats', 'ListVolumes', 'ControllerGetVolume'],
]);

/** The volume's id or the name that a request asks for. */
function subject(request: unknown): string {
  if (typeof request !== 'object' || request === null) return '';
  for (const key of ['volumeId', 'snapshotId', 'name']) {
    const value: unknown = Reflect.get(request, key);
    if (typeof value === 'string' && value !== '') return value.slice(0, 128);
  }
  return '-';
}

async function withinCall(work: Promise<object>): Promise<object> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new CsiError(Status.UNAVAILABLE, `still under way after ${CALL_MS / 1000} s: ask again`)),
    CALL_MS,
  );
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
