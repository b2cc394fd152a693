/**
 * The process of an OPC UA source: it has the library in its memory, and the agent does not. Started by opcua-source.ts, which it talks to over IPC.
 *
 * It connects again and again, with backoff, and goes on with its subscription: on the same session where that lives on, else by its transfer to a new
 * one. It ends when it is told to, or when the agent is gone; the subscription stays with the server.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describeError } from '../../../lib/errors.ts';
import { Backoff } from '../../uplink/backoff.ts';
import { ATTRIBUTE_VALUE, loadLibrary, type Client, type Library, type Session } from './library.ts';
import type { ClientOptions, FromClient, ToClient } from './messages.ts';
import { Subscription, SubscriptionGone, type SubscriptionOptions } from './subscription.ts';

const RECONNECT_MS_MIN = 200;
const RECONNECT_MS_MAX = 30_000;
const CONNECT_MS_MAX = 10_000;
const CLOSE_MS_MAX = 2000;
/** A session waits that long for its client. */
const SESSION_MS = 600_000;
/** Server.ServerStatus.StartTime */
const START_TIME = 'i=2257';
/** Part 4, section 7.40: user identity tokens. */
const ANONYMOUS = 0;
const USER_NAME = 1;
const NAMED_MAX = 3;

class OpcuaClient {
  readonly #options: ClientOptions;
  readonly #library: Library;
  readonly #signal: AbortSignal;
  readonly #send: (message: FromClient) => void;
  readonly #subscriptionOptions: SubscriptionOptions;
  #session: Session | undefined;
  #subscription: Subscription | undefined;
  /** There was one before, whose values should not be missed. */
  #isContinuation: boolean;

