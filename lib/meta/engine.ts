/**
 * MetaEngine: small transactional records, the one place where things become true.
 *
 * One primitive besides reads: a *minitransaction* (Sinfonia, SOSP'07): `commit({ compare, write, patch, publish })` is applied
 * atomically in ONE round trip. Every compare holds, or nothing happens and each mismatch comes back with its fresh value, so
 * that the retry needs no second read.
 *
 * Addresses. A record lives at (bucket, field). On Redis a bucket is one hash key, so records that are read together or
 * listed together share a bucket; on SQLite it is the first column of the primary key. Buckets and fields are *byte strings
 * in latin1* (each char is one byte, 0-255): file names are kept byte for byte. A bucket begins with the hash tag of its
 * volume, `{lake}`, so that a minitransaction is legal on Redis Cluster (see lib/volume/keys.ts).
 *
 * Two kinds of record, told apart by where they are used, never both at one key:
 *   value   bytes with a version; written whole.
 *   number  a signed 64-bit integer without a version; changed by `patch` (commutative, never a conflict) and compared by
 *           `atLeast`/`atMost`. An absent number reads as null and counts as 0 in compares and patches.
 *
 * Invariants
 * - A version is (session, counter): unique over the engine's life, never reused, also not after a failover that lost commits.
 * - Every commit compares its own live session and the engine's epoch first; when either is gone it fails with `fenced`.
 * - A commit with an `operation` that was already applied returns the first result (bounded ring per session, RING_SIZE).
 * - `publish` happens if and only if the commit is applied, in commit order per shard.
 * - An `instant` shows every record as it was when it was opened, whatever is committed meanwhile; it holds up no commit.
 * Failure: an answer that was lost leaves the effect unknown; the caller repeats the commit with the same `operation`.
 * Limits: at most COMMIT_RECORDS_MAX records compared by a commit, and as many changed (a longer script would block Redis: 10,000
 * hash fields take 51 ms, measured); a value is at most VALUE_BYTES_MAX, a commit COMMIT_BYTES_MAX.
 */

export const COMMIT_RECORDS_MAX = 1000;
export const VALUE_BYTES_MAX = 1 << 20;
/** Bytes of values and messages in one commit: it is one request on the wire, and one write in the engine's log. */
export const COMMIT_BYTES_MAX = 64 << 20;
/** Results kept per session for repeated operations: more than the requests a FUSE device has in flight. */
export const RING_SIZE = 4096;
/** Instants of one hash tag at a time: on Redis each makes every commit keep what it overwrites. */
export const INSTANTS_MAX = 8;

declare const versionBrand: unique symbol;
/** Opaque; equal strings are equal versions. */
export type Version = string & { readonly [versionBrand]: true };

export interface Key {
  readonly bucket: string;
  readonly field: string;
}

export interface Stored {
  readonly value: Buffer;
  readonly version: Version;
}

export type Compare =
  /** The value record has exactly this version; null: it is absent. */
  | { readonly key: Key; readonly version: Version | null }
  /** The bucket has no value records (numbers do not count: keep numbers in buckets of their own). */
  | { readonly emptyBucket: string }
  | { readonly number: Key; readonly atLeast: bigint }
  | { readonly number: Key; readonly atMost: bigint };

/** null deletes; deleting what is absent is no error. */
export interface Write {
  readonly key: Key;
  readonly value: Uint8Array | null;
}

export type Patch =
  | { readonly number: Key; readonly add: bigint }
  /** Raises the number to `max` if it is below (times). */
  | { readonly number: Key; readonly max: bigint }
  | { readonly number: Key; readonly remove: true };

export interface Publish {
  /** Name of the feed shard; sharded by parent directory in the file system, by dataset in the lake. */
  readonly shard: string;
  readonly message: Uint8Array;
}

export interface Minitransaction {
  readonly compare?: readonly Compare[];
  readonly write?: readonly Write[];
  readonly patch?: readonly Patch[];
  readonly publish?: readonly Publish[];
  /** Also where the engine is full. Of what takes next to nothing and without which nothing can be freed or saved: the lock of a gc or a backup. */
  readonly whenFull?: true;
  /** Identifies a repeat of the same request within this session; at most 64 bytes. */
  readonly operation?: string;
}

export type Mismatch =
  | { readonly index: number; readonly kind: 'value'; readonly current: Stored | null }
  | { readonly index: number; readonly kind: 'bucket'; readonly count: number }
  | { readonly index: number; readonly kind: 'number'; readonly current: bigint };

export type CommitResult =
  | {
      readonly ok: true;
      /** The version given to every value record that this commit wrote (one version serves the whole commit). */
      readonly version: Version;
      /** The values of the patched numbers after the commit, in the order of `patch` (null for `remove`). */
      readonly numbers: readonly (bigint | null)[];
      /** True when this was a repeat of an `operation` that had been applied before. */
      readonly repeated: boolean;
    }
  | { readonly ok: false; readonly mismatches: readonly Mismatch[] };

