/**
 * A supervisor's link to the keeper of its mount (keeper.ts): hands it the device and what the next supervisor needs, and stays connected. The end of the
 * connection without a word is what tells the keeper that the supervisor was killed.
 *
 * Failure: a keeper that ends, or is not there yet, is looked for again every RETRY_MS; the mount is served meanwhile.
 */
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Negotiated } from './handshake.ts';
import { native } from './native.ts';
import type { SupervisorOptions } from './supervisor.ts';

const RETRY_MS = 500;
/** The line that takes the mount away from the keeper. */
export const RELEASED = 'released';

/** What a supervisor needs to go on with a mount. It has the secrets of the mount, and never leaves memory. */
export interface KeptMount {
  readonly options: Omit<SupervisorOptions, 'keeper'>;
  readonly session: string;
  readonly negotiated: Negotiated;
}

export class KeeperLink {
  readonly #path: string;
  readonly #device: number;
  readonly #mount: KeptMount;
  #socket: Socket | undefined;
  #timer: NodeJS.Timeout | undefined;
  #released = false;

  constructor(path: string, device: number, mount: KeptMount) {
    this.#path = path;
    this.#device = device;
    this.#mount = mount;
    this.#connect();
  }

  /** Our mount is at its end. */
  release(): void {
    this.#released = true;
    clearTimeout(this.#timer);
    this.#socket?.end(`${RELEASED}\n`);
  }

  #connect(): void {
    const sys = native();
    const fd = sys.connectUnix(this.#path);
    if (fd < 0 || sys.sendFd(fd, this.#device) < 0) {
      if (fd >= 0) closeSync(fd);
      this.#again();
      return;
    }
    const socket = new Socket({ fd });
    this.#socket = socket;
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#again());
    socket.resume().write(`${JSON.stringify(this.#mount)}\n`);
    socket.unref();
  }

  #again(): void {
    this.#socket = undefined;
    if (this.#released) return;
    this.#timer = setTimeout(() => this.#connect(), RETRY_MS);
    this.#timer.unref();
  }
}
