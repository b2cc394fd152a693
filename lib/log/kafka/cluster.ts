/**
 * What is known of the cluster, and the connections to its brokers.
 *
 * Invariants
 * - Leaders come from a cache, which `forget` empties for a topic; `describe` always asks. Nothing is refreshed by a timer.
 * - One connection a broker for each purpose: a fetch that waits for records, the batches of a producer, and those of a backlog would hold
 *   back what is sent behind them, as a broker answers the requests of a connection one after the other.
 * Failure: a connection that broke is made again by the next call. Brokers that the last answer named are asked first, then those of
 * the URL: a cluster that moved entirely is found again through the URL.
 * Limits: FETCH_LINKS_MAX fetches a broker at the same time, further ones wait for their turn.
 */
import type { Clock } from '../../clock.ts';
import { PenstockError } from '../../errors.ts';
import type { HostPort } from '../../urls.ts';
import { persist } from './backoff.ts';
import { NO_ERROR, UNKNOWN_TOPIC_OR_PARTITION, brokerError, isPassing } from './broker-errors.ts';
import { BrokerLink } from './broker-link.ts';
import type { KafkaLimits } from './limits.ts';
import { metadataRequest, type ClusterMetadata, type TopicMetadata } from './metadata-request.ts';
import type { ApiRequest } from './request.ts';
import type { Transport } from './transport.ts';

const FETCH_LINKS_MAX = 16;
const UNKNOWN_NODE = -1;

export type Purpose = 'ask' | 'produce' | 'backlog';

/** Where the requests for a partition go now. */
export interface Route {
  readonly topicId: string;
  readonly node: number;
  readonly leaderEpoch: number;
}

export interface ClusterOptions {
  readonly bootstrap: readonly HostPort[];
  readonly transport: Transport;
  readonly limits: KafkaLimits;
  readonly clock: Clock;
  readonly random: () => number;
}

interface FetchLinks {
  readonly idle: BrokerLink[];
  readonly waiting: (() => void)[];
  leased: number;
}

export class Cluster {
  readonly #options: ClusterOptions;
  readonly #closing = new AbortController();
  readonly #links = new Map<string, Promise<BrokerLink>>();
  readonly #open = new Set<BrokerLink>();
  readonly #fetchLinks = new Map<string, FetchLinks>();
  readonly #topics = new Map<string, TopicMetadata>();
  #nodes: ReadonlyMap<number, HostPort> = new Map();
  #controller = UNKNOWN_NODE;
  #turn = 0;
  /** No broker could be reached when one was looked for last. */
  #isUnreachable = false;
  /** So ended a whole call. */
  #isAway = false;

  constructor(options: ClusterOptions) {
    this.#options = options;
  }

  get limits(): KafkaLimits {
    return this.#options.limits;
  }