  constructor(options: ClientOptions, library: Library, signal: AbortSignal, send: (message: FromClient) => void) {
    const { config, resumption, outdated } = options;
    this.#options = options;
    this.#library = library;
    this.#signal = signal;
    this.#send = send;
    this.#subscriptionOptions = {
      library,
      config,
      onNotification: (from, readings) => send({ type: 'notification', from, readings }),
      onEvent: (event) => send({ type: 'event', event }),
      onRefused: (refused) => send({ type: 'problem', problem: this.#refusedNodes(refused) }),
    };
    this.#subscription = resumption === null ? undefined : new Subscription(this.#subscriptionOptions, resumption);
    this.#isContinuation = resumption !== null || outdated !== null;
  }

  stored(subscription: number, sequence: number): void {
    if (this.#subscription?.resumption.subscription === subscription) this.#subscription.stored(sequence);
  }

  async run(): Promise<void> {
    const backoff = new Backoff({ minMs: RECONNECT_MS_MIN, maxMs: RECONNECT_MS_MAX, random: Math.random });
    for (let attempt = 0; !this.#isOver(); attempt += 1) {
      try {
        await this.#once(() => (attempt = 0));
      } catch (error) {
        if (!this.#isOver()) this.#send({ type: 'problem', problem: describeError(error) });
      }
      await backoff.wait(attempt, this.#signal);
    }
  }

  // A method, because the type checker does not see that an await in between can change it.
  #isOver(): boolean {
    return this.#signal.aborted;
  }

  /** One connection, until it ends. `onSubscribed` is called when it works. */
  async #once(onSubscribed: () => void): Promise<void> {
    const client = this.#library.OPCUAClient.create(await this.#clientOptions());
    const lost = new AbortController();
    try {
      await within(CONNECT_MS_MAX, 'no connection', client.connect(this.#options.config.url));
      client.on('connection_lost', () => lost.abort());
      client.on('close', () => lost.abort());
      const isSame = await this.#isSameSession(client);
      const session = (this.#session ??= await this.#newSession(client));
      const subscription = await this.#subscriptionOn(session, isSame);
      await subscription.monitorRefused(session);
      this.#send({ type: 'event', event: 'connection' });
      onSubscribed();
      await subscription.run(session, AbortSignal.any([this.#signal, lost.signal]));
      if (lost.signal.aborted) throw new Error('the connection was lost');
      await within(CLOSE_MS_MAX, 'no answer', session.close(false));
    } catch (error) {
      if (error instanceof SubscriptionGone) this.#subscription = undefined;
      throw error;
    } finally {
      await within(CLOSE_MS_MAX, 'no answer', client.disconnect()).catch(() => undefined);
    }
  }

  async #clientOptions(): Promise<Readonly<Record<string, unknown>>> {
    const { config, pkiDir, applicationUri, serverCert, certPath, keyPath } = this.#options;
    // Of another server, or of a certificate that is expected no more.
    await rm(join(pkiDir, 'trusted'), { recursive: true, force: true });
    const manager = new this.#library.OPCUACertificateManager({
      rootFolder: pkiDir,
      // Without security, certificates protect nothing, and a server may show any.
      automaticallyAcceptUnknownCertificate: config.security === undefined,
    });
    await manager.initialize();
    if (serverCert !== null) await manager.trustCertificate(serverCert);
    return {
      applicationName: 'penstock',
      clientName: 'penstock',
      ...(certPath === null ? { applicationUri } : { certificateFile: certPath, privateKeyFile: keyPath }),
      clientCertificateManager: manager,
      securityMode: config.security?.mode ?? 'None',
      securityPolicy: config.security?.policy ?? 'None',
      // A server that is known by another name than the one in its own list is reached all the same.
      endpointMustExist: false,
      // This process connects again by itself, with what it knows of its subscription.
      connectionStrategy: { maxRetry: 0, initialDelay: 100, maxDelay: 100 },
      keepSessionAlive: false,
      // The session waits on the server for the next connection.
      keepPendingSessionsOnDisconnect: true,
      requestedSessionTimeout: SESSION_MS,
    };
  }

  /** Whether the session of the connection before goes on, on this one. */
  async #isSameSession(client: Client): Promise<boolean> {
    const before = this.#session;
    this.#session = undefined;
    if (before === undefined) return false;
    try {
      await within(CONNECT_MS_MAX, 'no answer', client.reactivateSession(before));
      this.#session = before;
      return true;
    } catch {
      // The server does not have it any more.
      return false;
    }
  }

  #newSession(client: Client): Promise<Session> {
    const { config, password } = this.#options;
    const user = { type: USER_NAME, userName: config.user, password: password ?? '' };
    const identity = config.user === undefined ? { type: ANONYMOUS } : user;
    return within(CONNECT_MS_MAX, 'no session', client.createSession(identity));
  }

  async #subscriptionOn(session: Session, isSameSession: boolean): Promise<Subscription> {
    const { value } = await session.read({ nodeId: START_TIME, attributeId: ATTRIBUTE_VALUE });
    const server = value.value instanceof Date ? value.value.toISOString() : '';
    const before = this.#subscription;
    if (before?.resumption.server === server && (isSameSession || (await before.transferTo(session)))) return before;
    await this.#removeOutdated(session, server);
    if (this.#isContinuation) this.#send({ type: 'event', event: 'subscription_lost' });
    this.#isContinuation = true;
    return (this.#subscription = await Subscription.create(this.#subscriptionOptions, session, server));
  }

  async #removeOutdated(session: Session, server: string): Promise<void> {
    const { outdated } = this.#options;
    if (outdated?.server !== server || this.#subscription !== undefined) return;
    const subscription = new Subscription(this.#subscriptionOptions, outdated);
    if (await subscription.transferTo(session)) await subscription.remove(session);
  }

  #refusedNodes(refused: ReadonlyMap<number, string>): string | null {
    const named = [...refused].slice(0, NAMED_MAX).map(([index, reason]) => {
      const node = this.#options.config.nodes[index];
      return `${node?.sensor ?? index} (${node?.node ?? ''}): ${reason}`;
    });
    const more = refused.size - named.length;
    if (refused.size === 0) return null;
    return `the server refuses ${named.join('; ')}${more > 0 ? `; and ${more} more` : ''}`;
  }
}

/** Rejects with what was waited for when it takes too long. */
async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`${what} within ${ms / 1000} s`)), ms);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

const end = new AbortController();
let client: OpcuaClient | undefined;

async function start(options: ClientOptions): Promise<void> {
  const library = await loadLibrary(options.libraryDir);
  client = new OpcuaClient(options, library, end.signal, (message) => process.send?.(message));
  await client.run();
  process.exit();
}

process.on('message', (message: ToClient) => {
  if (message.type === 'start') {
    void start(message.options).catch((error: unknown) => {
      process.stderr.write(`${describeError(error)}\n`, () => process.exit(1));
    });
  } else if (message.type === 'stored') client?.stored(message.subscription, message.sequence);
  else end.abort();
});
// The agent is gone, or has let this process end.
process.on('disconnect', () => process.exit());
// A terminal sends these to the agent, too, which ends this process in order.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
