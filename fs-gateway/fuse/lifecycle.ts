/** What the command line does with mounts: mount in this process or in the background, and unmount. */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { extname } from 'node:path';
import { PenstockError, isCode } from '../../lib/errors.ts';
import { controlRequest } from './control.ts';
import { FILE_SYSTEM_TYPE, findMount, resolveMountpoint, unmountPoint } from './mount.ts';
import type { KeptMount } from './keeper-link.ts';
import type { FromSupervisor } from './messages.ts';
import { Supervisor, superviseSignals, type SupervisorOptions } from './supervisor.ts';

/** Of a background supervisor, as its fifth. */
const INHERITED_FD = 4;

export interface MountRequest extends SupervisorOptions {
  /** Supervise in a process of its own and return when it is mounted. */
  readonly background: boolean;
  /** In the foreground: end at SIGTERM and SIGINT. False where the program handles its signals itself (the demo). */
  readonly signals?: boolean;
  /** Where a background supervisor and its workers write their messages; nowhere when absent. */
  readonly logPath?: string;
  /** In the background: a mount that is not ready when it fires is given up. */
  readonly signal?: AbortSignal;
}

export interface SupervisedMount {
  readonly mountpoint: string;
  /** The supervisor's process: this one in the foreground. */
  readonly supervisorPid: number;
  /** Foreground: resolves when the mount is gone, false when it had to be given up. Background: at once. */
  readonly ended: Promise<boolean>;
  /** Flushes and unmounts. */
  stop(): Promise<void>;
}

/** Mounts; resolves when the file system answers. Throws `held`, `unsupported`, `denied`, `not-found`, `io`. */
export async function mountAndSupervise(request: MountRequest): Promise<SupervisedMount> {
  return request.background ? mountInBackground(request) : mountHere(request);
}

async function mountHere(request: MountRequest): Promise<SupervisedMount> {
  const log = (message: string): void => {
    process.stderr.write(`penstock fs: ${message}\n`);
  };
  const supervisor = new Supervisor(request, log);
  if (request.signals !== false) superviseSignals(supervisor, log);
  await supervisor.start();
  return {
    mountpoint: supervisor.mountpoint,
    supervisorPid: process.pid,
    ended: supervisor.ended,
    stop: () => supervisor.stop(),
  };
}

/** A supervisor that goes on with a mount whose supervisor was killed. The device stays open here. */
export async function resumeMount(kept: KeptMount, fd: number, keeper: string, logPath: string): Promise<void> {
  const { options, session, negotiated } = kept;
  const resume = { fd: INHERITED_FD, session, negotiated };
  await mountInBackground({ ...options, keeper, resume, background: true, logPath }, fd);
}

async function mountInBackground(request: MountRequest, device?: number): Promise<SupervisedMount> {
  const { signal, ...options } = request;
  const { logPath } = options;
  signal?.throwIfAborted();
  const logFd = logPath === undefined ? undefined : openSync(logPath, 'a', 0o600);
  const entry = new URL(`./supervisor-main${extname(import.meta.filename)}`, import.meta.url);
  // Options travel over IPC: a command line is readable by every user, and a metadata URL may hold a password.
  const child = spawn(process.execPath, [entry.pathname], {
    detached: true,
    stdio: ['ignore', logFd ?? 'ignore', logFd ?? 'ignore', 'ipc', ...(device === undefined ? [] : [device])],
  });
  if (logFd !== undefined) closeSync(logFd);
  const { promise, resolve: answered, reject } = Promise.withResolvers<FromSupervisor>();
  child.on('message', answered);
  child.on('error', reject);
  child.on('exit', (code, signal) => reject(new PenstockError('io', `the supervisor ended (${signal ?? code ?? ''})`)));
  child.send(options satisfies SupervisorOptions);
  // It ends its worker, unmounts, and says so by its exit.
  const abandon = (): void => void child.kill('SIGTERM');
  signal?.addEventListener('abort', abandon, { once: true });
  const answer = await promise.finally(() => signal?.removeEventListener('abort', abandon));
  child.removeAllListeners('exit');
  child.unref();
  if (answer.type === 'failed') throw new PenstockError(answer.code, answer.message);
  const { mountpoint } = answer;
  return {
    mountpoint,
    supervisorPid: child.pid ?? 0,
    ended: Promise.resolve(true),
    async stop() {
      await umount(mountpoint, { force: true });
    },
  };
}

export interface UmountOptions {
  /** Also when flushing failed: what is staged stays in the cache directory. */
  readonly force?: boolean;
  /** Also under open files: the mount point is free at once, open files go on. */
  readonly lazy?: boolean;
}

export interface UmountReport {
  readonly mountpoint: string;
  /** Everything written is durable in the store. */
  readonly flushed: boolean;
  /** How: by its supervisor, or taken away because nobody served it any more. */
  readonly by: 'supervisor' | 'kernel';
  readonly flushError?: string;
}

/** Flushes and unmounts. Throws `held` when files are open, `io` when the flush failed, `not-found` when nothing of ours is mounted. */
export async function umount(path: string, options: UmountOptions = {}): Promise<UmountReport> {
  const mountpoint = resolveMountpoint(path);
  try {
    const answer = await controlRequest(mountpoint, { type: 'umount', ...options });
    if (!answer.ok) throw new PenstockError(answer.reason === 'busy' ? 'held' : 'io', answer.message);
    const flushError = answer.value['flushError'];
    return {
      mountpoint,
      by: 'supervisor',
      flushed: answer.value['flushed'] === true,
      ...(typeof flushError === 'string' && { flushError }),
    };
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
  }
  if (findMount(mountpoint)?.type !== FILE_SYSTEM_TYPE) {
    throw new PenstockError('not-found', `${mountpoint} is not a mount of Penstock`);
  }
  // Its supervisor is dead, and a worker outlives it only to flush: there is nothing left to ask.
  if (unmountPoint(mountpoint, options.lazy === true, true) === 'busy') {
    throw new PenstockError('held', `${mountpoint} is busy: a program has files of it open`);
  }
  return { mountpoint, by: 'kernel', flushed: false };
}
