/**
 * The keeper: a second holder of the devices of mounts, in another process (on Kubernetes in another container) than their supervisors. A supervisor that is
 * killed, with its worker or with its whole container, leaves its mount here: programs wait, until somebody takes it and starts the next one.
 *
 * Two Unix sockets in a private folder. `PATH`: a supervisor sends the device (one byte with SCM_RIGHTS), then a line of JSON (`KeptMount`), and keeps the
 * connection; the line `released` ends its mount. `PATH.take`: whoever connects gets a mount that nobody serves, in the same form, or the end.
 *
 * Invariants: the device stays here until its mount has ended, is released, or the next supervisor has sent it again.
 * Failure: the end of the keeper closes its copies only; supervisors that live look for the next one.
 * Limits: MOUNTS_MAX; a mount that nobody takes for GIVE_UP_MS is given up, and its programs get ENOTCONN.
 */
import { chmodSync, closeSync, rmSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import type { Server } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { PenstockError } from '../../lib/errors.ts';
import { Errno } from '../vfs/operations.ts';
import { RELEASED } from './keeper-link.ts';
import type { KeptMount } from './keeper-link.ts';
import { native } from './native.ts';

const MOUNTS_MAX = 1000;
const GIVE_UP_MS = 600_000;
/** Whoever has taken a mount has sent it again by then, also on a machine that is short of everything, or died. */
const TAKEN_MS = 60_000;
const LOOK_MS = 1_000;
const RECEIVE_MS = 5_000;
const RECEIVE_POLL_MS = 2;
const LINE_BYTES_MAX = 1 << 20;

interface Entry {
  readonly fd: number;
  readonly mount: KeptMount;
  /** Whose mount it is. */
  readonly link: Socket;
  /** When nobody served it any more, and when it was taken last. */
  orphanedMs?: number;
  takenMs?: number;
}

export class Keeper {
  readonly #log: (message: string) => void;
  readonly #entries = new Map<string, Entry>();
  readonly #sockets = new Set<Socket>();
  #servers: Server[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(log: (message: string) => void) {
    this.#log = log;
  }

  async listen(path: string): Promise<void> {
    const keep = createServer({ pauseOnConnect: true }, (socket) => void this.#keep(socket));
    const take = createServer((socket) => this.#give(socket));
    this.#servers = [keep, take];
    await Promise.all([listenOn(keep, path), listenOn(take, takePath(path))]);
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    this.#timer.unref();
  }

  close(): void {
    clearInterval(this.#timer);
    for (const server of this.#servers) server.close();
    for (const { fd } of this.#entries.values()) closeSync(fd);
    this.#entries.clear();
    for (const socket of this.#sockets) socket.destroy();
  }

  async #keep(socket: Socket): Promise<void> {
    this.#sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#sockets.delete(socket));
    const fd = await receiveFd(descriptorOf(socket));
    if (fd === undefined || socket.destroyed) {
      if (fd !== undefined) closeSync(fd);
      socket.destroy();
      return;
    }
    let session: string | undefined;
    const lines = createInterface({ input: socket });
    lines.on('line', (line) => {
      if (session !== undefined) {
        if (line === RELEASED) this.#drop(session);
        return;
      }
      const mount = parseMount(line);
      if (mount === undefined) {
        socket.destroy();
        return;
      }
      session = mount.session;
      this.#drop(session);
      if (this.#entries.size >= MOUNTS_MAX) {
        closeSync(fd);
        return;
      }
      this.#entries.set(session, { fd, mount, link: socket });
      this.#log(`keeps the mount at ${mount.options.mountpoint}`);
    });
    socket.on('close', () => {
      if (session === undefined) {
        closeSync(fd);
        return;
      }
      const entry = this.#entries.get(session);
      if (entry?.link !== socket) return;
      entry.orphanedMs = performance.now();
      this.#log(`the supervisor of ${entry.mount.options.mountpoint} ended: its mount waits for another`);
    });
  }

  #give(socket: Socket): void {
    socket.on('error', () => socket.destroy());
    const now = performance.now();
    for (const entry of this.#entries.values()) {
      const { fd, mount, orphanedMs, takenMs } = entry;
      if (orphanedMs === undefined || now - (takenMs ?? -Infinity) < TAKEN_MS) continue;
      if (native().sendFd(descriptorOf(socket), fd) < 0) break;
      entry.takenMs = now;
      socket.end(`${JSON.stringify(mount)}\n`);
      return;
    }
    socket.end();
  }

  /** Mounts that have ended, or that nobody wants. */
  #look(): void {
    for (const [session, { fd, mount, orphanedMs }] of this.#entries) {
      const givenUp = orphanedMs !== undefined && performance.now() - orphanedMs > GIVE_UP_MS;
      if (givenUp) this.#log(`nobody went on with ${mount.options.mountpoint}: it is given up`);
      if (givenUp || native().hasEnded(fd)) this.#drop(session);
    }
  }

  #drop(session: string): void {
    const entry = this.#entries.get(session);
    this.#entries.delete(session);
    if (entry !== undefined) closeSync(entry.fd);
  }
}

export interface TakenMount {
  readonly fd: number;
  readonly mount: KeptMount;
}

/** A mount of the keeper at this path that nobody serves; undefined when there is none, or no keeper. */
export async function takeMount(path: string): Promise<TakenMount | undefined> {
  const raw = native().connectUnix(takePath(path));
  if (raw < 0) return undefined;
  const fd = await receiveFd(raw);
  const socket = new Socket({ fd: raw });
  if (fd === undefined) {
    socket.destroy();
    return undefined;
  }
  try {
    let text = '';
    for await (const chunk of socket.setEncoding('utf8')) {
      text += String(chunk);
      if (text.length > LINE_BYTES_MAX)
        throw new PenstockError('too-large', `a kept mount above ${LINE_BYTES_MAX} bytes`);
    }
    const mount = parseMount(text);
    if (mount === undefined) throw new PenstockError('corrupt', `the keeper at ${path} is of another version`);
    return { fd, mount };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Only root, or the user of the mounts, can write here: the shape is that of another version at most. */
function parseMount(line: string): KeptMount | undefined {
  try {
    const mount = JSON.parse(line) as Partial<KeptMount> | null; // what a KeeperLink wrote
    const { session, options, negotiated } = mount ?? {};
    if (session === undefined || options === undefined || negotiated === undefined) return undefined;
    return { session, options, negotiated };
  } catch {
    return undefined;
  }
}

function takePath(path: string): string {
  return `${path}.take`;
}

async function listenOn(server: Server, path: string): Promise<void> {
  rmSync(path, { force: true });
  await new Promise<void>((done, reject) => server.once('error', reject).listen(path, done));
  chmodSync(path, 0o600);
}

/** Undefined when the peer sends none. */
async function receiveFd(socket: number): Promise<number | undefined> {
  const endMs = performance.now() + RECEIVE_MS;
  for (;;) {
    const fd = native().receiveFd(socket);
    if (fd >= 0) return fd;
    if (fd !== -Errno.EAGAIN || performance.now() > endMs) return undefined;
    await sleep(RECEIVE_POLL_MS);
  }
}

/** Node has no public word for it, and drops descriptors that come with what it reads. */
function descriptorOf(socket: Socket): number {
  return (socket as unknown as { readonly _handle: { readonly fd: number } })._handle.fd; // of every connected socket
}
