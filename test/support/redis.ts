/** A real redis-server of one's own: on a free loopback port, in a temporary folder, stopped by its process id. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { requireService } from './services.ts';
import { makeTempDir } from './temp.ts';
import { HANG_MS } from './hang.ts';
import { freePort } from './ports.ts';

export class RedisServer {
  readonly port: number;
  readonly dir: string;
  /** An administrator's connection. */
  readonly admin: Redis;
  readonly #args: readonly string[];
  #process: ChildProcess | undefined;

  constructor(port: number, args: readonly string[]) {
    this.port = port;
    this.dir = makeTempDir('redis');
    this.#args = args;
    this.admin = new Redis({
      host: '127.0.0.1',
      port,
      lazyConnect: true,
      retryStrategy: () => 20,
      maxRetriesPerRequest: null,
    });
    // It is told of every refused connection while the server restarts.
    this.admin.on('error', () => undefined);
  }

  get pid(): number {
    const pid = this.#process?.pid;
    if (pid === undefined) throw new Error('this redis-server is not running');
    return pid;
  }

  url(database = 0, query = ''): string {
    return `redis://127.0.0.1:${this.port}/${database}${query}`;
  }

  async start(): Promise<void> {
    const binary = requireService('redis-server');
    const fixed = [
      '--port',
      String(this.port),
      '--bind',
      '127.0.0.1',
      '--dir',
      this.dir,
      '--save',
      '',
      '--daemonize',
      'no',
      // A replica need not wait for others that might come.
      '--repl-diskless-sync-delay',
      '0',
    ];
    // The others come first, as a configuration file has to.
    const child = spawn(binary, [...this.#args, ...fixed, '--logfile', 'redis.log'], { stdio: 'ignore' });
    this.#process = child;
    const exited = once(child, 'exit').then(() => {
      throw new Error(`redis-server ended at its start; its log is ${this.dir}/redis.log`);
    });
    await Promise.race([this.#answers(), exited]);
    exited.catch(() => undefined);
  }

  /** The signal, and the process has ended when it resolves. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#process;
    if (child === undefined) return;
    this.#process = undefined;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  async stop(): Promise<void> {
    this.admin.disconnect();
    await this.kill();
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 3 });
  }

  /** Waits until this replica has its master's data and follows it. */
  async follow(master: RedisServer): Promise<void> {
    await this.admin.call('REPLICAOF', '127.0.0.1', String(master.port));
    await until(async () => {
      if (!(await this.admin.info('replication')).includes('master_link_status:up')) return false;
      return (await master.admin.info('replication')).includes('state=online');
    });
  }

  async #answers(): Promise<void> {
    await until(async () => {
      const socket = connect(this.port, '127.0.0.1');
      try {
        await once(socket, 'connect');
        socket.write('PING\r\n');
        const [reply] = (await once(socket, 'data')) as [Buffer]; // what a socket's data event carries
        // It may ask for a password, but no longer be loading its data.
        return /^(\+PONG|-NOAUTH)/.test(reply.toString());
      } catch {
        return false;
      } finally {
        socket.destroy();
      }
    });
  }
}

/** Asks again every few milliseconds until `condition` holds; throws at the deadline. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + HANG_MS;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error(`not so within ${HANG_MS} ms: ${condition.toString()}`);
    await sleep(5);
  }
}

/** The caller stops it. */
export async function startRedis(...args: readonly string[]): Promise<RedisServer> {
  const server = new RedisServer(await freePort(), args);
  try {
    await server.start();
  } catch (error) {
    await server.stop();
    throw error;
  }
  return server;
}
