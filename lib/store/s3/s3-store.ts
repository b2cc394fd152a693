/**
 * The object store on any S3: `s3://bucket/prefix?...`, options in s3-options.ts.
 *
 * Invariants
 * - Every request is tried again in one place (s3-client.ts) and ends by the call's deadline.
 * - A conditional put, or the completion of an upload in parts, that was sent twice is not taken for a loss against itself: it
 *   carries a mark in the object's metadata, and an error after a first try without an answer is settled by reading the mark.
 * - What is returned begins where it was asked for, and has exactly that length.
 * Failure: a killed multipart upload leaves parts that nobody sees; a lifecycle rule (AbortIncompleteMultipartUpload) removes them. A
 * failing one aborts itself.
 * Limits: PART_BYTES x PART_PARALLEL of memory per `putFile` or `getFile`; `modifiedMs` of a put is this machine's clock.
 */
import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import {
  AbortMultipartUploadCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import type { PutObjectCommandInput, S3Client } from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { fromSystemError, PenstockError } from '../../errors.ts';
import { writeAll } from '../../write-all.ts';
import { assertObjectKey, isObjectKey, throwIfAborted } from '../object-key.ts';
import type {
  CallOptions,
  CredentialSource,
  GetOptions,
  ObjectInfo,
  ObjectStore,
  PutOptions,
  StoreCredentials,
} from '../store.ts';
import type { DirectRequest } from './direct-gets.ts';
import { ANSWER_BYTES_MAX, makeS3Access } from './s3-client.ts';
import type { SendOptions } from './s3-client.ts';
import {
  changed,
  failureOf,
  isAbsent,
  isLasting,
  isPreconditionFailed,
  isRefused,
  otherRange,
  tooShort,
  toStoreError,
} from './s3-errors.ts';
import { firstAnswer } from './hedge.ts';
import { parseS3Url } from './s3-options.ts';
import type { S3Options } from './s3-options.ts';
import type { SignedGets } from './signed-gets.ts';

const PART_BYTES = 8 * 2 ** 20;
const PART_PARALLEL = 4;
/** S3 takes at most 10,000 parts. */
const PARTS_MAX = 9000;
/** Of DeleteObjects. */
const DELETE_BATCH = 1000;
const DELETE_ROUNDS_MAX = 4;
/** Metadata of an object whose put may have to be recognised. */
const MARK = 'penstock-put';

export async function openS3Store(url: URL, credentials?: StoreCredentials | CredentialSource): Promise<ObjectStore> {
  return new S3Store(parseS3Url(url), credentials);
}

class S3Store implements ObjectStore {
  readonly url: string;
  readonly #options: S3Options;
  readonly #client: S3Client;
  readonly #gets: SignedGets;
  readonly #base: string;
  #bucketSeen = false;
  #closed = false;

  constructor(options: S3Options, credentials: StoreCredentials | CredentialSource | undefined) {
    this.#options = options;
    ({ client: this.#client, gets: this.#gets } = makeS3Access(options, credentials));
    this.#base = `s3://${options.bucket}/${options.prefix}`;
    const query = new URLSearchParams({ region: options.region });
    if (options.endpoint !== null) query.set('endpoint', options.endpoint);
    this.url = `${this.#base.replace(/\/$/, '')}?${query.toString()}`;
  }

  async put(key: string, body: Uint8Array | readonly Uint8Array[], options: PutOptions = {}): Promise<ObjectInfo> {
    const bytes = body instanceof Uint8Array ? body : joined(body);
    return this.#put(key, bytes.byteLength, options, async (params, signal) => {
      const sent = { ...params, Body: bytes, ContentLength: bytes.byteLength };
      return this.#client.send(new PutObjectCommand(sent), { abortSignal: signal });
    });
  }

  async putFile(key: string, path: string, options: PutOptions = {}): Promise<ObjectInfo> {
    const { size } = await stat(path).catch((error: unknown) => {
      throw fromSystemError(error, `put ${this.location(key)}`);
    });
    return this.#put(key, size, options, async (params, signal) => {
      const body = createReadStream(path);
      try {
        const upload = new Upload({
          client: withSignal(this.#client, signal),
          params: { ...params, Body: body },
          queueSize: PART_PARALLEL,
          partSize: Math.max(PART_BYTES, Math.ceil(size / PARTS_MAX)),
        });
        return await upload.done();
      } finally {
        body.destroy();
      }
    });
  }

  async get(key: string, options: GetOptions = {}): Promise<Buffer> {
    const what = `get ${this.location(key)}`;
    const { offset = 0, length, ifMatch, into } = options;
    // HTTP has no empty range.
    if (length === 0) return this.#getNothing(key, what, options);
    const address = this.#address(key);
    // Two requests of one GET would write into one another's answer.
    const direct = into?.length === length && this.#options.hedgeMs === null ? into : undefined;
    return this.#call(what, key, options, 1, async (deadline) => {
      const { Key } = address;
      const past =
        direct === undefined ? null : await this.#gets.get({ key: Key, offset, into: direct, ifMatch }, deadline);
      if (past === 'full' && direct !== undefined) return direct;
      const learn = (request: DirectRequest): void => this.#gets.learn(request, Key);
      const sending = direct === undefined ? {} : { into: direct, onFilled: learn };
      const bytes = await this.#getBySdk(key, what, options, sending, deadline);
      if (past === 'refused') this.#gets.doubt();
      if (into === undefined || bytes === into) return bytes;
      bytes.copy(into);
      return into;
    });
  }

  async #getBySdk(
    key: string,
    what: string,
    options: GetOptions,
    sending: Pick<SendOptions, 'into' | 'onFilled'>,
    deadline: AbortSignal,
  ): Promise<Buffer> {
    const { offset = 0, length, ifMatch } = options;
    const last = length === undefined ? '' : String(offset + length - 1);
    const input = {
      ...this.#address(key),
      ...(offset === 0 && length === undefined ? {} : { Range: `bytes=${offset}-${last}` }),
      ...(ifMatch === undefined ? {} : { IfMatch: `"${ifMatch}"` }),
    };
    try {
      const output = await firstAnswer(this.#options.hedgeMs, deadline, (signal) => {
        // A server that does not know ranges sends more; what that is, is said below.
        const bytesMax = length === undefined ? Infinity : Math.max(length, ANSWER_BYTES_MAX);
        const sent: SendOptions = { abortSignal: signal, bytesMax, ...sending };
        return this.#client.send(new GetObjectCommand(input), sent);
      });
      const bytes = await collect(output.Body as AsyncIterable<Buffer> | undefined); // Node's client gives a Readable
      const first = /^bytes (\d+)-/.exec(output.ContentRange ?? '')?.[1];
      if (first !== undefined && Number(first) !== offset) throw otherRange(what, first, offset);
      const total = Number(/\/(\d+)$/.exec(output.ContentRange ?? '')?.[1] ?? output.ContentLength ?? bytes.length);
      const wanted = length ?? total - offset;
      if (bytes.length !== wanted) throw tooShort(what, offset + bytes.length, offset + wanted);
      return bytes;
    } catch (error) {
      if (isPreconditionFailed(error) && ifMatch !== undefined) throw changed(what, ifMatch, error);
      // The range begins at the end or behind it.
      if (failureOf(error).status === 416) return this.#getNothing(key, what, options);
      throw error;
    }
  }

  /** The empty answer to a read of no bytes inside of the object or at its end. */
  async #getNothing(key: string, what: string, { offset = 0, length, ifMatch, signal }: GetOptions): Promise<Buffer> {
    const info = await this.#mustHead(key, what, signal === undefined ? {} : { signal });
    if (ifMatch !== undefined && ifMatch !== info.etag) throw changed(what, ifMatch);
    if (offset + (length ?? 0) > info.bytes) throw tooShort(what, info.bytes, offset + (length ?? 0));
    return Buffer.alloc(0);
  }

  async getFile(key: string, path: string, options: CallOptions = {}): Promise<ObjectInfo> {
    const what = `get ${this.location(key)}`;
    const info = await this.#mustHead(key, what, options);
    const file = await open(path, 'w').catch((error: unknown) => {
      throw fromSystemError(error, what);
    });
    try {
      let next = 0;
      const fetchParts = async (): Promise<void> => {
        while (next < info.bytes) {
          const offset = next;
          const length = Math.min(PART_BYTES, info.bytes - offset);
          next += length;
          const part = await this.get(key, { ...options, offset, length, ifMatch: info.etag });
          await writeAll(file, part, offset).catch((error: unknown) => {
            throw fromSystemError(error, `${what} to ${path}`);
          });
        }
      };
      const results = await Promise.allSettled(Array.from({ length: PART_PARALLEL }, fetchParts));
      for (const result of results) if (result.status === 'rejected') throw result.reason;
      return info;
    } finally {
      await file.close();
    }
  }

  async head(key: string, options: CallOptions = {}): Promise<ObjectInfo | null> {
    return this.#call(`head ${this.location(key)}`, key, options, 1, async (signal) => {
      const output = await this.#head(key, signal);
      return output?.info ?? null;
    });
  }

  async *list(prefix: string, options: CallOptions & { readonly after?: string } = {}): AsyncGenerator<ObjectInfo> {
    const what = `list ${this.#base}${prefix}`;
    let token: string | undefined;
    do {
      const input = {
        Bucket: this.#options.bucket,
        Prefix: `${this.#options.prefix}${prefix}`,
        ...(token === undefined ? {} : { ContinuationToken: token }),
        ...(options.after === undefined || token !== undefined
          ? {}
          : { StartAfter: `${this.#options.prefix}${options.after}` }),
      };
      const page = await this.#call(what, null, options, 1, (signal) =>
        this.#client.send(new ListObjectsV2Command(input), { abortSignal: signal }),
      );
      for (const { Key, Size, LastModified, ETag } of page.Contents ?? []) {
        const key = Key?.slice(this.#options.prefix.length) ?? '';
        // Others' folder markers and keys with empty segments are no objects of ours.
        if (!isObjectKey(key)) continue;
        yield { key, bytes: Size ?? 0, modifiedMs: LastModified?.getTime() ?? 0, etag: unquote(ETag) };
      }
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
  }

  async delete(keys: readonly string[], options: CallOptions = {}): Promise<void> {
    for (const key of keys) assertObjectKey(key);
    for (let at = 0; at < keys.length; at += DELETE_BATCH) {
      await this.#deleteBatch(keys.slice(at, at + DELETE_BATCH), options);
    }
  }

  location(key: string): string {
    return `${this.#base}${key}`;
  }

  keyOf(location: string): string | null {
    // Hadoop's clients write s3a: and s3n: for the same thing.
    const plain = location.replace(/^s3[an]:/, 's3:');
    return plain.startsWith(this.#base) && plain.length > this.#base.length ? plain.slice(this.#base.length) : null;
  }

  localPath(): null {
    return null;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#client.destroy();
  }

  async #put(
    key: string,
    bytes: number,
    options: PutOptions,
    send: (params: PutObjectCommandInput, signal: AbortSignal) => Promise<{ ETag?: string | undefined }>,
  ): Promise<ObjectInfo> {
    const what = `put ${this.location(key)}`;
    const marked = options.ifAbsent === true || options.ifMatch !== undefined || bytes > PART_BYTES;
    const mark = randomUUID();
    const { sse, kmsKeyId, storageClass } = this.#options;
    const params: PutObjectCommandInput = {
      ...this.#address(key),
      ...(options.contentType === undefined ? {} : { ContentType: options.contentType }),
      ...(options.ifAbsent === true ? { IfNoneMatch: '*' } : {}),
      ...(options.ifMatch === undefined ? {} : { IfMatch: `"${options.ifMatch}"` }),
      ...(options.crc32c === undefined || this.#options.endpoint?.startsWith('http:') !== true
        ? {}
        : { ChecksumCRC32C: base64Of(options.crc32c) }),
      ...(marked ? { Metadata: { [MARK]: mark } } : {}),
      ...(sse === null ? {} : { ServerSideEncryption: sse }),
      ...(kmsKeyId === null ? {} : { SSEKMSKeyId: kmsKeyId }),
      ...(storageClass === null
        ? {}
        : { StorageClass: storageClass as NonNullable<PutObjectCommandInput['StorageClass']> }), // the server checks it
    };
    return this.#call(what, key, options, 1 + bytes / PART_BYTES, async (signal) => {
      try {
        const { ETag } = await send(params, signal);
        return { key, bytes, modifiedMs: Date.now(), etag: unquote(ETag) };
      } catch (error) {
        // Sent more than once: the first may have taken effect, and this is the answer to the second.
        const refused = isPreconditionFailed(error) || isAbsent(error);
        const now = marked && refused && failureOf(error).attempts > 1 ? await this.#head(key, signal) : null;
        if (now?.mark === mark) return now.info;
        if (options.ifAbsent === true && isPreconditionFailed(error)) {
          throw new PenstockError('exists', `${what}: it exists`, { cause: error });
        }
        if (options.ifMatch !== undefined && refused) {
          throw changed(what, options.ifMatch, error);
        }
        throw error;
      }
    });
  }

  async #head(key: string, signal: AbortSignal): Promise<{ info: ObjectInfo; mark: string | undefined } | null> {
    try {
      const output = await this.#client.send(new HeadObjectCommand(this.#address(key)), { abortSignal: signal });
      const modifiedMs = output.LastModified?.getTime() ?? 0;
      const info = { key, bytes: output.ContentLength ?? 0, modifiedMs, etag: unquote(output.ETag) };
      return { info, mark: output.Metadata?.[MARK] };
    } catch (error) {
      // An answer to HEAD has no body: it does not say whether the key is missing or the bucket, nor why it is refused.
      const absent = isAbsent(error);
      if (!this.#bucketSeen && (absent || isRefused(error))) {
        await this.#assertBucket(signal).catch(async (reason: unknown) => {
          if (absent || isLasting(reason)) throw reason;
          // It failed by itself, and says nothing of the refusal; as our error, which a deadline that passed meanwhile does not replace.
          throw toStoreError(error, await this.#context(`head ${this.location(key)}`, error));
        });
      }
      if (!absent) throw error;
      return null;
    }
  }

  /** Throws when the bucket does not exist or the credentials are not known there. */
  async #assertBucket(signal: AbortSignal): Promise<void> {
    const input = { Bucket: this.#options.bucket, Prefix: this.#options.prefix, MaxKeys: 1 };
    try {
      await this.#client.send(new ListObjectsV2Command(input), { abortSignal: signal });
    } catch (error) {
      // Who may read objects may still not be allowed to list them.
      if (failureOf(error).name !== 'AccessDenied') throw error;
    }
    this.#bucketSeen = true;
  }

  async #mustHead(key: string, what: string, options: CallOptions): Promise<ObjectInfo> {
    const info = await this.head(key, options);
    if (info === null) throw new PenstockError('not-found', `${what}: it does not exist`);
    return info;
  }

  async #deleteBatch(keys: readonly string[], options: CallOptions): Promise<void> {
    const what = `delete ${keys.length} objects of ${this.#base}`;
    let rest = keys.map((key) => this.#address(key).Key);
    for (let round = 1; rest.length > 0; round++) {
      const input = { Bucket: this.#options.bucket, Delete: { Quiet: true, Objects: rest.map((Key) => ({ Key })) } };
      const output = await this.#call(what, null, options, 1, (signal) =>
        this.#client.send(new DeleteObjectsCommand(input), { abortSignal: signal }),
      );
      const failed = (output.Errors ?? []).filter(({ Code }) => Code !== 'NoSuchKey');
      const [first] = failed;
      if (first !== undefined && (round === DELETE_ROUNDS_MAX || first.Code === 'AccessDenied')) {
        const status = first.Code === 'AccessDenied' ? 403 : 500;
        const error = Object.assign(new Error(first.Message ?? ''), {
          name: first.Code ?? 'Unknown',
          $metadata: { httpStatusCode: status },
        });
        throw toStoreError(error, await this.#context(`delete s3://${this.#options.bucket}/${first.Key ?? ''}`, error));
      }
      rest = failed.flatMap(({ Key }) => Key ?? []);
    }
  }

  #address(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#options.bucket, Key: `${this.#options.prefix}${key}` };
  }

  /** Runs `work` under the caller's signal and the deadline (times `share`, for calls of many parts), with our errors. */
  async #call<T>(
    what: string,
    key: string | null,
    options: CallOptions,
    share: number,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    if (this.#closed) throw new PenstockError('closed', `${this.url} is closed`);
    if (key !== null) assertObjectKey(key);
    throwIfAborted(options.signal, what);
    // Not AbortSignal.timeout and AbortSignal.any: at thousands of calls per second their timers and links outlive the calls.
    const stop = new AbortController();
    const abort = (): void => stop.abort();
    options.signal?.addEventListener('abort', abort, { once: true });
    const deadlineMs = Math.ceil(this.#options.deadlineMs * share);
    const timer = setTimeout(abort, deadlineMs);
    try {
      const result = await work(stop.signal);
      this.#bucketSeen = true;
      return result;
    } catch (error) {
      if (error instanceof PenstockError) throw error;
      throwIfAborted(options.signal, what);
      if (stop.signal.aborted) {
        const message = `${what}: no answer from ${this.#server()} within ${deadlineMs} ms`;
        throw new PenstockError('timeout', message, { cause: error });
      }
      throw toStoreError(error, await this.#context(what, error));
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', abort);
    }
  }

  #server(): string {
    return this.#options.endpoint ?? `AWS ${this.#options.region}`;
  }

  async #context(what: string, error: unknown): Promise<Parameters<typeof toStoreError>[1]> {
    // A source that gave none takes seconds to say so again.
    const none = failureOf(error).name === 'CredentialsProviderError';
    const credentials = none ? null : await this.#client.config.credentials().catch(() => null);
    const keyId = credentials?.accessKeyId ?? null;
    return { what, bucket: this.#options.bucket, server: this.#server(), keyId };
  }
}

/**
 * The client with `signal` on every request, for lib-storage, which has none on its parts. Only the request that cleans up after a
 * failed upload goes without: it must run when the signal has fired.
 */
function withSignal(client: S3Client, signal: AbortSignal): S3Client {
  return new Proxy(client, {
    get(target, name) {
      if (name === 'send') {
        return (command: Parameters<S3Client['send']>[0]) =>
          command instanceof AbortMultipartUploadCommand
            ? target.send(command)
            : target.send(command, { abortSignal: signal });
      }
      return Reflect.get(target, name, target) as unknown;
    },
  });
}

async function collect(body: AsyncIterable<Buffer> | undefined): Promise<Buffer> {
  const chunks: Buffer[] = [];
  if (body !== undefined) for await (const chunk of body) chunks.push(chunk);
  return joined(chunks);
}

/** Without a copy where there is one: blocks are large. */
function joined<T extends Uint8Array>(chunks: readonly T[]): T | Buffer {
  const [only] = chunks;
  return chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks);
}

function base64Of(crc32c: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc32c);
  return bytes.toString('base64');
}

function unquote(etag: string | undefined): string {
  return etag?.replaceAll('"', '') ?? '';
}
