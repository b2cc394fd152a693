/**
 * The control socket of a mount: how `stats`, `umount` and `upgrade` reach its supervisor. A Unix socket in a private directory, named by a
 * hash of the mount point; one JSON line asks, one answers. A virtual file inside the mount was rejected: it would not answer
 * when the worker does not, which is when it is needed.
 *
 * Invariants: a supervisor makes, or takes away, the socket only while it holds the lock beside it, which the kernel drops at its death.
 * Limits: a request is at most REQUEST_BYTES_MAX; the directory is 0700 and owned by us, so only the same user (or root) asks.
 */
import { createHash } from 'node:crypto';
import { chmodSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { PenstockError, describeError, isCode, systemCode } from '../../lib/errors.ts';
import { acquireProcessLock, type ProcessLock } from '../../lib/process-lock.ts';
import { ensureRuntimeDir, runtimeDir } from '../runtime-dir.ts';
import { FILE_SYSTEM_TYPE, findMount, resolveMountpoint } from './mount.ts';

const REQUEST_BYTES_MAX = 65_536;
const ANSWER_BYTES_MAX = 16 * 2 ** 20;
const CONNECT_TIMEOUT_MS = 5_000;

export type ControlRequest =
  | { readonly type: 'stats' }
  /** Who uses the mount how much, and which files (callers/usage.ts). */
  | { readonly type: 'usage' }
  /** Flush, then unmount. `force`: also when the flush failed (staged data stays in the cache). `lazy`: also under open files. */
  | { readonly type: 'umount'; readonly force?: boolean; readonly lazy?: boolean }
  /** Flush, then say where the volume is: for tools that work on the metadata. Who may ask is who may mount. */
  | { readonly type: 'volume' }
  /** A new worker takes over; programs see nothing. */
  | { readonly type: 'upgrade' };

export type ControlAnswer =
  | { readonly ok: true; readonly value: Readonly<Record<string, unknown>> }
  | { readonly ok: false; readonly reason: 'busy' | 'flush-failed' | 'failed'; readonly message: string };

/** The socket of the mount on this path. */
function controlPath(mountpoint: string, kind: 'sock' | 'lock' = 'sock'): string {
  const hash = createHash('sha256').update(resolveMountpoint(mountpoint)).digest('hex').slice(0, 32);
  return join(runtimeDir(), `mount-${hash}.${kind}`);
}

/** The right to serve a mount point. Throws `held` with who has it, also while that one is still starting. */
export function lockControl(mountpoint: string): Promise<ProcessLock> {
  ensureRuntimeDir();
  return acquireProcessLock(controlPath(mountpoint, 'lock'), { label: 'penstock fs mount', of: mountpoint });
}

/** Listens for requests; the caller has the lock. */
export async function serveControl(
  mountpoint: string,
  answer: (request: ControlRequest) => Promise<ControlAnswer>,
): Promise<Server> {
  const path = controlPath(mountpoint);
  rmSync(path, { force: true });
  const server = createServer((socket) => {
    void readLine(socket, REQUEST_BYTES_MAX)
      .then(async (line) => answer(parseRequest(line)))
      .catch((error: unknown): ControlAnswer => ({ ok: false, reason: 'failed', message: describeError(error) }))
      .then((reply) => socket.end(`${JSON.stringify(reply)}\n`));
    socket.on('error', () => socket.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(path, resolve);
  });
  chmodSync(path, 0o600);
  return server;
}

function parseRequest(line: string): ControlRequest {
  const value: unknown = JSON.parse(line);
  if (typeof value === 'object' && value !== null && 'type' in value) {
    const flag = (name: string): boolean => (value as Record<string, unknown>)[name] === true; // an object, checked above
    const { type } = value;
    if (type === 'stats' || type === 'usage' || type === 'upgrade' || type === 'volume') return { type };
    if (value.type === 'umount') return { type: 'umount', force: flag('force'), lazy: flag('lazy') };
  }
  throw new PenstockError('usage', `unknown control request: ${line.slice(0, 200)}`);
}

/**
 * Asks the supervisor of a mount point. Throws `not-found` when there is none, `timeout` when it does not answer in time.
 * An umount may flush for minutes: without a timeout the answer is waited for as long as the supervisor lives.
 */
export async function controlRequest(
  mountpoint: string,
  request: ControlRequest,
  timeoutMs?: number,
): Promise<ControlAnswer> {
  const socket = createConnection(controlPath(mountpoint));
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => socket.destroy(new PenstockError('timeout', `no answer within ${timeoutMs} ms`)), timeoutMs);
  try {
    socket.on('connect', () => socket.write(`${JSON.stringify(request)}\n`));
    const line = await readLine(socket, ANSWER_BYTES_MAX);
    return JSON.parse(line) as ControlAnswer; // written by serveControl above
  } catch (error) {
    if (systemCode(error) === 'ENOENT' && findMount(mountpoint)?.type !== FILE_SYSTEM_TYPE) {
      throw new PenstockError('not-found', `${mountpoint} is not a mount of Penstock`);
    }
    // Nobody listens, or who listened was killed before it answered.
    const isGone = ['ENOENT', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(systemCode(error) ?? '');
    if (isGone || isCode(error, 'unavailable')) {
      throw new PenstockError('not-found', `no supervisor serves ${mountpoint}`, { cause: error });
    }
    throw error;
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

/** The supervisor's pid, or undefined when nobody serves the mount point. */
export async function findSupervisor(mountpoint: string): Promise<number | undefined> {
  try {
    const answer = await controlRequest(mountpoint, { type: 'stats' }, CONNECT_TIMEOUT_MS);
    return answer.ok ? Number(answer.value['supervisorPid']) : 0;
  } catch (error) {
    if (isCode(error, 'not-found')) return undefined;
    throw error;
  }
}

function readLine(socket: Socket, bytesMax: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      text += chunk;
      const end = text.indexOf('\n');
      if (end >= 0) resolve(text.slice(0, end));
      else if (text.length > bytesMax) socket.destroy(new PenstockError('too-large', `line above ${bytesMax} bytes`));
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new PenstockError('unavailable', 'the connection ended before the line did')));
  });
}
