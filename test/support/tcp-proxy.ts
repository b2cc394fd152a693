/** A TCP link that tests can slow down, cut and swallow answers on: between a mount and its Redis or its object store. */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

export class TcpProxy {
  /** Added to what goes each way. */
  delayMs = 0;
  readonly #target: () => number;
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #cut = false;
  #swallow: ((bytes: number) => void) | undefined;

  private constructor(target: () => number) {
    this.#target = target;
    this.#server = createServer((client) => this.#accept(client));
  }

  /** `target` names the loopback port to connect to, at each connection anew. */
  static async start(target: () => number): Promise<TcpProxy> {
    const proxy = new TcpProxy(target);
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('this proxy is closed');
    return address.port;
  }

  /** Ends every connection; new ones are refused at once until `restore`. */
  cut(): void {
    this.#cut = true;
    this.reset();
  }

  restore(): void {
    this.#cut = false;
  }

  /** Ends every connection once. */
  reset(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.resetAndDestroy();
  }

  /** Lets requests through and holds the answers back; a connection that lacks one has none from then on. Resolves when the first is held. */
  swallowAnswers(): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number>();
    this.#swallow = resolve;
    return promise;
  }

  /** Answers come through again, of connections that lack none. */
  deliverAnswers(): void {
    this.#swallow = undefined;
  }

  async close(): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #accept(client: Socket): void {
    if (this.#cut) {
      client.resetAndDestroy();
      return;
    }
    const server = connect(this.#target(), '127.0.0.1');
    const pair = [client, server] as const;
    this.#pairs.add(pair);
    this.#pass(client, server, false);
    this.#pass(server, client, true);
    for (const socket of pair) {
      socket.setNoDelay(true);
      socket.on('error', () => undefined); // 'close' follows
      socket.on('close', () => {
        this.#pairs.delete(pair);
        for (const other of pair) other.destroy();
      });
    }
  }

  #pass(from: Socket, to: Socket, answers: boolean): void {
    // In their order, also when the delay becomes shorter: nothing may overtake what still waits.
    let last = Promise.resolve();
    let waiting = 0;
    // A stream that lacks an answer has no further ones: they would be taken for it.
    let mute = false;
    from.on('data', (bytes) => {
      if (answers && this.#swallow !== undefined) {
        mute = true;
        this.#swallow(bytes.length);
      }
      if (mute) return;
      if (this.delayMs === 0 && waiting === 0) {
        to.write(bytes);
        return;
      }
      const due = sleep(this.delayMs);
      waiting++;
      last = last.then(async () => {
        await due;
        waiting--;
        if (!to.destroyed) to.write(bytes);
      });
    });
    from.on('end', () => to.end());
  }
}
