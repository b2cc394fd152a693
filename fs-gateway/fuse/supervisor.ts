/**
 * The supervisor: holds /dev/fuse and the mount while workers come and go. It runs no file-system code, so that what kills a worker
 * does not take the mount with it.
 *
 * Invariants
 * - One worker serves at a time; the next one starts serving after the previous one's process is gone.
 * - INIT is answered here, once; every worker is told what was agreed.
 * - The mount never outlives the supervisor for long: it unmounts when it ends; killed -9, the worker detaches the mount, or a keeper has the next
 *   supervisor go on with it (keeper.ts).
 * Failure: a worker that dies is followed by another at once, then after growing pauses (RESTART_PAUSES_MS), each with a message.
 *   Programs wait meanwhile, as on a hard NFS mount. One that stands still is killed (watchdog.ts). When no worker served for GIVE_UP_MS the mount is detached and the
 *   connection ends: programs get an error instead of hanging for ever. A worker that never served fails the mount at once.
 *   Kernels before 6.9 cannot send requests again: there the death of a worker ends the mount, with a message.
 */
import { closeSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError } from '../../lib/errors.ts';
import type { ControlAnswer, ControlRequest } from './control.ts';
import { answerInit, type HandshakeChoices, type Negotiated } from './handshake.ts';
import { mountDevice, widenReadAhead } from './mount.ts';
import { MountPlace } from './mount-place.ts';
import type { MountStats } from './mount-stats.ts';
import { HeldFiles } from './held-files.ts';
import { KeeperLink } from './keeper-link.ts';
import { native } from './native.ts';
import { NotificationWriter } from './notification-writer.ts';
import { watchForAnswers } from './watchdog.ts';
import { WorkerProcess, describeExit } from './worker-process.ts';

const RESTART_PAUSES_MS = [0, 100, 250, 500, 1_000, 2_000, 5_000] as const;
/** A worker that served this long ends a row of failures. */
const STABLE_MS = 10_000;
const GIVE_UP_MS = 600_000;
const START_TIMEOUT_MS = 60_000;
/** A worker that answered nothing for so long is killed. */
const PATIENCE_MS = 60_000;
const STATS_TIMEOUT_MS = 2_000;
const EXIT_TIMEOUT_MS = 5_000;
/** How long an upgrade waits for the old worker's flush; then the old one goes on serving. */
const HAND_OVER_TIMEOUT_MS = 60_000;
const FLUSH_TIMEOUT_MS = 600_000;
/** After a signal, programs that still hold files get this long to close them. */
const OPEN_FILES_GRACE_MS = 10_000;
const ANSWER_GRACE_MS = 1_000;

export interface SupervisorOptions extends HandshakeChoices {
  readonly mountpoint: string;
  /** Shown as the device in the mount table; no credentials. */
  readonly source: string;
  readonly readOnly: boolean;
  /** The worker module: it calls `runWorker`. */
  readonly workerModule: string;
  /** Handed to the worker as it is (JSON). */
  readonly workerOptions: unknown;
  readonly accessLogPath?: string;
  /** How long a worker may stand still; default PATIENCE_MS. */
  readonly patienceMs?: number;
  /** The socket of a keeper. */
  readonly keeper?: string;
  /** A mount that is there already, from a keeper. */
  readonly resume?: Resumption;
}

export interface Resumption {
  /** The device. */
  readonly fd: number;
  readonly session: string;
  readonly negotiated: Negotiated;
}

type State = MountStats['state'];

