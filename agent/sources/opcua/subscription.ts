/**
 * One subscription on a server (OPC UA Part 4, section 5.13), by its services: each notification is given out in order, and acknowledged only
 * when it is stored. Runs in the process of the client.
 *
 * Invariants: notifications are given out in the order of their sequence numbers; one that did not arrive is asked for again (Republish) before the
 * next one is given out. The server keeps each one until it is acknowledged.
 * Failure: `run` ends with the reason; the next session goes on behind the last notification that was given out, or stored.
 * Limits: UNSTORED_MAX notifications and UNSTORED_BYTES_MAX are given out and not stored; while they are, the server is asked for nothing.
 */
import { hash } from 'node:crypto';
import { call, type Library, type PublishResponse, type Session } from './library.ts';
import type { OpcuaSourceConfig } from './config.ts';
import type { ClientEvent, NodeReading, Resumption } from './messages.ts';
import { monitorNodes } from './monitored-items.ts';
import { readingOf } from './value.ts';

/** One waits at the server while the other one's answer is under way. */
const REQUESTS_MAX = 2;
const UNSTORED_MAX = 20;
const UNSTORED_BYTES_MAX = 4 * 1024 * 1024;
const VALUES_PER_NOTIFICATION_MAX = 1000;
/** A device behind a server may come up later than the server, and its nodes with it. */
const REFUSED_AGAIN_MS = 30_000;
const SEQUENCES = 2 ** 32;
const GONE = /BadNoSubscription|BadSubscriptionIdInvalid/;

export interface SubscriptionOptions {
  readonly library: Library;
  readonly config: OpcuaSourceConfig;
  readonly onNotification: (from: Resumption, readings: readonly NodeReading[]) => void;
  readonly onEvent: (event: ClientEvent) => void;
  /** Nodes that the server does not have, or not like that: what it says, by their indexes. */
  readonly onRefused: (refused: ReadonlyMap<number, string>) => void;
}

/** The server does not have the subscription any more. */
export class SubscriptionGone extends Error {}

export class Subscription {
  readonly #options: SubscriptionOptions;
  readonly #server: string;
  readonly #id: number;
  /** Nodes that the server refused. */
  readonly #refused: Set<number>;
  /** Given out last. */
  #sequence: number;
  /** Given out and not stored: their size. */
  readonly #unstored = new Map<number, number>();
  /** By node, a hash of the last value with its time: a server may send it again when its session goes on over another connection. */
  readonly #last = new Map<number, string>();
  #stored: number[] = [];
  #session: Session | undefined;
  #requests = 0;
  #work: Promise<void> = Promise.resolve();
  #fail: (reason: Error) => void = () => undefined;

  /** One that is on the server already, of the session that it is run on; else see `transferTo`. */
  constructor(options: SubscriptionOptions, { server, subscription, sequence, refused }: Resumption) {
    this.#options = options;
    this.#server = server;
    this.#id = subscription;
    this.#sequence = sequence;
    this.#refused = new Set(refused);
  }

  static async create(options: SubscriptionOptions, session: Session, server: string): Promise<Subscription> {
    const { library, config } = options;
    const { publishingInterval, keepAlive, lifetime } = config;
    const keepAliveCount = Math.max(1, Math.round(keepAlive / publishingInterval));
    const request = new library.CreateSubscriptionRequest({
      requestedPublishingInterval: publishingInterval,
      requestedMaxKeepAliveCount: keepAliveCount,
      // The protocol demands three times the other count at least.
      requestedLifetimeCount: Math.max(3 * keepAliveCount, Math.ceil(lifetime / publishingInterval)),
      maxNotificationsPerPublish: VALUES_PER_NOTIFICATION_MAX,
      publishingEnabled: true,
      priority: 0,
    });
    const { subscriptionId } = await call<{ subscriptionId: number }>((done) =>
      session.createSubscription(request, done),
    );
    // None of its nodes is on the server yet.
    const refused = config.nodes.map((_, index) => index);
    return new Subscription(options, { server, subscription: subscriptionId, sequence: 0, refused });
  }

