/**
 * The place of one mount: its mount point, the lock on it, the socket on which its supervisor is asked, and the mount that is ours there.
 *
 * Invariants
 * - Only our own mount is unmounted: another supervisor's may stand at the same place when ours was taken for dead.
 * - The socket is gone before the lock is: it could be the next supervisor's.
 */
import type { Server } from 'node:net';
import type { ProcessLock } from '../../lib/process-lock.ts';
import { claimMountpoint, refuseSecond } from './claim.ts';
import { serveControl, type ControlAnswer, type ControlRequest } from './control.ts';
import { findMount, resolveMountpoint, unmountPoint, type UnmountResult } from './mount.ts';

export class MountPlace {
  readonly mountpoint: string;
  /** Of our mount, as the kernel's table names it. */
  #device: string | undefined;
  #lock: ProcessLock | undefined;
  #control: Server | undefined;

  constructor(mountpoint: string) {
    this.mountpoint = resolveMountpoint(mountpoint);
  }

  /** For a new mount: what a dead supervisor left is removed. Throws `held`. */
  async claim(log: (message: string) => void): Promise<void> {
    this.#lock = await claimMountpoint(this.mountpoint, log);
  }

  /** For the mount that is there. Throws `held`. */
  async takeOver(): Promise<void> {
    this.#lock = await refuseSecond(this.mountpoint);
  }

  async serve(answer: (request: ControlRequest) => Promise<ControlAnswer>): Promise<void> {
    this.#control = await serveControl(this.mountpoint, answer);
  }

  /** What is mounted there now is ours; returns its device. */
  own(): string | undefined {
    this.#device = findMount(this.mountpoint)?.device;
    return this.#device;
  }

  unmount(lazy: boolean, abort = false): UnmountResult {
    if (findMount(this.mountpoint)?.device !== this.#device) return 'not-mounted';
    return unmountPoint(this.mountpoint, lazy, abort);
  }

  /** It is free for another supervisor, and must not be touched any more. `left`: nobody waits for an answer any more. */
  leave(left?: () => void): void {
    if (this.#control?.listening === true) this.#control.close(left);
    else left?.();
    this.#lock?.release();
  }
}
