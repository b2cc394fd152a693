/**
 * GETs of bulk data whose requests are made and signed here, past the SDK: it took half a millisecond of CPU and more for each, in the thread that serves a mount
 * (docs/decisions/0068).
 *
 * What a request looks like (scheme, host, path, other headers, the scope of its signature) is copied from a GET of the SDK that this server has answered; only the key,
 * the range, the time and the signature are others. Credentials are those of the SDK, asked for each request as it does itself.
 *
 * Invariants: any answer but a plain, whole one is null: the SDK asks again, and it is its own answer, with its retries, that is reported. Nothing is written to `into` after the
 * promise has settled.
 * Failure: a connection that breaks or is silent is null as well. A request that was refused (4xx) here and answered to the SDK is one that this path gets wrong: after DOUBTS_MAX of
 * them one after another it is not used again, else each GET would be two.
 */
import type { DirectAnswer, DirectGets, DirectRequest } from './direct-gets.ts';
import { Signer } from './sigv4.ts';
import type { SigningCredentials } from './sigv4.ts';

const DOUBTS_MAX = 3;
/** Of one request, not of all. */
const OWN_HEADERS = /^(authorization|range|if-match|amz-sdk-.*|x-amz-(date|content-sha256|security-token))$/;
/** Not signed, because proxies may change it. */
const USER_AGENT = 'user-agent';
/** What the SDK adds for those who read logs. */
const QUERY_IGNORED = 'x-id';

export interface SignedGet {
  /** With the prefix of the store. */
  readonly key: string;
  readonly offset: number;
  /** As many bytes as it has are asked for. */
  readonly into: Buffer;
  readonly ifMatch: string | undefined;
}

export interface SignedGetsOptions {
  readonly connections: DirectGets;
  readonly credentials: () => Promise<SigningCredentials>;
  /** Waits until another request may be sent, and then until so many bytes may have come. */
  readonly admitRequest: (signal: AbortSignal) => Promise<void>;
  readonly admitBytes: (bytes: number, signal: AbortSignal) => Promise<void>;
}

interface Pattern extends Omit<DirectRequest, 'path' | 'query'> {
  /** What is before the key. */
  readonly base: string;
  readonly userAgent: string | undefined;
  readonly signer: Signer;
}

export class SignedGets {
  readonly #options: SignedGetsOptions;
  #pattern: Pattern | undefined;
  #doubts = 0;

  constructor(options: SignedGetsOptions) {
    this.#options = options;
  }

  /** A GET of the SDK, as it was sent, which the server has answered. */
  learn(request: DirectRequest, key: string): void {
    if (this.#pattern !== undefined || this.#doubts >= DOUBTS_MAX) return;
    const entries = Object.entries(request.headers).map(([name, value]) => [name.toLowerCase(), value] as const);
    const headers = Object.fromEntries(entries);
    // Not those of sessions of directory buckets, and not signatures for many regions (SigV4A).
    const [, region, service] = /^AWS4-HMAC-SHA256 Credential=[^,]+\/\d{8}\/([^/,]+)\/(s3)\/aws4_request,/.exec(
      headers['authorization'] ?? '',
    ) ?? [''];
    const path = encodeKey(key);
    const hasQuery = Object.keys(request.query ?? {}).some((name) => name !== QUERY_IGNORED);
    if (region === undefined || service === undefined || hasQuery || !request.path.endsWith(`/${path}`)) return;
    const { protocol, hostname, port } = request;
    this.#pattern = {
      protocol,
      hostname,
      ...(port === undefined ? {} : { port }),
      base: request.path.slice(0, request.path.length - path.length),
      headers: Object.fromEntries(entries.filter(([name]) => !OWN_HEADERS.test(name) && name !== USER_AGENT)),
      userAgent: headers[USER_AGENT],
      signer: new Signer({ region, service }),
    };
  }

  /** What was refused here was answered to the SDK. */
  doubt(): void {
    if (++this.#doubts >= DOUBTS_MAX) this.#pattern = undefined;
  }

  /** `full`: `into` is. Null: ask the SDK; `refused`: and tell, by `doubt`, when it succeeds. Rejects when the signal fires. */
  async get(get: SignedGet, signal: AbortSignal): Promise<'full' | 'refused' | null> {
    const pattern = this.#pattern;
    if (pattern === undefined) return null;
    const { connections, credentials, admitRequest, admitBytes } = this.#options;
    try {
      const request = requestOf(pattern, get, await credentials());
      await admitRequest(signal);
      const answer = await connections.get(request, get.into, signal);
      if (answer === null || answer === 'refused') return answer;
      this.#doubts = 0;
      await admitBytes(get.into.length, signal);
      return isOf(answer, get) ? 'full' : null;
    } catch (error) {
      if (signal.aborted) throw error;
      return null;
    }
  }
}

function requestOf(pattern: Pattern, get: SignedGet, credentials: SigningCredentials): DirectRequest {
  const { base, signer, userAgent, ...rest } = pattern;
  const path = base + encodeKey(get.key);
  const headers: Record<string, string> = {
    ...rest.headers,
    range: `bytes=${get.offset}-${get.offset + get.into.length - 1}`,
    ...(get.ifMatch === undefined ? {} : { 'if-match': `"${get.ifMatch}"` }),
  };
  const signed = signer.sign({ method: 'GET', path, headers }, credentials, new Date());
  return { ...rest, path, headers: userAgent === undefined ? signed : { ...signed, [USER_AGENT]: userAgent } };
}

/** It begins where it was asked for: whatever mixes up ranges between us and the server is for the SDK's request to name. */
function isOf({ headers }: DirectAnswer, { offset }: SignedGet): boolean {
  return headers['content-range']?.startsWith(`bytes ${offset}-`) ?? true;
}

function encodeKey(key: string): string {
  const encoded = key.split('/').map((part) => encodeURIComponent(part).replace(/[!'()*]/g, encodeReserved));
  return encoded.join('/');
}

function encodeReserved(character: string): string {
  return `%${character.charCodeAt(0).toString(16).toUpperCase()}`;
}