export interface ScanPage {
  readonly entries: readonly (readonly [field: string, stored: Stored])[];
  /** Pass it to the next call; null at the end. */
  readonly cursor: string | null;
}

/**
 * How one record names another, so that "read an entry and what it points to" is one round trip: the first 8 bytes of the
 * value are a big-endian unsigned id N; the target is bucket `${bucketPrefix}${N >> shift}` (decimal), field = the low `shift`
 * bits of N in decimal.
 */
export interface Link {
  readonly bucketPrefix: string;
  readonly shift: number;
}

export interface FeedHandlers {
  onMessage(shard: string, message: Buffer): void;
  /**
   * Messages may have been missed (lost connection, ring overrun): drop everything cached under this shard. After a lost connection
   * it is called twice: at the loss, and when the feed is back, for what was cached in between.
   */
  onGap(shard: string): void;
}

export interface Subscription {
  add(shards: readonly string[]): Promise<void>;
  remove(shards: readonly string[]): Promise<void>;
  close(): Promise<void>;
}

export interface SessionInfo {
  readonly id: number;
  readonly kind: string;
  readonly host: string;
  readonly pid: number;
  /** What the program says of itself, e.g. the mount point. JSON-serialisable. */
  readonly detail: Readonly<Record<string, string | number | boolean>>;
  readonly startedMs: number;
  /** Wall-clock ms of the engine at the last renewal. */
  readonly renewedMs: number;
  readonly live: boolean;
}

export interface SessionOptions {
  readonly kind: string;
  readonly detail?: SessionInfo['detail'];
  /** The lease; renewed by the engine at a third of it. Default 5,000. */
  readonly leaseMs?: number;
}

export interface MetaReader {
  /** In one round trip: the first at a moment that is not after those of the others. */
  read(keys: readonly Key[]): Promise<readonly (Stored | null)[]>;
  readNumbers(keys: readonly Key[]): Promise<readonly (bigint | null)[]>;
  /**
   * A page of a bucket's value records, in no promised order. Every record that is present during the whole scan is
   * returned at least once; one that comes or goes meanwhile may or may not be. Start with cursor ''. `limit` is a guide: Redis
   * gives a small bucket whole, and may give an empty page before the last.
   */
  scan(bucket: string, cursor: string, limit: number): Promise<ScanPage>;
  /**
   * The buckets whose name starts with `prefix`, for tools (gc, fsck, dump); slow, paged by the caller's iteration. Redis may name one
   * twice while others come and go.
   */
  buckets(prefix: string): AsyncIterable<string>;
  /** The numbers in a bucket, for tools. */
  numbers(bucket: string): Promise<readonly (readonly [field: string, value: bigint])[]>;
}

/**
 * The records of one hash tag as they were at one instant. Reads after a commit that the opener saw include it. Close it soon: until then the
 * engine keeps what is overwritten, up to a bound of its own (reader.ts, instants.ts), past which the instant is lost.
 * Reads throw InstantLostError when it is lost: begin again with another one.
 */
export interface Instant extends MetaReader {
  close(): Promise<void>;
}

export interface MetaEngine extends MetaReader {
  /** The URL it was opened with, credentials removed. */
  readonly url: string;
  /** The id of this connection's session. */
  readonly sessionId: number;
  /** In which the session lives; another one, once acknowledged commits may have been lost (a failover, a restored database). */
  readonly epoch: string;
  /** Aborted when the session or the epoch is lost; the reason is a PenstockError `fenced`. Open a new engine afterwards. */
  readonly lost: AbortSignal;

  /** Reads `key` and the record that it links to, in one round trip and, for ids below 2^53, as of one moment. `target` is null when either is absent. */
  follow(key: Key, link: Link): Promise<{ readonly record: Stored | null; readonly target: Stored | null }>;
  /** Number of value records in a bucket. */
  count(bucket: string): Promise<number>;
  /** Throws `fenced`, `unavailable`, `timeout`, `too-large`; a failed compare is a result, not an error. */
  commit(transaction: Minitransaction): Promise<CommitResult>;

  /** `tag`: of the buckets to read. Throws `held` when INSTANTS_MAX are open, `unsupported` while sessions of an older Penstock live. */
  instant(tag: string): Promise<Instant>;
  /** Frees what is kept for instants of the tag that nobody holds any more, as those of a process that was killed. */
  clearInstants(tag: string): Promise<void>;

  subscribe(shards: readonly string[], handlers: FeedHandlers): Promise<Subscription>;
  sessions(): Promise<readonly SessionInfo[]>;
  /** Ends a session (an administrator's act, or the take-over of a dead one). Its later commits fail with `fenced`. */
  endSession(id: number): Promise<void>;
  /** Returns when all that was committed is as durable as the engine's options promise (SQLite: fsynced; Redis: WAIT/WAITAOF). */
  flush(): Promise<void>;
  /** Ends the session and the connections. */
  close(): Promise<void>;
}

/** A driver opens an engine for a URL; see lib/registry.ts. */
export type OpenMetaEngine = (url: URL, session: SessionOptions) => Promise<MetaEngine>;
