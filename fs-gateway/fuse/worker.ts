/**
 * The worker's side of a mount: takes its assignment from the supervisor, serves the device until the file system is unmounted, a
 * successor takes over or the supervisor is gone, and answers the supervisor's questions meanwhile.
 *
 * A worker module reads: `await runWorker(async (assignment) => { const operations = …; await serveDevice(assignment, operations); … })`.
 *
 * Invariants
 * - The worker lives no longer than its supervisor: at the end of the IPC channel it detaches the mount, so that no program hangs on it, or, where
 *   a keeper has the device, leaves at once for the next supervisor's worker.
 * Failure: killed at any moment, the requests in flight are sent again by the kernel to the next worker.
 */
import { fstatSync } from 'node:fs';
import { describeError } from '../../lib/errors.ts';
import { Callers } from '../callers/callers.ts';
import type { Usage } from '../callers/usage.ts';
import type { FileHolder } from '../data/file-holder.ts';
import type { KernelBacking, Operations } from '../vfs/operations.ts';
import { AccessLog } from './access-log.ts';
import { DeviceBacking } from './backing.ts';
import { DeviceLoop } from './device-loop.ts';
import { DEVICE_FD, type Assignment, type FromWorker, type ToWorker } from './messages.ts';
import { Metrics } from './metrics.ts';
import { unmountPoint } from './mount.ts';
import type { VolumeStats, WorkerStats } from './mount-stats.ts';
import { native, type Native } from './native.ts';
import { Notifier } from './notifier.ts';
import { NotifyCode, OUT_HEADER_BYTES } from './protocol.ts';

/** What is still in flight then is left for the next worker (a lock that waits may wait for ever). */
const FINISH_TIMEOUT_MS = 2_000;
/** Without a supervisor nobody else would end a flush that cannot succeed. */
const ORPHAN_DRAIN_TIMEOUT_MS = 15_000;

/** Why serving ended; in each case everything was flushed as far as possible. */
export type ServeEnd = 'unmounted' | 'handed-over' | 'orphaned';

export interface WorkerAssignment extends Assignment {
  readonly fd: number;
  readonly notifier: Notifier;
  /** Present when the kernel agreed to passthrough. */
  readonly backing: KernelBacking | undefined;
  /** The supervisor. */
  readonly holder: FileHolder;
  readonly log: (message: string) => void;
}

export interface ServeOptions {
  /** Added to the answer of a `stats` request, under `volume`. */
  readonly stats?: () => VolumeStats;
  /** Counts who asks for what; default: one that estimates nothing. */
  readonly callers?: Callers;
  /** The answer of a `usage` request. */
  readonly usage?: () => Promise<Usage>;
}

/** A message that cannot be sent is of no use to anybody: the supervisor is gone, which `disconnect` tells. */
function tell(message: FromWorker): void {
  if (process.connected) process.send?.(message, () => undefined);
}

/** Runs a worker module's body and ends the process: 0 when it returned, 1 (and word to the supervisor) when it threw. */
export async function runWorker(body: (assignment: WorkerAssignment) => Promise<void>): Promise<never> {
  // A terminal's Ctrl-C reaches the whole process group; when to end is the supervisor's decision.
  // SIGIO comes when an open breaks the lease by which a backing file is looked at.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGIO'] as const) process.on(signal, () => undefined);
  const log = (message: string): void => {
    process.stderr.write(`penstock fs: ${message}\n`);
  };
  try {
    const assignment = await takeAssignment();
    const writeEpoch = (): void => notify(native(), DEVICE_FD, NotifyCode.INC_EPOCH);
    const notifier = new Notifier(
      (batch) => tell({ type: 'notify', batch }),
      assignment.negotiated.incrementEpoch ? writeEpoch : undefined,
    );
    process.on('message', (message: ToWorker) => {
      if (message.type === 'notified') notifier.delivered(message.count);
    });
    process.once('disconnect', () => notifier.close());
    const backing = assignment.negotiated.passthrough ? new DeviceBacking(native(), DEVICE_FD) : undefined;
    const holder: FileHolder = {
      held: new Map(assignment.held),
      hold(held, fd) {
        const { dev: device, ino: file } = fstatSync(fd);
        tell({ type: 'hold', held, fd, file: { device, file } });
      },
      letGo: (held) => tell({ type: 'let-go', held }),
    };
    await body({ ...assignment, fd: DEVICE_FD, notifier, backing, holder, log });
    notifier.close();
  } catch (error) {
    log(describeError(error));
    if (process.connected) {
      const { promise, resolve } = Promise.withResolvers<unknown>();
      process.send?.({ type: 'failed', message: describeError(error) } satisfies FromWorker, () => resolve(undefined));
      await promise;
    }
    process.exit(1);
  }
  process.exit(0);
}