export class Supervisor {
  readonly mountpoint: string;
  /** Resolves when the mount is gone: true after an orderly end, false when it was given up. */
  readonly ended: Promise<boolean>;
  readonly #options: SupervisorOptions;
  readonly #log: (message: string) => void;
  readonly #session: string;
  readonly #place: MountPlace;
  readonly #startedAtMs = Date.now();
  readonly #end = Promise.withResolvers<boolean>();
  #fd = -1;
  #negotiated: Negotiated | undefined;
  #worker: WorkerProcess | undefined;
  #notifications: NotificationWriter | undefined;
  readonly #held = new HeldFiles();
  #link: KeeperLink | undefined;
  #state: State = 'starting';
  #generation = 0;
  #restarts = 0;
  /** Workers in a row that ended before STABLE_MS. */
  #failures = 0;
  /** Unmounted lazily: files are still open, the mount point is somebody else's. */
  #detached = false;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: SupervisorOptions, log: (message: string) => void) {
    this.#options = options;
    this.#log = log;
    this.#session = options.resume?.session ?? randomUUID();
    this.#place = new MountPlace(options.mountpoint);
    this.mountpoint = this.#place.mountpoint;
    this.ended = this.#end.promise;
  }

  /** Mounts and starts the first worker; resolves when it serves. Throws `held`, `unsupported`, `denied`, `io` with nothing left behind. */
  start(): Promise<void> {
    const { resume } = this.#options;
    return this.#exclusive(() => (resume === undefined ? this.#start() : this.#resume(resume)));
  }

  /** Goes on where the supervisor before this one was killed: workers come and go here as well as there. */
  async #resume({ fd, negotiated }: Resumption): Promise<void> {
    await this.#place.takeOver();
    await this.#place.serve((request) => this.#answer(request));
    this.#fd = fd;
    this.#place.own();
    this.#negotiated = negotiated;
    this.#keep();
    this.#state = 'restarting';
    void this.#restart('its supervisor was killed');
  }

  #keep(): void {
    const { keeper, ...options } = this.#options;
    const negotiated = this.#negotiated;
    // Without requests that are sent again, nobody could take over.
    if (keeper === undefined || negotiated?.resend !== true) return;
    this.#link = new KeeperLink(keeper, this.#fd, { options, session: this.#session, negotiated });
  }

  async #start(): Promise<void> {
    await this.#place.claim(this.#log);
    const { source, readOnly } = this.#options;
    try {
      await this.#place.serve((request) => this.#answer(request));
      this.#fd = mountDevice({ mountpoint: this.mountpoint, source, readOnly });
      const device = this.#place.own();
      native().setNonBlocking(this.#fd);
      this.#negotiated = answerInit(native(), this.#fd, this.#options);
      if (device !== undefined) widenReadAhead(device);
      this.#keep();
      const worker = this.#fork();
      this.#assign(worker);
      await this.#untilServing(worker);
      this.#state = 'serving';
      this.#watch(worker);
    } catch (error) {
      this.#worker?.kill();
      this.#finish(false);
      throw error;
    }
  }

  /** Flushes and unmounts, whatever is open: what a signal asks for. Programs with open files get a moment to close them. */
  stop(): Promise<void> {
    if (this.#state === 'starting') this.#worker?.kill(); // What it waits for may never come.
    return this.#exclusive(async () => {
      if (this.#state === 'ended') return;
      const flushError = await this.#flush();
      if (flushError !== undefined) this.#log(`${this.mountpoint}: not everything was flushed: ${flushError}`);
      let openFiles = this.#detached;
      if (!this.#detached && this.#place.unmount(false) === 'busy') {
        this.#place.unmount(true);
        openFiles = true;
      }
      await this.#untilWorkerEnds(openFiles ? OPEN_FILES_GRACE_MS : FLUSH_TIMEOUT_MS);
      this.#finish(true, false);
    });
  }

  /** The access log was moved away (SIGHUP). */
  reopenLog(): void {
    this.#worker?.reopenLog();
  }

  #answer(request: ControlRequest): Promise<ControlAnswer> {
    switch (request.type) {
      case 'stats':
        return this.#stats();
      case 'usage':
        return this.#usage();
      case 'umount':
        return this.#exclusive(() => this.#unmount(request));
      case 'upgrade':
        return this.#exclusive(() => this.#upgrade());
      case 'volume':
        return this.#volume();
    }
  }

  async #volume(): Promise<ControlAnswer> {
    const flushError = await this.#flush();
    if (flushError !== undefined) return { ok: false, reason: 'flush-failed', message: flushError };
    return { ok: true, value: { options: this.#options.workerOptions } };
  }

  async #stats(): Promise<ControlAnswer> {
    const worker = await this.#worker?.ask('stats', STATS_TIMEOUT_MS).catch((error: unknown) => ({
      error: describeError(error),
    }));
    const value: MountStats = {
      mountpoint: this.mountpoint,
      state: this.#state,
      supervisorPid: process.pid,
      workerPid: this.#worker?.pid ?? null,
      generation: this.#generation,
      restarts: this.#restarts,
      uptimeMs: Date.now() - this.#startedAtMs,
      passthrough: this.#negotiated?.passthrough ?? false,
      worker: worker as MountStats['worker'], // the worker's own answer
    };
    return { ok: true, value };
  }

  async #usage(): Promise<ControlAnswer> {
    if (this.#worker === undefined)
      return { ok: false, reason: 'failed', message: `no worker serves (${this.#state})` };
    // The worker's own answer: callers/usage.ts. Without it there is nothing to tell, so a worker that has no core for a while is waited for.
    return { ok: true, value: { ...((await this.#worker.ask('usage', PATIENCE_MS)) as object) } };
  }

  async #unmount({ force = false, lazy = false }: { force?: boolean; lazy?: boolean }): Promise<ControlAnswer> {
    if (this.#state === 'ended') return { ok: false, reason: 'failed', message: `${this.mountpoint} is unmounted` };
    const flushError = await this.#flush();
    if (flushError !== undefined && !force) {
      return { ok: false, reason: 'flush-failed', message: `${this.mountpoint} stays mounted: ${flushError}` };
    }
    if (this.#place.unmount(lazy) === 'busy') {
      return { ok: false, reason: 'busy', message: `${this.mountpoint} is busy: a program has files of it open` };
    }
    const value = { mountpoint: this.mountpoint, flushed: flushError === undefined, ...(flushError && { flushError }) };
    if (lazy) {
      this.#detach();
    } else {
      await this.#untilWorkerEnds(FLUSH_TIMEOUT_MS);
      this.#finish(true, false);
    }
    return { ok: true, value };
  }

  /** Everything durable, while serving goes on; what went wrong otherwise. */
  async #flush(): Promise<string | undefined> {
    if (this.#state !== 'serving' || this.#worker === undefined) return `no worker serves (${this.#state})`;
    try {
      await this.#worker.ask('flush', FLUSH_TIMEOUT_MS);
      return undefined;
    } catch (error) {
      return describeError(error);
    }
  }

  /**
   * Detached lazily, the mount point is free for another mount and another supervisor at once, while this one serves until the last file
   * is closed: from here on it must touch neither the mount point nor its control socket.
   */
  #detach(): void {
    this.#detached = true;
    this.#place.leave();
  }

  /** The mount is gone: the worker sees ENODEV, flushes what the last closes left and ends. */
  async #untilWorkerEnds(timeoutMs: number): Promise<void> {
    const serving = this.#state === 'serving';
    this.#state = 'unmounting';
    await this.#worker?.end(serving ? timeoutMs : 0);
  }

  /** The next worker's process is started first and takes over when the old one has flushed and gone. */
  async #upgrade(): Promise<ControlAnswer> {
    const old = this.#worker;
    if (this.#state !== 'serving' || old === undefined) {
      return { ok: false, reason: 'failed', message: `cannot upgrade: no worker serves (${this.#state})` };
    }
    this.#state = 'upgrading';
    const next = this.#fork();
    try {
      await old.ask('stop', HAND_OVER_TIMEOUT_MS);
    } catch (error) {
      // It stopped reading but could not flush: what it had not answered is sent again to the next one.
      this.#log(`the old worker ended without a clean flush: ${describeError(error)}`);
    }
    await old.end(EXIT_TIMEOUT_MS);
    this.#generation++;
    this.#assign(next);
    try {
      await this.#untilServing(next);
    } catch (error) {
      next.kill();
      this.#state = 'restarting';
      void this.#restart(describeError(error));
      return { ok: false, reason: 'failed', message: `the new worker failed: ${describeError(error)}` };
    }
    this.#state = 'serving';
    this.#watch(next);
    return { ok: true, value: { generation: this.#generation, workerPid: next.pid } };
  }

  /** One at a time: unmounting, upgrading, stopping. */
  #exclusive<T>(run: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(run);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  #fork(): WorkerProcess {
    this.#notifications ??= new NotificationWriter(this.#fd);
    return new WorkerProcess(this.#options.workerModule, this.#fd, this.#notifications, this.#held);
  }

  #assign(worker: WorkerProcess): void {
    const { workerOptions, accessLogPath } = this.#options;
    if (this.#negotiated === undefined) throw new Error('a worker is assigned after the handshake');
    this.#worker = worker;
    worker.assign({
      mountpoint: this.mountpoint,
      session: this.#session,
      generation: this.#generation,
      negotiated: this.#negotiated,
      kept: this.#link !== undefined,
      held: this.#held.paths,
      options: workerOptions,
      ...(accessLogPath !== undefined && { accessLogPath }),
    });
  }

  async #untilServing(worker: WorkerProcess): Promise<void> {
    const timer = setTimeout(() => worker.kill(), START_TIMEOUT_MS);
    try {
      await worker.serving;
    } finally {
      clearTimeout(timer);
    }
  }

  #watch(worker: WorkerProcess): void {
    const servingSinceMs = performance.now();
    const endWatch = this.#watchForStandstill(worker);
    void worker.exited.then((exit) => {
      endWatch?.();
      if (worker !== this.#worker || this.#isNo('serving')) return;
      if (worker.unmounted) {
        if (!this.#detached) this.#log(`${this.mountpoint} was unmounted`);
        this.#finish(true, false);
        return;
      }
      if (this.#negotiated?.resend !== true) {
        this.#log(
          `the worker of ${this.mountpoint} ended, and this kernel (before Linux 6.9) cannot hand over its requests`,
        );
        this.#finish(false);
        return;
      }
      if (performance.now() - servingSinceMs > STABLE_MS) this.#failures = 0;
      this.#state = 'restarting';
      void this.#restart(describeExit(exit));
    });
  }

  /** Undefined: an older version (a rollback) has no answer for it, and is not killed for that. */
  #watchForStandstill(worker: WorkerProcess): (() => void) | undefined {
    if (!worker.answers('ping')) return undefined;
    const patienceMs = this.#options.patienceMs ?? PATIENCE_MS;
    const ask = (): Promise<unknown> => worker.ask('ping');
    return watchForAnswers(ask, patienceMs, () => {
      this.#log(
        `the worker of ${this.mountpoint} (pid ${worker.pid}) answers nothing for ${patienceMs / 1000} s: killing it`,
      );
      worker.kill();
    });
  }

  /** Starts workers until one serves. */
  async #restart(why: string): Promise<void> {
    const downSinceMs = performance.now();
    for (let reason = why; this.#state === 'restarting';) {
      const pauseMs = RESTART_PAUSES_MS[Math.min(this.#failures++, RESTART_PAUSES_MS.length - 1)] ?? 0;
      this.#log(
        `the worker of ${this.mountpoint} ended (${reason}); starting another${pauseMs > 0 ? ` in ${pauseMs} ms` : ''}`,
      );
      await sleep(pauseMs);
      if (this.#isNo('restarting')) return;
      if (native().hasEnded(this.#fd)) {
        this.#log(`${this.mountpoint} was unmounted`);
        this.#finish(true, false);
        return;
      }
      this.#generation++;
      this.#restarts++;
      const worker = this.#fork();
      this.#assign(worker);
      try {
        await this.#untilServing(worker);
        if (this.#isNo('restarting')) return;
        this.#state = 'serving';
        this.#watch(worker);
        return;
      } catch (error) {
        worker.kill();
        reason = describeError(error);
      }
      if (performance.now() - downSinceMs > GIVE_UP_MS) {
        this.#log(`no worker could serve ${this.mountpoint} for ${GIVE_UP_MS / 60_000} minutes: giving it up`);
        this.#finish(false);
        return;
      }
    }
  }

  /** The state may have changed while a promise was awaited, which narrowing does not see. */
  #isNo(state: State): boolean {
    return this.#state !== state;
  }

  #finish(orderly: boolean, mounted = this.#fd >= 0 && !this.#detached): void {
    if (this.#state === 'ended') return;
    this.#state = 'ended';
    if (mounted) {
      try {
        this.#place.unmount(true, true);
      } catch (error) {
        this.#log(describeError(error));
      }
    }
    this.#link?.release();
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#notifications?.close();
    this.#held.close();
    this.#worker?.kill();
    // The answer to an umount may still be on its way to whoever asked.
    const timer = setTimeout(() => this.#end.resolve(orderly), ANSWER_GRACE_MS);
    this.#place.leave(() => {
      clearTimeout(timer);
      this.#end.resolve(orderly);
    });
  }
}

/** SIGTERM and SIGINT flush, unmount and end; SIGHUP reopens the access log. */
export function superviseSignals(supervisor: Supervisor, log: (message: string) => void): void {
  const stop = (): void => {
    supervisor.stop().catch((error: unknown) => log(describeError(error)));
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  process.on('SIGHUP', () => supervisor.reopenLog());
}