  /** Fires, with a `closed` error as its reason, when the log is closed. */
  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  close(): void {
    this.#closing.abort(new PenstockError('closed', 'the Kafka log is closed'));
    for (const link of this.#open) link.close();
    this.#open.clear();
    this.#links.clear();
    for (const { waiting } of this.#fetchLinks.values()) for (const next of waiting.splice(0)) next();
  }

  /**
   * Runs `attempt` again, within `callMs`, while its errors are passing. When a call ended without any broker that could be reached, the next ones are
   * one attempt each until there is one: how often to ask in an outage of days is the caller's matter.
   */
  async persist<T>(attempt: () => Promise<T>): Promise<T> {
    const { clock, random, limits } = this.#options;
    const deadlineMs = this.#isAway ? 0 : limits.callMs;
    try {
      return await persist(attempt, { clock, random, deadlineMs, signal: this.signal });
    } catch (error) {
      this.#isAway = this.#isUnreachable;
      throw error;
    }
  }

  /** Asks now. Null where there is no such topic. */
  async describe(name: string): Promise<TopicMetadata | null> {
    const topic = (await this.#refresh([name])).topics.find((found) => found.name === name);
    if (topic === undefined || topic.error === UNKNOWN_TOPIC_OR_PARTITION) return null;
    if (topic.error !== NO_ERROR) throw brokerError(topic.error, `topic ${name}`);
    return topic;
  }

  /** Asks now for all topics but Kafka's own. */
  async describeAll(): Promise<readonly TopicMetadata[]> {
    return (await this.#refresh(null)).topics.filter((topic) => topic.error === NO_ERROR && !topic.isInternal);
  }

  /** The leader of a partition as far as it is known. Throws `not-found`, and `unavailable` while there is none. */
  async route(name: string, partition: number): Promise<Route> {
    const topic = this.#topics.get(name) ?? (await this.describe(name));
    if (topic === null) throw new PenstockError('not-found', `there is no topic ${name}`);
    const found = topic.partitions.get(partition);
    if (found === undefined) {
      // It may have been given more partitions since.
      this.forget(name);
      throw new PenstockError(
        'not-found',
        `topic ${name} has ${topic.partitions.size} partitions, there is no ${partition}`,
      );
    }
    if (found.leader === UNKNOWN_NODE) {
      this.forget(name);
      throw brokerError(found.error, `${name}/${partition} has no leader`);
    }
    return { topicId: topic.id, node: found.leader, leaderEpoch: found.leaderEpoch };
  }

  /** The next `route` of this topic asks again: its answer was wrong, or its leader does not answer. */
  forget(name: string): void {
    this.#topics.delete(name);
  }

  /** One request to the broker with this id. */
  async callNode<T>(node: number, request: ApiRequest<T>): Promise<T> {
    return (await this.link(node, 'ask')).call(request, this.limits.requestMs);
  }

  /** One request to whichever broker answers. */
  async callAny<T>(request: ApiRequest<T>): Promise<T> {
    return (await this.#anyLink()).call(request, this.limits.requestMs);
  }

  /** One request to the controller, or to a broker that forwards it there (KRaft). */
  async callController<T>(request: ApiRequest<T>): Promise<T> {
    await this.#refresh([]);
    return this.callNode(this.#controller, request);
  }

  async link(node: number, purpose: Purpose): Promise<BrokerLink> {
    return this.#linkTo(await this.#addressOf(node), purpose);
  }

  /** Runs `use` with a connection that nobody else uses meanwhile. */
  async withFetchLink<T>(node: number, use: (link: BrokerLink) => Promise<T>): Promise<T> {
    const address = await this.#addressOf(node);
    const key = keyOf(address);
    let links = this.#fetchLinks.get(key);
    if (links === undefined) this.#fetchLinks.set(key, (links = { idle: [], waiting: [], leased: 0 }));
    const { idle, waiting } = links;
    while (links.leased >= FETCH_LINKS_MAX) {
      await new Promise<void>((resolve) => waiting.push(resolve));
      this.signal.throwIfAborted();
    }
    links.leased++;
    try {
      let link = idle.pop();
      while (link?.isOpen === false) {
        this.#open.delete(link);
        link = idle.pop();
      }
      link ??= await this.#connect(address);
      try {
        return await use(link);
      } finally {
        if (link.isOpen) idle.push(link);
        else this.#open.delete(link);
      }
    } finally {
      links.leased--;
      waiting.shift()?.();
    }
  }

  async #addressOf(node: number): Promise<HostPort> {
    const address = this.#nodes.get(node) ?? (await this.#refresh([])).nodes.get(node);
    if (address !== undefined) return address;
    throw new PenstockError('unavailable', `broker ${node} is not in the cluster's metadata`);
  }

  async #refresh(names: readonly string[] | null): Promise<ClusterMetadata> {
    const metadata = await this.callAny(metadataRequest(names));
    this.#nodes = metadata.nodes;
    this.#controller = metadata.controller;
    for (const topic of metadata.topics) {
      if (topic.error === NO_ERROR) this.#topics.set(topic.name, topic);
      else this.#topics.delete(topic.name);
    }
    this.#dropStrangers();
    return metadata;
  }

  /** Connections to brokers that left the cluster. */
  #dropStrangers(): void {
    const members = new Set([...this.#nodes.values(), ...this.#options.bootstrap].map(keyOf));
    for (const [key, connecting] of this.#links) {
      if (members.has(key.slice(key.indexOf(' ') + 1))) continue;
      this.#links.delete(key);
      connecting.then(
        (link) => this.#discard(link),
        () => undefined,
      );
    }
    for (const [key, { idle }] of this.#fetchLinks) {
      if (members.has(key)) continue;
      this.#fetchLinks.delete(key);
      for (const link of idle) this.#discard(link);
    }
  }

  #discard(link: BrokerLink): void {
    link.close();
    this.#open.delete(link);
  }

  /** Known brokers first, each only once; what cannot be reached is passed over. */
  async #anyLink(): Promise<BrokerLink> {
    const known = [...this.#nodes.values()];
    const first = known.length === 0 ? 0 : this.#turn++ % known.length;
    const candidates = [...known.slice(first), ...known.slice(0, first), ...this.#options.bootstrap];
    const tried = new Set<string>();
    let failure: unknown;
    for (const address of candidates) {
      const key = keyOf(address);
      if (tried.has(key)) continue;
      tried.add(key);
      try {
        return await this.#linkTo(address, 'ask');
      } catch (error) {
        if (!isPassing(error)) throw error;
        failure = error;
      }
    }
    this.#isUnreachable = true;
    throw failure;
  }

  async #linkTo(address: HostPort, purpose: Purpose): Promise<BrokerLink> {
    const key = `${purpose} ${keyOf(address)}`;
    const known = this.#links.get(key);
    if (known !== undefined) {
      const link = await known;
      if (link.isOpen) return link;
      this.#open.delete(link);
      // Somebody else may have replaced it while we waited.
      if (this.#links.get(key) === known) this.#links.delete(key);
      return this.#linkTo(address, purpose);
    }
    const connecting = this.#connect(address);
    this.#links.set(key, connecting);
    connecting.catch(() => {
      if (this.#links.get(key) === connecting) this.#links.delete(key);
    });
    return connecting;
  }

  async #connect(address: HostPort): Promise<BrokerLink> {
    this.signal.throwIfAborted();
    const link = await BrokerLink.connect(this.#options.transport, address, this.#options.clock);
    if (this.signal.aborted) link.close();
    this.signal.throwIfAborted();
    this.#open.add(link);
    this.#isUnreachable = false;
    this.#isAway = false;
    return link;
  }
}

function keyOf({ host, port }: HostPort): string {
  return `${host}:${port}`;
}
