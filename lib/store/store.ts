/**
 * ObjectStore: immutable objects. An object appears whole or not at all, and a completed `put` is durable.
 *
 * Keys are relative, `/`-separated, UTF-8, without empty, `.` or `..` segments, at most 900 bytes; `assertObjectKey` checks them.
 * Invariants: a reader never sees part of an object; `put` with `ifAbsent` has exactly one winner over all processes.
 * Failure: a `put` whose answer was lost may have taken effect; callers use keys that name the content or a fresh id.
 * Limits: `get` returns at most what was asked for; a short object is `corrupt` by name, never short bytes.
 */
export interface ObjectInfo {
  readonly key: string;
  readonly bytes: number;
  readonly modifiedMs: number;
  /** Changes when the content does. */
  readonly etag: string;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
}

export interface PutOptions extends CallOptions {
  /** Fail with `exists` when the key is taken. */
  readonly ifAbsent?: boolean;
  /** Fail with `conflict` unless the current etag is this one. */
  readonly ifMatch?: string;
  readonly contentType?: string;
  /** The CRC32C of the body, where the caller has it anyway: a store that is asked over a network refuses a body that is another on its arrival. */
  readonly crc32c?: number;
}

export interface GetOptions extends CallOptions {
  /** First byte, default 0. */
  readonly offset?: number;
  /** Number of bytes; without it, to the end. */
  readonly length?: number;
  /** Fail with `conflict` when the object's etag is another. */
  readonly ifMatch?: string;
  /** Filled and returned, instead of new memory: as many bytes as `length` says. After the call nobody writes to it any more. */
  readonly into?: Buffer;
}

export interface ObjectStore {
  /** Absolute URL without credentials. */
  readonly url: string;
  put(key: string, body: Uint8Array | readonly Uint8Array[], options?: PutOptions): Promise<ObjectInfo>;
  /** Uploads a local file, in parts when it is large; an upload that fails leaves nothing behind. */
  putFile(key: string, path: string, options?: PutOptions): Promise<ObjectInfo>;
  /** Throws `not-found`; `corrupt` when the object ends before offset + length. */
  get(key: string, options?: GetOptions): Promise<Buffer>;
  /** Downloads into a local file (created or truncated) in bounded memory. */
  getFile(key: string, path: string, options?: CallOptions): Promise<ObjectInfo>;
  /** null when absent. */
  head(key: string, options?: CallOptions): Promise<ObjectInfo | null>;
  /** In byte order of the key; `after` is exclusive. */
  list(prefix: string, options?: CallOptions & { readonly after?: string }): AsyncIterable<ObjectInfo>;
  /** Deleting what is absent is no error. Any number of keys; batched by the adapter. */
  delete(keys: readonly string[], options?: CallOptions): Promise<void>;
  /** The location other programs use: `file:///abs/path/key` or `s3://bucket/prefix/key`. */
  location(key: string): string;
  /** The key of a location of this store, or null when it lies elsewhere. */
  keyOf(location: string): string | null;
  /**
   * The local path of an object where the store is a directory of this machine, else null. For readers that can use a file
   * directly; never for writing.
   */
  localPath(key: string): string | null;
  close(): Promise<void>;
}

/** Instead of those of the process's environment: one process may serve stores of several owners. */
export interface StoreCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** Asked before each request, for credentials that change: it answers with what it holds while that is good. */
export type CredentialSource = () => Promise<StoreCredentials>;

export type OpenObjectStore = (url: URL, credentials?: StoreCredentials | CredentialSource) => Promise<ObjectStore>;
