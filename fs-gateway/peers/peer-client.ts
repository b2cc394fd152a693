/**
 * Fetches pieces from the peers that keep them. Whatever goes wrong with a peer costs time within a bound, never a wrong byte or an error:
 * the piece then comes from the store, and the peer is put aside for a while, in which the next one in the order keeps its pieces.
 *
 * Invariants: what a peer sends is used only when its CRC32C is that of the piece's extent. An external object's chunk has none: there the
 * peer's own checksum shows damage on the way, and members of the group are trusted not to lie (they hold the volume's token).
 * Limits: FETCHES_MAX at a time, each with one piece in memory; `silenceMs` without a byte, `deadlineMs` in all, in time of this process (own-timeout.ts).
 */
import { Agent, request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type { Clock } from '../../lib/clock.ts';
import { describeError, PenstockError } from '../../lib/errors.ts';
import { OwnTimeout } from '../../lib/own-timeout.ts';
import type { PeerPieces } from '../data/block-reader.ts';
import { bytesWithTrailer, withoutTrailer } from '../data/piece-trailer.ts';
import type { Piece } from '../data/pieces.ts';
import { Slots } from '../data/slots.ts';
import type { Peer, PeerDirectory } from './peer-directory.ts';
import { authorization, piecePath } from './protocol.ts';

const FETCHES_MAX = 16;
/** Idle connections kept per peer. */
const IDLE_MAX = 4;
const IDLE_MS = 30_000;

/** Why a piece did not come from its peer. */
export type PeerProblem = 'gone' | 'slow' | 'lied' | 'busy' | 'refused' | 'failed';

/** How long a peer is not asked after that. */
const ASIDE_MS: Readonly<Record<PeerProblem, number>> = {
  // As long as a session's lease and some: then the list of members knows it too.
  gone: 10_000,
  slow: 30_000,
  // It has a broken disk or memory; somebody should look.
  lied: 600_000,
  busy: 500,
  refused: 60_000,
  // The store did not give it the piece. It may be the same for us, and the peer is not to blame.
  failed: 0,
};

export interface PeerLimits {
  /** Between two signs of life. One that waits for the store says so meanwhile. */
  readonly silenceMs: number;
  readonly deadlineMs: number;
}

export const PEER_LIMITS: PeerLimits = { silenceMs: 3000, deadlineMs: 10_000 };

export interface PeerClientOptions {
  readonly directory: PeerDirectory;
  readonly volumeId: string;
  readonly token: string;
  readonly clock: Clock;
  readonly limits: PeerLimits;
  report(message: string): void;
}

class PeerError extends PenstockError {
  readonly problem: PeerProblem;
  constructor(problem: PeerProblem, message: string, cause?: unknown) {
    super('unavailable', message, { cause });
    this.problem = problem;
  }
}

export class PeerClient implements PeerPieces {
  readonly #options: PeerClientOptions;
  readonly #agent = new Agent({ keepAlive: true, maxFreeSockets: IDLE_MAX, timeout: IDLE_MS });
  readonly #slots = new Slots(FETCHES_MAX);
  /** Sessions, and until when they are not asked. */
  readonly #aside = new Map<number, number>();
  readonly problems: Record<PeerProblem, number> = { gone: 0, slow: 0, lied: 0, busy: 0, refused: 0, failed: 0 };
  fetchedBytes = 0;

  constructor(options: PeerClientOptions) {
    this.#options = options;
  }

  keeps(piece: Piece): boolean {
    return this.#options.directory.keeper(piece.name, () => true) === null;
  }

  fetch(piece: Piece): Promise<Buffer | null> {
    return this.#slots.run(async () => {
      const peer = this.#options.directory.keeper(piece.name, ({ session }) => !this.#isAside(session));
      if (peer === null) return null;
      try {
        const data = await this.#get(peer, piece);
        this.fetchedBytes += data.length;
        return data;
      } catch (error) {
        this.#failed(peer, error);
        return null;
      }
    });
  }

  #isAside(session: number): boolean {
    const untilMs = this.#aside.get(session);
    if (untilMs === undefined) return false;
    if (this.#options.clock.monotonicMs() < untilMs) return true;
    this.#aside.delete(session);
    return false;
  }

  #failed({ session, address }: Peer, error: unknown): void {
    const problem = error instanceof PeerError ? error.problem : 'gone';
    this.problems[problem]++;
    const asideMs = ASIDE_MS[problem];
    if (asideMs === 0 || this.#isAside(session)) return;
    for (const other of this.#aside.keys()) this.#isAside(other); // forgets those whose time is over
    this.#aside.set(session, this.#options.clock.monotonicMs() + asideMs);
    if (problem === 'busy') return;
    const text = `peer ${address}: ${describeError(error)}`;
    this.#options.report(`${text}; it is not asked for ${asideMs / 1000} s, the store is`);
    if (problem === 'gone') void this.#options.directory.refresh();
  }

  async #get(peer: Peer, piece: Piece): Promise<Buffer> {
    const content = await this.#request(peer, piecePath(this.#options.volumeId, piece), bytesWithTrailer(piece));
    const data = withoutTrailer(piece, content);
    if (data !== null) return data;
    throw new PeerError('lied', `what it sent of object ${piece.objectKey} does not match its checksum`);
  }

  /** An answer of exactly `bytes` bytes. */
  #request({ address }: Peer, path: string, bytes: number): Promise<Buffer> {
    const { token, limits } = this.#options;
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
    const outgoing = request(`http://${address}${path}`, {
      agent: this.#agent,
      headers: { authorization: authorization(token) },
    });
    const giveUp = (text: string): void => void outgoing.destroy(new PeerError('slow', text));
    const silence = new OwnTimeout(limits.silenceMs, () => giveUp(`no sign of life for ${limits.silenceMs} ms`));
    const deadline = new OwnTimeout(limits.deadlineMs, () => giveUp(`not done within ${limits.deadlineMs} ms`));
    outgoing.on('information', () => silence.refresh());
    outgoing.on('response', (response) => {
      silence.refresh();
      const refusal = refusalOf(response, bytes);
      if (refusal !== undefined) {
        outgoing.destroy(refusal);
        return;
      }
      const body = Buffer.allocUnsafe(bytes);
      let at = 0;
      response.on('data', (chunk: Buffer) => {
        silence.refresh();
        at += chunk.copy(body, at); // Never more than its Content-Length, which is `bytes`.
      });
      response.on('end', () => resolve(body));
      response.on('error', reject);
    });
    // A connection that the peer closed while it was idle says nothing about the peer.
    outgoing.on('error', (error) => {
      reject(
        outgoing.reusedSocket && !(error instanceof PeerError) ? new PeerError('failed', error.message, error) : error,
      );
    });
    outgoing.end();
    return promise.finally(() => {
      silence.clear();
      deadline.clear();
    });
  }

  get asideCount(): number {
    return [...this.#aside.keys()].filter((session) => this.#isAside(session)).length;
  }

  close(): void {
    this.#agent.destroy();
  }
}

function refusalOf(response: IncomingMessage, bytes: number): PeerError | undefined {
  const { statusCode = 0, headers } = response;
  if (statusCode === 200) {
    return headers['content-length'] === String(bytes)
      ? undefined
      : new PeerError('lied', `it announced ${headers['content-length'] ?? 'no'} bytes, expected ${bytes}`);
  }
  if (statusCode === 503) return new PeerError('busy', 'it serves as many as it may');
  if (statusCode === 502) return new PeerError('failed', 'the store did not give it the piece');
  return new PeerError('refused', `it answered with status ${statusCode}`);
}
