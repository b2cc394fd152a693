/**
 * Mounts for tests that can never hang the run: mount points under `penstock-test-*` directories, every process with a deadline, and at the end of
 * the test (or of the process) the mount is detached, its connection aborted and its processes killed, whatever state they are in.
 * Programs that look into a mount are children (`run`): a look from the runner's own process could block it for ever.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { controlRequest } from '../../fs-gateway/fuse/control.ts';
import { mountAndSupervise } from '../../fs-gateway/fuse/lifecycle.ts';
import { makeTempDir } from './temp.ts';
import { BESIDE_MS, HANG_MS } from './hang.ts';

const guarded = new Set<string>();
process.on('exit', () => {
  for (const mountpoint of guarded) forceUnmount(mountpoint);
});

/** Detaches the mount and ends its connection: everything that waits for it gets an error. */
function forceUnmount(mountpoint: string): void {
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find((entry) => entry.split(' ')[4] === mountpoint);
  if (line === undefined) return;
  const minor = line.split(' ')[2]?.split(':')[1] ?? '';
  spawnSync('umount', ['-f', '-l', mountpoint], { stdio: 'ignore', timeout: HANG_MS });
  try {
    writeFileSync(`/sys/fs/fuse/connections/${minor}/abort`, '1');
  } catch {
    // fusectl is not mounted everywhere, and the connection may be gone already.
  }
}

/** Makes sure that a mount point is free again and its directory gone when the test ends. */
export function guardMount(mountpoint: string): void {
  guarded.add(mountpoint);
  onTestFinished(() => {
    forceUnmount(mountpoint);
    guarded.delete(mountpoint);
  });
}

export interface ToyMount {
  readonly mountpoint: string;
  /** The directory under the toy file system. */
  readonly root: string;
  readonly supervisorPid: number;
  /** Where supervisor and workers write their messages. */
  readonly logPath: string;
  readonly stats: () => Promise<MountStats>;
}

export interface MountStats {
  readonly supervisorPid: number;
  readonly workerPid: number;
  readonly generation: number;
  readonly uptimeMs: number;
  readonly restarts: number;
  readonly state: string;
  /** Without its fields while no worker answers. */
  readonly worker: {
    readonly inFlight: number;
    readonly operations?: Readonly<Record<string, { readonly count: number; readonly errors: number }>>;
    readonly volume?: unknown;
  };
}

export interface ToyMountOptions {
  readonly ttlMs?: number;
  readonly readOnly?: boolean;
  readonly accessLogPath?: string;
  readonly patienceMs?: number;
  readonly worker?: string;
  readonly workerOptions?: object;
}

/** An empty mount point and a directory behind it, cleaned up with the test. */
export function mountDirs(): { readonly base: string; readonly mountpoint: string; readonly root: string } {
  const base = makeTempDir('mount');
  const mountpoint = join(base, 'mnt');
  const root = join(base, 'root');
  mkdirSync(mountpoint);
  mkdirSync(root);
  onTestFinished(() => rmSync(base, { recursive: true, force: true, maxRetries: 3 }));
  return { base, mountpoint, root };
}

/** Mounts the toy file system by a background supervisor, as the command line does. */
export async function mountToy(options: ToyMountOptions = {}): Promise<ToyMount> {
  const { base, mountpoint, root } = mountDirs();
  const logPath = join(base, 'log');
  const worker = options.worker ?? join(import.meta.dirname, 'toy-worker.ts');
  guardMount(mountpoint);
  const { supervisorPid } = await mountAndSupervise({
    mountpoint,
    source: 'toy',
    readOnly: options.readOnly ?? false,
    posixAcl: false,
    passthrough: false,
    background: true,
    logPath,
    workerModule: worker,
    workerOptions: { root, ttlMs: options.ttlMs, ...options.workerOptions },
    ...(options.accessLogPath !== undefined && { accessLogPath: options.accessLogPath }),
    ...(options.patienceMs !== undefined && { patienceMs: options.patienceMs }),
  });
  const stats = async (): Promise<MountStats> => {
    const answer = await controlRequest(mountpoint, { type: 'stats' }, HANG_MS);
    if (!answer.ok) throw new Error(answer.message);
    return answer.value as unknown as MountStats; // the supervisor's own answer
  };
  onTestFinished(() => killIfAlive(-supervisorPid)); // its whole process group: the worker too
  return { mountpoint, root, supervisorPid, logPath, stats };
}

export function killIfAlive(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // gone
  }
}

export interface Finished {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
}

/** Starts a program with pipes of its own and a deadline, after which it is killed. */
export function start(
  command: string,
  args: readonly string[],
  deadlineMs = BESIDE_MS,
  input: 'ignore' | 'pipe' = 'ignore',
): Running {
  const child = spawn(command, args, { stdio: [input, 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const deadline = setTimeout(() => child.kill('SIGKILL'), deadlineMs);
  const finished = new Promise<Finished>((resolve) => {
    child.on('error', (error) => (stderr += error.message));
    child.on('close', (status, signal) => {
      clearTimeout(deadline);
      resolve({ status, signal, stdout, stderr });
    });
  });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return { child, finished };
}

export function run(command: string, args: readonly string[], deadlineMs = HANG_MS): Promise<Finished> {
  return start(command, args, deadlineMs).finished;
}

/** Runs a shell script with `$1` as its argument; throws with its output when it fails. */
export async function shell(script: string, argument: string, deadlineMs?: number): Promise<string> {
  const { status, signal, stdout, stderr } = await run('bash', ['-euc', script, 'bash', argument], deadlineMs);
  if (status !== 0) throw new Error(`shell ended with ${signal ?? status ?? 'nothing'}: ${stdout}${stderr}`);
  return stdout;
}

/** Waits for something that is about to become true, bounded. */
export async function until(what: string, check: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + HANG_MS;
  while (!(await check())) {
    if (performance.now() > endMs) throw new Error(`not within ${HANG_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export function isAlive(pid: number): boolean {
  try {
    // A killed child of somebody else stays as a zombie until it is reaped.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

export function isMounted(mountpoint: string): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some((entry) => entry.split(' ')[4] === mountpoint);
}
