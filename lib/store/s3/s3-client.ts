/**
 * The AWS client as this store needs it: one bounded connection pool, one place of retries, and whole responses.
 *
 * The SDK's own retries end at the response's headers; a connection that is cut in the body would reach the caller. Here the body is
 * read inside of the request, so one retry strategy covers all of a request, and a body that is shorter than announced is never
 * seen by anyone.
 * Limits: a response is held in memory; the store asks for at most a part (getFile) or what its caller asked for. Any other answer, errors
 * too, has ANSWER_BYTES_MAX at most.
 */
import { webcrypto } from 'node:crypto';
import type { LookupFunction } from 'node:net';
import { Readable } from 'node:stream';
import { S3Client } from '@aws-sdk/client-s3';
import type { S3ClientConfig } from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { systemClock } from '../../clock.ts';
import { PenstockError } from '../../errors.ts';
import type { CredentialSource, StoreCredentials } from '../store.ts';
import { DirectGets } from './direct-gets.ts';
import type { DirectRequest } from './direct-gets.ts';
import { Pace } from './pace.ts';
import type { S3Options } from './s3-options.ts';
import { SignedGets } from './signed-gets.ts';

const CONNECT_TIMEOUT_MS = 5000;
/** No byte for this long: the connection is dead. */
const SILENCE_MAX_MS = 20_000;
const TIMER_MS_MAX = 2 ** 31 - 1;
/** A page of a listing has 1000 keys of 1024 bytes at most, and some hundred bytes with each. */
export const ANSWER_BYTES_MAX = 16 << 20;
/** A smaller body is hashed as fast as a thread is asked. */
const HASHED_APART_MIN = 2 ** 18;
const CRC32C_HEADER = 'x-amz-checksum-crc32c';
const PAUSE_MS_MIN = 50;
const PAUSE_MS_MAX = 5000;
/** Another conditional request was in progress on the key (S3's 409): the answer comes with the next try. */
const RETRYABLE_CLIENT_ERRORS = new Set(['ConditionalRequestConflict', 'OperationAborted']);

export interface S3Access {
  readonly client: S3Client;
  /** Past the client. */
  readonly gets: SignedGets;
}

/** Without credentials, those of the AWS chain. `lookup`: how hosts are resolved, of requests without `into`. */
export function makeS3Access(
  options: S3Options,
  credentials: StoreCredentials | CredentialSource | undefined,
  lookup?: LookupFunction,
): S3Access {
  const handler = new WholeResponseHandler(options, lookup);
  const client = new S3Client({
    ...(credentials === undefined ? {} : { credentials: given(credentials) }),
    region: options.region,
    forcePathStyle: options.pathStyle,
    ...(options.endpoint === null ? {} : { endpoint: options.endpoint }),
    requestHandler: handler,
    retryStrategy: new BoundedRetry(options.attemptsMax),
    // Checksums that the server did not ask for break some S3 servers' streaming; content is checked end to end above this layer.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // A round trip before each large body, to be told that it may come.
    expectContinueHeader: false,
  });
  client.middlewareStack.add(
    (next) => async (args) => {
      await hashBody(args.request);
      return next(args);
    },
    { step: 'build', name: 'hashBody' },
  );
  const gets = new SignedGets({
    connections: handler.direct,
    credentials: () => client.config.credentials(),
    admitRequest: (signal) => handler.admitRequest(signal),
    admitBytes: (bytes, signal) => handler.admitBytes(bytes, signal),
  });
  return { client, gets };
}

/**
 * The signature has the SHA-256 of the body. TLS has its own proof that nobody changed it, and a body with a CRC32C is checked by that, which is signed:
 * there it is left out (docs/decisions/0033). Else that of a large one is taken in a thread: 6 ms for a block of 8 MiB, in which nobody else would be served.
 */
async function hashBody(request: unknown): Promise<void> {
  const { body, headers, protocol } = request as SentRequest; // the SDK's HttpRequest
  if (!(body instanceof Uint8Array) || body.length < HASHED_APART_MIN) return;
  // Nobody shares memory between threads here.
  const bytes = body as Uint8Array<ArrayBuffer>;
  headers['x-amz-content-sha256'] =
    protocol === 'https:' || headers[CRC32C_HEADER] !== undefined
      ? 'UNSIGNED-PAYLOAD'
      : Buffer.from(await webcrypto.subtle.digest('SHA-256', bytes)).toString('hex');
}

interface SentRequest {
  readonly body?: unknown;
  readonly headers: Record<string, string>;
  readonly protocol: string;
}

function given(credentials: StoreCredentials | CredentialSource): NonNullable<S3ClientConfig['credentials']> {
  if (typeof credentials !== 'function') return { ...credentials };
  // The SDK keeps credentials until five minutes before they end; how long ours serve is their source's to say.
  return async () => ({ ...(await credentials()), expiration: new Date(0) });
}

type Response = Awaited<ReturnType<NodeHttpHandler['handle']>>['response'];
type HandlerOptions = NonNullable<Parameters<NodeHttpHandler['handle']>[1]>;

/** What a call may say to the handler below; the SDK hands on the options of `send` as they are. */
export interface SendOptions extends HandlerOptions {
  /** For a GET: where its body is to go. It may come in memory of its own all the same. */
  readonly into?: Buffer;
  /** Gets the request as it was sent, once the server has filled `into`. */
  readonly onFilled?: (request: DirectRequest) => void;
  /** A longer body is refused (`too-large`); without it one of more than ANSWER_BYTES_MAX. */
  readonly bytesMax?: number;
}

