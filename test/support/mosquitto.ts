/** A real Mosquitto of one's own, with persistence: on a free loopback port, in a temporary folder, stopped by its process id. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { until } from './redis.ts';
import { requireService } from './services.ts';
import { makeTempDir } from './temp.ts';
import { freePort } from './ports.ts';

export class Mosquitto {
  readonly port: number;
  readonly dir: string;
  #process: ChildProcess | undefined;

  private constructor(port: number, dir: string) {
    this.port = port;
    this.dir = dir;
  }

  /** `lines`: further lines of its configuration, in which DIR stands for its folder. The caller stops it. */
  static async start(...lines: readonly string[]): Promise<Mosquitto> {
    const server = new Mosquitto(await freePort(), makeTempDir('mosquitto'));
    mkdirSync(join(server.dir, 'data'));
    const fixed = [
      `listener ${server.port} 127.0.0.1`,
      'user root',
      'persistence true',
      `persistence_location ${server.dir}/data/`,
      `log_dest file ${server.dir}/mosquitto.log`,
      ...['error', 'warning', 'notice', 'information', 'subscribe'].map((type) => `log_type ${type}`),
      // Otherwise it drops what a client that is away does not fetch in time, and what it has acknowledged.
      'max_queued_messages 0',
      // At this bound, Mosquitto 2.0 lets new messages overtake those that wait; without one, it gives packet ids twice.
      'max_inflight_messages 10000',
    ];
    const more = lines.map((line) => line.replaceAll('DIR', server.dir));
    if (!more.some((line) => line.startsWith('allow_anonymous'))) more.push('allow_anonymous true');
    writeFileSync(join(server.dir, 'mosquitto.conf'), [...fixed, ...more, ''].join('\n'));
    try {
      await server.start();
    } catch (error) {
      await server.stop();
      throw error;
    }
    return server;
  }

  url(scheme = 'mqtt'): string {
    return `${scheme}://127.0.0.1:${this.port}`;
  }

  get log(): string {
    return readFileSync(join(this.dir, 'mosquitto.log'), 'utf8');
  }

  /** What is published before is nobody's: the broker acknowledges it and lets it go. */
  isSubscribed(clientId: string): boolean {
    return new RegExp(`: ${clientId} [012] `).test(this.log);
  }

  /** Starts it, or starts it again on what it kept. */
  async start(): Promise<void> {
    const binary = requireService('mosquitto');
    const child = spawn(binary, ['-c', join(this.dir, 'mosquitto.conf')], { stdio: 'ignore' });
    this.#process = child;
    const exited = once(child, 'exit').then(() => {
      throw new Error(`mosquitto ended at its start; its log is ${this.dir}/mosquitto.log`);
    });
    await Promise.race([until(() => isListening(this.port)), exited]);
    exited.catch(() => undefined);
  }

  /** The signal (SIGTERM: it keeps its sessions), and the process has ended when it resolves. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child?.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  async stop(): Promise<void> {
    await this.kill('SIGKILL');
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 3 });
  }
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