function takeAssignment(): Promise<Assignment> {
  const { promise, resolve, reject } = Promise.withResolvers<Assignment>();
  const onMessage = (message: ToWorker): void => {
    if (message.type !== 'assign') return;
    process.off('message', onMessage);
    resolve(message.assignment);
  };
  process.on('message', onMessage);
  process.once('disconnect', () => reject(new Error('the supervisor is gone')));
  return promise;
}

/** Serves until the mount ends, a successor takes over, or the supervisor is gone. */
export async function serveDevice(
  assignment: WorkerAssignment,
  operations: Operations,
  options: ServeOptions = {},
): Promise<ServeEnd> {
  const { fd, session, negotiated, log, mountpoint, notifier } = assignment;
  const sys = native();
  const metrics = new Metrics();
  const callers = options.callers ?? new Callers({ device: undefined, passesThrough: () => false });
  const accessLog = openAccessLog(assignment);
  const loop = new DeviceLoop(sys, {
    fd,
    session,
    operations,
    setxattrExtended: negotiated.setxattrExtended,
    metrics,
    callers,
    log,
    ...(accessLog !== undefined && { accessLog }),
  });
  let handingOver: Promise<void> | undefined;
  let orphaned: Promise<void> | undefined;

  const answer = async (id: number, run: () => unknown): Promise<void> => {
    try {
      tell({ type: 'answer', id, value: await run() });
    } catch (error) {
      tell({ type: 'answer', id, error: describeError(error) });
    }
  };
  const onMessage = (message: ToWorker): void => {
    switch (message.type) {
      case 'flush':
        void answer(message.id, () => operations.drain());
        break;
      case 'stop':
        handingOver = answer(message.id, async () => {
          await loop.stop(FINISH_TIMEOUT_MS);
          await operations.drain();
        });
        break;
      case 'stats':
        void answer(message.id, (): WorkerStats => ({
          pid: process.pid,
          inFlight: loop.inFlight,
          memoryBytes: process.memoryUsage.rss(),
          operations: metrics.snapshot(),
          notifications: notifier.stats,
          volume: options.stats?.(),
        }));
        break;
      case 'usage':
        void answer(message.id, () => options.usage?.());
        break;
      case 'ping':
        void answer(message.id, () => undefined);
        break;
      case 'reopen-log':
        accessLog?.reopen();
        break;
      case 'assign':
      case 'notified':
        break;
    }
  };
  const onDisconnect = (): void => {
    if (assignment.kept) process.exit(1);
    log(`the supervisor of ${mountpoint} is gone: unmounting`);
    detach(mountpoint, log);
    orphaned = loop.stop(FINISH_TIMEOUT_MS);
  };
  process.on('message', onMessage);
  process.once('disconnect', onDisconnect);

  if (assignment.generation > 0) {
    // The kernel may have missed invalidations. What it moves or keeps by requests that are under way is void with the rest.
    notifier.incrementEpoch();
    // It queues again what was read and never answered.
    notify(sys, fd, NotifyCode.RESEND);
  }
  if (process.connected) tell({ type: 'serving', answers: ['ping'] });
  else onDisconnect();
  const running = loop.run();

  await running;
  await handingOver;
  if (handingOver === undefined) await drainFinally(operations, log);
  await orphaned;
  process.off('disconnect', onDisconnect);
  accessLog?.close();
  callers.close();
  if (handingOver !== undefined) return 'handed-over';
  if (orphaned !== undefined) return 'orphaned';
  tell({ type: 'unmounted' });
  return 'unmounted';
}

/** A mount does not begin with a log that cannot be opened; a later worker goes on without one. */
function openAccessLog({ accessLogPath, generation, log }: WorkerAssignment): AccessLog | undefined {
  if (accessLogPath === undefined) return undefined;
  try {
    return new AccessLog(accessLogPath, log);
  } catch (error) {
    if (generation === 0) throw error;
    log(`access log ${accessLogPath} stopped: ${describeError(error)}`);
    return undefined;
  }
}

/** As long as it takes while a supervisor can end it; else bounded. */
async function drainFinally(operations: Operations, log: (message: string) => void): Promise<void> {
  const drained = operations.drain().catch((error: unknown) => log(`flush failed: ${describeError(error)}`));
  const orphaned = Promise.withResolvers<unknown>();
  const giveUp = (): void => {
    setTimeout(orphaned.resolve, ORPHAN_DRAIN_TIMEOUT_MS).unref();
  };
  if (process.connected) process.once('disconnect', giveUp);
  else giveUp();
  await Promise.race([drained, orphaned.promise]);
}

function detach(mountpoint: string, log: (message: string) => void): void {
  try {
    unmountPoint(mountpoint, true);
  } catch (error) {
    log(describeError(error));
  }
}

/** A notification without a body, which never waits in the kernel. */
function notify(sys: Native, fd: number, code: number): void {
  const notification = Buffer.alloc(OUT_HEADER_BYTES);
  notification.writeUInt32LE(OUT_HEADER_BYTES, 0);
  notification.writeInt32LE(code, 4);
  sys.write(fd, notification, OUT_HEADER_BYTES);
}