  /** Makes it that of another session; false when the server does not have it any more, or does not give it to this one. */
  async transferTo(session: Session): Promise<boolean> {
    const request = new this.#options.library.TransferSubscriptionsRequest({
      subscriptionIds: [this.#id],
      sendInitialValues: false,
    });
    const { results } = await call<{ results: readonly { statusCode: { value: number } }[] | null }>((done) =>
      session.transferSubscriptions(request, done),
    );
    return results?.[0]?.statusCode.value === 0;
  }

  get resumption(): Resumption {
    const refused = [...this.#refused];
    return { server: this.#server, subscription: this.#id, sequence: this.#sequence, refused };
  }

  async remove(session: Session): Promise<void> {
    const request = new this.#options.library.DeleteSubscriptionsRequest({ subscriptionIds: [this.#id] });
    await call((done) => session.deleteSubscriptions(request, done));
  }

  /** The notification is on the disk. */
  stored(sequence: number): void {
    if (this.#unstored.delete(sequence)) this.#stored.push(sequence);
    this.#ask();
  }

  /** Until the signal fires. Throws why it ended before: SubscriptionGone when there is nothing left to go on with. */
  async run(session: Session, signal: AbortSignal): Promise<void> {
    const ended = Promise.withResolvers<undefined>();
    this.#fail = ended.reject;
    const stop = (): void => ended.resolve(undefined);
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    this.#session = session;
    this.#requests = 0;
    // Owned by `ended`.
    const again = setInterval(() => void this.monitorRefused(session).catch(ended.reject), REFUSED_AGAIN_MS);
    try {
      this.#ask();
      await ended.promise;
    } finally {
      clearInterval(again);
      signal.removeEventListener('abort', stop);
      this.#session = undefined;
      this.#fail = () => undefined;
      await this.#work;
    }
  }

  #ask(): void {
    const session = this.#session;
    if (session === undefined) return;
    const bytes = [...this.#unstored.values()].reduce((sum, size) => sum + size, 0);
    const isFull = this.#unstored.size >= UNSTORED_MAX || bytes >= UNSTORED_BYTES_MAX;
    while (this.#requests < REQUESTS_MAX && !isFull) {
      this.#requests += 1;
      const request = new this.#options.library.PublishRequest({
        // The server sends something each keep-alive; with two requests, each may wait for two of them.
        requestHeader: {
          timeoutHint: 4 * Math.max(this.#options.config.keepAlive, this.#options.config.publishingInterval),
        },
        subscriptionAcknowledgements: this.#stored
          .splice(0)
          .map((sequenceNumber) => ({ subscriptionId: this.#id, sequenceNumber })),
      });
      session.publish(request, (error, response) => {
        // Of a session before.
        if (this.#session !== session) return;
        this.#requests -= 1;
        if (error instanceof Error) this.#fail(GONE.test(error.message) ? new SubscriptionGone(error.message) : error);
        else if (response !== undefined) this.#take(session, response);
      });
    }
  }

  #take(session: Session, response: PublishResponse): void {
    this.#work = this.#work
      .then(() => (this.#session === session ? this.#handle(session, response) : undefined))
      .catch((error: unknown) => this.#fail(error instanceof Error ? error : new Error(String(error))))
      .finally(() => this.#ask());
  }

  async #handle(session: Session, response: PublishResponse): Promise<void> {
    // Of an earlier subscription that this session took over and removed.
    if (response.subscriptionId !== this.#id) return;
    const { notificationMessage: message, availableSequenceNumbers } = response;
    // A keep-alive names the number that comes next.
    const missing = distance(next(this.#sequence), message.sequenceNumber);
    if (missing < SEQUENCES / 2) await this.#fetchMissing(session, missing);
    if ((message.notificationData?.length ?? 0) > 0 && message.sequenceNumber === next(this.#sequence)) {
      this.#give(message.sequenceNumber, message.notificationData);
    }
    for (const sequence of availableSequenceNumbers ?? []) {
      // It was stored in an earlier run whose acknowledgement did not get through.
      const isStored = distance(next(this.#sequence), sequence) >= SEQUENCES / 2 && !this.#unstored.has(sequence);
      if (isStored && !this.#stored.includes(sequence)) this.#stored.push(sequence);
    }
  }

  /** Asks again for the notifications behind the last one. */
  async #fetchMissing(session: Session, count: number): Promise<void> {
    for (let left = count; left > 0; left -= 1) {
      const sequence = next(this.#sequence);
      const request = new this.#options.library.RepublishRequest({
        subscriptionId: this.#id,
        retransmitSequenceNumber: sequence,
      });
      const answer = await call<{ notificationMessage: PublishResponse['notificationMessage'] }>((done) =>
        session.republish(request, done),
      ).catch((error: unknown) => {
        if (String(error).includes('BadMessageNotAvailable')) return null;
        throw error;
      });
      if (answer === null) {
        this.#options.onEvent('notification_lost');
        this.#sequence = sequence;
      } else this.#give(sequence, answer.notificationMessage.notificationData);
    }
  }

  #give(sequence: number, parts: PublishResponse['notificationMessage']['notificationData']): void {
    const values = (parts ?? []).flatMap(({ monitoredItems }) => monitoredItems ?? []);
    const readings = values
      .map(({ clientHandle, value }) => readingOf(clientHandle, value))
      .filter((reading) => !this.#isRepeated(reading));
    this.#sequence = sequence;
    this.#unstored.set(
      sequence,
      readings.reduce((sum, { fields }) => sum + fields.length, 0),
    );
    this.#options.onNotification(this.resumption, readings);
    const status = parts?.find((part) => part.status !== undefined)?.status;
    // Good is what a transfer is called, which was ours.
    if (status !== undefined && status.value >>> 30 !== 0) {
      throw new SubscriptionGone(`the server ended the subscription: ${status.name}`);
    }
  }

  /** The same value of the same moment, as its source says: not another one. */
  #isRepeated({ node, fields, timeUs, isTimeOfSource }: NodeReading): boolean {
    if (!isTimeOfSource) return false;
    const print = hash('sha256', `${timeUs} ${fields}`, 'base64');
    const isRepeated = this.#last.get(node) === print;
    this.#last.set(node, print);
    if (isRepeated) this.#options.onEvent('repeat');
    return isRepeated;
  }

  /** Asks the server for those of the nodes that it refused before. */
  async monitorRefused(session: Session): Promise<void> {
    const { library, config, onRefused } = this.#options;
    const refused = await monitorNodes(library, session, config, this.#id, [...this.#refused]);
    for (const index of this.#refused) if (!refused.has(index)) this.#refused.delete(index);
    onRefused(refused);
  }
}

function next(sequence: number): number {
  // Zero is never used (Part 4, section 7.8).
  return sequence === SEQUENCES - 1 ? 1 : sequence + 1;
}

/** How far `to` lies behind `from`; more than half of all numbers when it lies before. */
function distance(from: number, to: number): number {
  return (to - from + SEQUENCES) % SEQUENCES;
}
