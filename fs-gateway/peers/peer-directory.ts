/**
 * Which node keeps a piece for its cache group: rendezvous hashing (Thaler and Ravishankar, 1998) over the group's live sessions. All nodes
 * that know the same members name the same one without asking anybody; a member that comes or goes moves only its own share.
 *
 * Invariants: members are told apart by the mount, not by its session: a restarted worker keeps its share.
 * Failure: lists of two nodes may differ for some seconds after a member came or went, and a list that cannot be read stays as it is. That
 * costs requests to the store, and nothing else: whoever is asked answers.
 * Limits: the list is read every REFRESH_MS_MIN, less often in a large group, so that the engine's work grows no faster than its members.
 */
import { createHash } from 'node:crypto';
import { crc32c } from '@node-rs/crc32';
import type { SessionInfo } from '../../lib/meta/engine.ts';
import { isLoopback } from './address.ts';

const REFRESH_MS_MIN = 2000;
const REFRESH_MS_PER_MEMBER = 50;

export interface Peer {
  readonly session: number;
  /** HOST:PORT */
  readonly address: string;
}

interface Member {
  readonly mount: string;
  readonly seed: number;
  /** Null: this node. */
  readonly peer: Peer | null;
}

export interface PeerDirectoryOptions {
  readonly volume: string;
  readonly group: string;
  /** The id of this mount, and its host. */
  readonly mountId: string;
  readonly host: string;
  /** This node serves peers: else it keeps nothing for them. */
  readonly serves: boolean;
  sessions(): Promise<readonly SessionInfo[]>;
}

export class PeerDirectory {
  readonly #options: PeerDirectoryOptions;
  readonly #self: readonly Member[];
  #members: readonly Member[];
  #timer: NodeJS.Timeout | undefined;
  #reading: Promise<void> | undefined;
  #closed = false;

  constructor(options: PeerDirectoryOptions) {
    this.#options = options;
    this.#self = options.serves ? [{ mount: options.mountId, seed: seedOf(options.mountId), peer: null }] : [];
    this.#members = this.#self;
  }

  /** Members of the group that this node can ask. */
  get peers(): number {
    return this.#members.length - this.#self.length;
  }

  /** Reads the list now, and from then on by itself. */
  refresh(): Promise<void> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
      if (this.#closed) return;
      const periodMs = Math.max(REFRESH_MS_MIN, REFRESH_MS_PER_MEMBER * this.#members.length);
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => void this.refresh(), periodMs).unref();
    });
    return this.#reading;
  }

  async #read(): Promise<void> {
    let sessions: readonly SessionInfo[];
    try {
      sessions = await this.#options.sessions();
    } catch {
      return; // The engine is away: the list as it was is better than none.
    }
    // A mount has a newer session beside the one of a killed worker, whose lease may run for some seconds.
    const others = new Map<string, Member>();
    for (const session of [...sessions].sort((a, b) => a.id - b.id)) {
      const member = this.#memberOf(session);
      if (member !== null) others.set(member.mount, member);
    }
    this.#members = [...this.#self, ...others.values()];
  }

  #memberOf({ id, kind, live, host, detail }: SessionInfo): Member | null {
    const { volume, group, mountId } = this.#options;
    const { cacheGroup, peer, mountId: mount } = detail;
    if (!live || kind !== 'mount' || detail['volume'] !== volume || cacheGroup !== group || mount === mountId)
      return null;
    if (typeof mount !== 'string' || typeof peer !== 'string') return null;
    if (isLoopback(peer) && host !== this.#options.host) return null;
    return { mount, seed: seedOf(mount), peer: { session: id, address: peer } };
  }

  /** Who keeps the piece, of those that may be asked; null: this node, or nobody. */
  keeper(piece: string, mayAsk: (peer: Peer) => boolean): Peer | null {
    const hash = crc32c(piece);
    let best: Member | undefined;
    let bestScore = -1;
    for (const member of this.#members) {
      const score = mixed(hash ^ member.seed);
      const wins = score > bestScore || (score === bestScore && best !== undefined && member.mount > best.mount);
      if (wins && (member.peer === null || mayAsk(member.peer))) [best, bestScore] = [member, score];
    }
    return best?.peer ?? null;
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }
}

function seedOf(mount: string): number {
  return createHash('sha256').update(mount).digest().readUInt32LE(0);
}

/** The finalizer of MurmurHash3: each bit of the argument changes half of the result's. */
function mixed(value: number): number {
  let hash = value;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
