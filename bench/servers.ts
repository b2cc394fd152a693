/** The servers that a benchmark of mounts starts for itself, and the mounts of JuiceFS and Penstock over them. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { connect, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { requireService } from '../test/support/services.ts';

const READY_TIMEOUT_MS = 20_000;
const ACCESS_KEY = 'bench';
const SECRET_KEY = 'benchsecret';
/** Where Penstock's objects are. */
export const BUCKET = 'penstock';
const PENSTOCK = join(import.meta.dirname, '..', 'bin', 'penstock');
/** Of the environment, where the AWS chain finds them. */
export const credentials = { AWS_ACCESS_KEY_ID: ACCESS_KEY, AWS_SECRET_ACCESS_KEY: SECRET_KEY };
const run = promisify(execFile);

/** The processes that the bench has started, ended with it. */
const children: ChildProcess[] = [];

export function stopServers(): void {
  for (const child of children.splice(0)) child.kill();
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
  server.close();
  return port;
}

async function serve(program: string, args: readonly string[], port: number, env = {}): Promise<void> {
  children.push(spawn(program, args, { stdio: 'ignore', env: { ...process.env, ...env } }));
  const deadlineMs = performance.now() + READY_TIMEOUT_MS;
  while (performance.now() < deadlineMs) {
    const socket = connect(port, '127.0.0.1');
    const answered = await once(socket, 'connect').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (answered) return;
    await sleep(20);
  }
  throw new Error(`${program} did not answer on port ${port}`);
}

/** The path of a program that the environment names. */
export function required(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name}=path of the program is needed`);
  return value;
}

/** What a proxy has carried so far. */
export interface Traffic {
  /** Round trips. */
  readonly turns: number;
  readonly bytesDown: number;
}

export interface Proxied {
  /** To use instead of the server's own. */
  readonly port: number;
  /** Undefined without a proxy. */
  readonly traffic: () => Promise<Traffic | undefined>;
}

/** A proxy (DELAYPROXY) in front of `port` where a latency is wanted. */
export async function behindProxy(port: number, latencyMs: number): Promise<Proxied> {
  // Without a latency the clients meet the server itself: two more hops would hide the differences between them.
  if (latencyMs === 0) return { port, traffic: () => Promise.resolve(undefined) };
  const [listen, control] = [await freePort(), await freePort()];
  await serve(required('DELAYPROXY'), [listen, port, latencyMs * 1000, control].map(String), control);
  const traffic = async (): Promise<Traffic> => (await (await fetch(`http://127.0.0.1:${control}/`)).json()) as Traffic; // as it documents
  return { port: listen, traffic };
}

export async function startRedis(dir: string): Promise<number> {
  const port = await freePort();
  await serve('redis-server', ['--port', String(port), '--save', '', '--dir', dir], port);
  return port;
}

/** A versitygw with a bucket for each of the two. */
export async function startS3(dir: string): Promise<number> {
  const port = await freePort();
  for (const bucket of ['juicefs', BUCKET]) mkdirSync(join(dir, 's3', bucket), { recursive: true });
  const args = ['--port', `127.0.0.1:${port}`, '--quiet', 'posix', join(dir, 's3')];
  await serve(requireService('versitygw'), args, port, { ROOT_ACCESS_KEY: ACCESS_KEY, ROOT_SECRET_KEY: SECRET_KEY });
  return port;
}

export interface MountPlace {
  readonly path: string;
  readonly cacheDir: string;
}

/** `s3Port` undefined: objects in `objects`, a directory. */
export async function formatJuicefs(
  juicefs: string,
  url: string,
  objects: string,
  s3Port: number | undefined,
): Promise<void> {
  const store =
    s3Port === undefined
      ? ['--storage', 'file', '--bucket', `${objects}/`]
      : [
          ...['--storage', 's3', '--bucket', `http://127.0.0.1:${s3Port}/juicefs`],
          ...['--access-key', ACCESS_KEY, '--secret-key', SECRET_KEY],
        ];
  await run(juicefs, ['format', ...store, url, 'bench']);
}

export async function mountJuicefs(juicefs: string, url: string, { path, cacheDir }: MountPlace): Promise<void> {
  mkdirSync(path, { recursive: true });
  await run(juicefs, ['mount', '-d', '--no-usage-report', '--cache-dir', cacheDir, url, path]);
}

export async function umountJuicefs(juicefs: string, path: string): Promise<void> {
  await run(juicefs, ['umount', path]);
}

/** The store of a Penstock volume on that server. */
export function storeUrl(s3Port: number): string {
  return `s3://${BUCKET}/volume?endpoint=http://127.0.0.1:${s3Port}&region=us-east-1`;
}

export async function formatPenstock(url: string, objects: string, s3Port: number | undefined): Promise<void> {
  const store = s3Port === undefined ? `dir:${objects}` : storeUrl(s3Port);
  await run(PENSTOCK, ['fs', 'format', url, '--store', store], { env: { ...process.env, ...credentials } });
}

/** Objects below `folder` of the volume's store, which ends with `/`, become the tree `path` of the volume. */
export async function publishPenstock(url: string, folder: string, path: string): Promise<void> {
  const args = ['fs', 'publish', url, `s3://${BUCKET}/volume/${folder}`, path];
  await run(PENSTOCK, args, { env: { ...process.env, ...credentials } });
}

export async function mountPenstock(
  url: string,
  { path, cacheDir }: MountPlace,
  options: readonly string[] = [],
): Promise<void> {
  mkdirSync(path, { recursive: true });
  const args = ['fs', 'mount', url, path, '--cache-dir', cacheDir, '--background', ...options];
  await run(PENSTOCK, args, { env: { ...process.env, ...credentials } });
}

export async function umountPenstock(path: string): Promise<void> {
  await run(PENSTOCK, ['fs', 'umount', path]);
}
