/**
 * A mount's part in its cache group: a server for the others, the list of them, and a client that asks them.
 *
 * Order: it listens before the mount's session begins, because the session tells the others where; it serves once the volume is open; it
 * stops serving before what it serves from is closed. Failure: a killed worker's peers ask the store, and find its successor by its session.
 */
import { hostname } from 'node:os';
import type { Clock } from '../../lib/clock.ts';
import { describeError } from '../../lib/errors.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import type { BlockReader, PeerPieces } from '../data/block-reader.ts';
import type { VolumeView } from '../meta/view.ts';
import { PEER_LIMITS, PeerClient } from './peer-client.ts';
import { PeerDirectory } from './peer-directory.ts';
import { PeerServer } from './peer-server.ts';
import { peerToken } from './protocol.ts';

export interface CacheGroupOptions {
  readonly name: string;
  /** HOST:PORT */
  readonly listen: string;
}

interface Reporting extends CacheGroupOptions {
  readonly report: (message: string) => void;
}

export interface JoinRequest {
  readonly view: VolumeView;
  readonly format: VolumeFormat;
  readonly store: ObjectStore;
  readonly mountId: string;
  readonly clock: Clock;
}

interface Joined {
  readonly volume: string;
  readonly volumeId: string;
  readonly token: string;
  readonly directory: PeerDirectory;
  readonly client: PeerClient;
}

export class CacheGroup {
  readonly #options: Reporting;
  readonly #server: PeerServer | undefined;
  #joined: Joined | undefined;

  private constructor(options: Reporting, server: PeerServer | undefined) {
    this.#options = options;
    this.#server = server;
  }

  /** A node that cannot listen (its port was taken while its worker was down) asks its peers all the same. */
  static async open(options: Reporting): Promise<CacheGroup> {
    const server = await PeerServer.open(options.listen).catch((error: unknown) => {
      options.report(`cache group ${options.name}: ${describeError(error)}; this node keeps nothing for its peers`);
      return undefined;
    });
    return new CacheGroup(options, server);
  }

  /** What the mount's session says, so that its peers find it. */
  get detail(): Readonly<Record<string, string>> {
    return { cacheGroup: this.#options.name, ...(this.#server !== undefined && { peer: this.#server.address }) };
  }

  /** Undefined: the store is a directory of this machine, and no peer is faster. */
  async join({ view, format, store, mountId, clock }: JoinRequest): Promise<PeerPieces | undefined> {
    const { name: group, report } = this.#options;
    if (store.localPath('any') !== null) {
      report(`cache group ${group}: the store is a directory of this machine, so no peer is asked`);
      return undefined;
    }
    const token = await peerToken(await view.engine(), view.keys);
    const directory = new PeerDirectory({
      volume: format.volume,
      group,
      mountId,
      host: hostname(),
      serves: this.#server !== undefined,
      sessions: () => view.sessions(),
    });
    await directory.refresh();
    const client = new PeerClient({ directory, volumeId: format.id, token, clock, limits: PEER_LIMITS, report });
    this.#joined = { volume: format.volume, volumeId: format.id, token, directory, client };
    return client;
  }

  serve(reader: BlockReader): void {
    if (this.#joined === undefined) return;
    const { volumeId, token } = this.#joined;
    this.#server?.serve({ volumeId, token, reader, metrics: () => this.#metrics(reader) });
  }

  /** For `penstock fs stats`. */
  stats(): Readonly<Record<string, string | number>> {
    const { name: group } = this.#options;
    if (this.#joined === undefined) return { cacheGroup: group };
    const { directory, client } = this.#joined;
    return {
      cacheGroup: group,
      ...(this.#server !== undefined && { peerAddress: this.#server.address }),
      peers: directory.peers,
      peersAside: client.asideCount,
      peerFetchedBytes: client.fetchedBytes,
      peerServedBytes: this.#server?.servedBytes ?? 0,
      ...Object.fromEntries(
        Object.entries(client.problems).map(([problem, count]) => [
          `peer${problem.charAt(0).toUpperCase()}${problem.slice(1)}`,
          count,
        ]),
      ),
    };
  }

  #metrics(reader: BlockReader): string {
    if (this.#joined === undefined) return '';
    const { volume, directory, client } = this.#joined;
    const labels = `volume="${volume}",group="${this.#options.name}"`;
    const metric = (name: string, type: string, help: string, values: readonly (readonly [string, number])[]): string =>
      [
        `# HELP penstock_${name} ${help}`,
        `# TYPE penstock_${name} ${type}`,
        ...values.map(([more, value]) => `penstock_${name}{${labels}${more}} ${value}`),
        '',
      ].join('\n');
    return [
      metric('peers', 'gauge', 'Other members of the cache group that this mount can ask.', [['', directory.peers]]),
      metric('peers_aside', 'gauge', 'Of them not asked for a while, after a problem.', [['', client.asideCount]]),
      metric('peer_fetched_bytes_total', 'counter', 'Bytes that came from peers.', [['', client.fetchedBytes]]),
      metric('peer_served_bytes_total', 'counter', 'Bytes served to peers.', [['', this.#server?.servedBytes ?? 0]]),
      metric('store_fetched_bytes_total', 'counter', 'Bytes read from the object store.', [['', reader.fetchedBytes]]),
      metric(
        'peer_problems_total',
        'counter',
        'Pieces that did not come from their peer, and came from the store, by reason.',
        Object.entries(client.problems).map(([problem, count]) => [`,problem="${problem}"`, count] as const),
      ),
    ].join('');
  }

  /** No peer is served any more when it resolves. */
  async close(): Promise<void> {
    this.#joined?.directory.close();
    await this.#server?.close();
    this.#joined?.client.close();
  }
}
