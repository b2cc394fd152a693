/** A real OPC UA server for tests, and agents that find the library for it. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { requireService } from './services.ts';
import { HANG_MS } from './hang.ts';
import { freePort } from './ports.ts';

const childPath = fileURLToPath(new URL('./opcua-server-child.ts', import.meta.url));

export type OpcuaCommand =
  /** The counter goes up by one, `times` times. */
  | { readonly type: 'count'; readonly times: number }
  | {
      readonly type: 'set';
      readonly name: string;
      readonly dataType: string;
      readonly value: unknown;
      readonly status?: string;
      readonly timeMs?: number;
    }
  | { readonly type: 'add'; readonly name: string };

/** Makes the library be found from `dir`, as `npm install` in it would. */
export function installOpcuaLibrary(dir: string): void {
  symlinkSync(join(requireService('node-opcua'), 'node_modules'), join(dir, 'node_modules'));
}

export class OpcuaServer {
  readonly port: number;
  readonly #pki: string;
  #child: ChildProcess | undefined;

  private constructor(port: number, pki: string) {
    this.port = port;
    this.#pki = pki;
  }

  /** On a free port; ends with the test. */
  static async start(dir: string): Promise<OpcuaServer> {
    const server = new OpcuaServer(await freePort(), join(dir, 'server-pki'));
    onTestFinished(() => void server.#child?.kill('SIGKILL'));
    await server.restart();
    return server;
  }

  /** Its own certificate, DER in PEM. */
  get certificate(): string {
    return join(this.#pki, 'own', 'certs', 'certificate.pem');
  }

  /** After it was killed: with the same certificate, and nothing that it knew. */
  async restart(): Promise<void> {
    const folder = requireService('node-opcua');
    const child = fork(childPath, [folder, String(this.port), this.#pki], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    let lastWords = '';
    child.stderr?.on('data', (chunk: Buffer) => (lastWords = (lastWords + chunk.toString()).slice(-2000)));
    this.#child = child;
    const started = once(child, 'message', { signal: AbortSignal.timeout(HANG_MS) });
    const ended = once(child, 'exit').then(() => {
      throw new Error(`the OPC UA server ended: ${lastWords}`);
    });
    // Its end is only of interest before its start.
    ended.catch(() => undefined);
    await Promise.race([started, ended]);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }

  /** Resolves, to the counter, when it is done. */
  async do(command: OpcuaCommand): Promise<number> {
    const child = this.#child;
    if (child === undefined) throw new Error('the OPC UA server is not running');
    const answer = once(child, 'message', { signal: AbortSignal.timeout(HANG_MS) });
    child.send(command);
    const [message] = (await answer) as [{ readonly counter: number }];
    return message.counter;
  }
}