class WholeResponseHandler extends NodeHttpHandler {
  readonly direct: DirectGets;
  readonly #requests: Pace | null;
  readonly #bytes: Pace | null;

  constructor(options: S3Options, lookup: LookupFunction | undefined) {
    const direct = Math.floor(options.connectionsMax / 2);
    const maxSockets = options.connectionsMax - direct;
    const agent = { keepAlive: true, maxSockets, ...(lookup === undefined ? {} : { lookup }) };
    super({
      httpAgent: agent,
      httpsAgent: agent,
      connectionTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: SILENCE_MAX_MS,
      // Calls that wait for a socket are normal here: the pool is the limit.
      socketAcquisitionWarningTimeout: TIMER_MS_MAX,
    });
    this.direct = new DirectGets({
      connectionsMax: direct,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      silenceMs: SILENCE_MAX_MS,
    });
    this.#requests = options.requestsPerSecond === null ? null : new Pace(options.requestsPerSecond, systemClock);
    this.#bytes = options.bytesPerSecond === null ? null : new Pace(options.bytesPerSecond, systemClock);
  }

  async admitRequest(signal: AbortSignal | undefined): Promise<void> {
    await this.#requests?.wait(1, signal);
  }

  /** Of what came how much is known only then: it is waited for, so that the next request is not too early. */
  async admitBytes(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    await this.#bytes?.wait(bytes, signal);
  }

  override async handle(
    ...[request, options]: Parameters<NodeHttpHandler['handle']>
  ): ReturnType<NodeHttpHandler['handle']> {
    const signal = options?.abortSignal instanceof AbortSignal ? options.abortSignal : undefined;
    const sent: unknown = request.body;
    await this.admitRequest(signal);
    if (sent instanceof Uint8Array) await this.admitBytes(sent.byteLength, signal);
    const { into, onFilled, bytesMax = ANSWER_BYTES_MAX } = (options ?? {}) as SendOptions; // from the store
    const answer = into === undefined ? null : await this.direct.get(request, into, signal);
    if (answer !== null && answer !== 'refused' && into !== undefined) {
      onFilled?.(request);
      await this.admitBytes(into.length, signal);
      // The SDK looks at its fields, not at its class.
      const plain: Pick<Response, 'statusCode' | 'headers' | 'body'> = { ...answer, body: Readable.from([into]) };
      return { response: plain };
    }
    const { response } = await super.handle(request, options);
    const body: unknown = response.body;
    if (body instanceof Readable) {
      const announced = request.method === 'HEAD' ? undefined : response.headers['content-length'];
      // What an object may have, an error may not.
      const most = response.statusCode < 300 ? bytesMax : Math.min(bytesMax, ANSWER_BYTES_MAX);
      const bytes = await readWhole(body, announced === undefined ? null : Number(announced), most, signal);
      await this.admitBytes(bytes.length, signal);
      response.body = Readable.from(bytes.length === 0 ? [] : [bytes]);
    }
    return { response };
  }

  override destroy(): void {
    this.direct.destroy();
    super.destroy();
  }
}

async function readWhole(
  body: Readable,
  announced: number | null,
  bytesMax: number,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  const abort = (): void => void body.destroy(Object.assign(new Error('Request aborted'), { name: 'AbortError' }));
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const chunks: Buffer[] = [];
    let length = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > bytesMax) throw new PenstockError('too-large', `an answer of more than ${bytesMax} bytes`);
    }
    // With this code the SDK takes it for what it is, a broken connection.
    if (announced !== null && length !== announced) {
      const message = `the response ended after ${length} of ${announced} bytes`;
      throw Object.assign(new Error(message), { code: 'ECONNRESET' });
    }
    const [only] = chunks;
    return chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks, length);
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

type RetryStrategy = Extract<NonNullable<S3ClientConfig['retryStrategy']>, { refreshRetryTokenForRetry: unknown }>;
type RetryToken = Awaited<ReturnType<RetryStrategy['acquireInitialRetryToken']>>;
type RetryErrorInfo = Parameters<RetryStrategy['refreshRetryTokenForRetry']>[1];

/** Full jitter, exponential; the deadline is the abort signal that every call carries. */
class BoundedRetry implements RetryStrategy {
  readonly #attemptsMax: number;

  constructor(attemptsMax: number) {
    this.#attemptsMax = attemptsMax;
  }

  async acquireInitialRetryToken(): Promise<RetryToken> {
    return token(0, 0);
  }

  async refreshRetryTokenForRetry(last: RetryToken, info: RetryErrorInfo): Promise<RetryToken> {
    const count = last.getRetryCount() + 1;
    if (count >= this.#attemptsMax || !isRetryable(info)) {
      throw info.error instanceof Error ? info.error : new Error(String(info.error));
    }
    const ceilingMs = Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** count);
    const hintMs = info.retryAfterHint === undefined ? 0 : info.retryAfterHint.getTime() - Date.now();
    return token(count, Math.max(Math.min(hintMs, PAUSE_MS_MAX), Math.random() * ceilingMs));
  }

  recordSuccess(): void {
    // No budget is shared between calls: each has its attempts and its deadline.
  }
}

function token(count: number, delayMs: number): RetryToken {
  return { getRetryCount: () => count, getRetryDelay: () => delayMs };
}

function isRetryable({ errorType, error }: RetryErrorInfo): boolean {
  if (errorType !== 'CLIENT_ERROR') return true;
  return error instanceof Error && RETRYABLE_CLIENT_ERRORS.has(error.name);
}
