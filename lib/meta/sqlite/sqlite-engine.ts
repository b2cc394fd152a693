/**
 * MetaEngine over one SQLite file (`sqlite:PATH`), for one machine and any number of processes. The storage layout is in schema.ts.
 *
 * Commits that wait at the same time become one SQLite transaction (group commit): one lock, one fsync, however many callers.
 *
 * Options: `?durability=commit` (the default): a commit is on the disk before it is answered (synchronous=FULL).
 *          `?durability=flush`: it is there when a later `flush()` returned; a crash of the process alone loses nothing.
 *          `?deadline=10s`: how long a call waits for other processes' locks before it fails with `unavailable`.
 *
 * Invariants
 * - A minitransaction sees the file as its group's predecessors left it; one that is refused changes nothing and harms no other.
 * - The event loop never sleeps in SQLite: a busy file is tried again by timer. (An fsync does block it; that is the embedded
 *   adapter's price.) A long scan gives way after each page, so that what else waits is answered in between.
 * - No other file descriptor of this process may be opened on PATH: closing one would drop SQLite's locks (POSIX fcntl rule).
 * Failure: killed at any point, the file holds exactly the commits of whole groups; SQLite's WAL recovery is the repair. When the
 * group's transaction fails (disk full, I/O error), it is rolled back and every member gets the error.
 * Limits: WAITING_MAX calls wait at once; a group is at most GROUP_RECORDS_MAX records long.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '../../clock.ts';
import { PenstockError } from '../../errors.ts';
import { parseDuration } from '../../units.ts';
import { pathOfUrl } from '../../urls.ts';
import { INSTANTS_MAX } from '../engine.ts';
import type {
  CommitResult,
  FeedHandlers,
  Instant,
  Key,
  Link,
  MetaEngine,
  Minitransaction,
  ScanPage,
  SessionInfo,
  SessionOptions,
  Stored,
  Subscription,
} from '../engine.ts';
import {
  WAITING_MAX,
  assertBucket,
  assertBucketPrefix,
  assertKey,
  checkMinitransaction,
  tooManyInstants,
} from '../limits.ts';
import { linkTarget } from '../link.ts';
import { DEFAULT_LEASE_MS, SessionLease } from '../session-lease.ts';
import { SqliteFeed } from './feed.ts';
import { RecordStatements } from './minitransaction.ts';
import { RecordReader, SqliteInstant } from './reader.ts';
import { fromSqliteError, inodeOf, isBusy, openFile, type Durability, type OpenedFile } from './schema.ts';
import { SessionRows } from './sessions.ts';

const DEFAULT_DEADLINE_MS = 10_000;
const RETRY_FIRST_MS = 1;
const RETRY_MAX_MS = 25;
// A group holds the file's lock: other processes wait for it. About 20 ms of work.
const GROUP_RECORDS_MAX = 4000;

interface Waiting {
  readonly transaction: Minitransaction;
  readonly resolve: (result: CommitResult) => void;
  readonly reject: (error: unknown) => void;
}

interface Options {
  readonly path: string;
  readonly durability: Durability;
  readonly deadlineMs: number;
}

/** Opens `sqlite:PATH`; the file is created where there is none. Throws `config`, `corrupt`, `unsupported`, `denied`, `full`. */
export async function openSqliteEngine(url: URL, session: SessionOptions): Promise<MetaEngine> {
  const options = parseSqliteUrl(url);
  try {
    const file = await retryBusy(options, () => openFile(options.path, options.durability));
    try {
      const leaseMs = session.leaseMs ?? DEFAULT_LEASE_MS;
      const sessions = new SessionRows(file.database);
      const grantedMs = systemClock.monotonicMs();
      const id = await retryBusy(options, () => inTransaction(file.database, () => sessions.open(session, leaseMs)));
      return new SqliteEngine({ url, options, file, sessions, id, leaseMs, grantedMs });
    } catch (error) {
      file.database.close();
      throw error;
    }
  } catch (error) {
    throw fromSqliteError(error, options.path);
  }
}

/** Throws `config`. */
export function parseSqliteUrl(url: URL): Options {
  let durability: Durability = 'commit';
  let deadlineMs = DEFAULT_DEADLINE_MS;
  for (const [name, value] of url.searchParams) {
    if (name === 'durability' && (value === 'commit' || value === 'flush')) durability = value;
    else if (name === 'durability') {
      throw new PenstockError('config', `${url.href}: durability=${value}: expected commit or flush`);
    } else if (name === 'deadline') deadlineMs = parseDuration(value);
    // The volume's name belongs to the file system's command line; an engine holds many.
    else if (name !== 'volume') {
      throw new PenstockError(
        'config',
        `${url.href}: unknown option '${name}': expected durability, deadline or volume`,
      );
    }
  }
  return { path: resolve(pathOfUrl(url)), durability, deadlineMs };
}

/** Tries again while another process holds a lock, without blocking the event loop; `unavailable` at the deadline. */
async function retryBusy<T>(options: Options, action: () => T): Promise<T> {
  const endMs = systemClock.monotonicMs() + options.deadlineMs;
  for (let delayMs = RETRY_FIRST_MS; ; delayMs = Math.min(delayMs * 2, RETRY_MAX_MS)) {
    try {
      return action();
    } catch (error) {
      if (!isBusy(error)) throw error;
      if (systemClock.monotonicMs() >= endMs) {
        throw new PenstockError(
          'unavailable',
          `${options.path} was locked by other processes for ${options.deadlineMs} ms`,
          {
            cause: error,
          },
        );
      }
    }
    await sleep(delayMs * (0.5 + Math.random()));
  }
}

function inTransaction<T>(database: DatabaseSync, action: () => T, mode: 'IMMEDIATE' | 'DEFERRED' = 'IMMEDIATE'): T {
  database.exec(`BEGIN ${mode}`);
  try {
    const result = action();
    database.exec('COMMIT');
    return result;
  } catch (error) {
    // SQLite has already rolled back after some errors (full disk, I/O).
    if (database.isTransaction) database.exec('ROLLBACK');
    throw error;
  }
}

class SqliteEngine implements MetaEngine {
  readonly url: string;
  readonly sessionId: number;
  readonly #options: Options;
  readonly #file: OpenedFile;
  readonly #database: DatabaseSync;
  readonly #records: RecordStatements;
  readonly #reader: RecordReader;
  readonly #instants = new Set<SqliteInstant>();
  readonly #sessions: SessionRows;
  readonly #lease: SessionLease;
  readonly #feed: SqliteFeed;
  #waiting: Waiting[] = [];
  #committing: Promise<void> | undefined;
  #closed = false;
  #folderSynced = false;

  constructor(opened: {
    readonly url: URL;
    readonly options: Options;
    readonly file: OpenedFile;
    readonly sessions: SessionRows;
    readonly id: number;
    readonly leaseMs: number;
    readonly grantedMs: number;
  }) {
    const { database } = opened.file;
    this.url = opened.url.href;
    this.sessionId = opened.id;
    this.#options = opened.options;
    this.#file = opened.file;
    this.#database = database;
    this.#sessions = opened.sessions;
    this.#records = new RecordStatements(database, opened.id);
    this.#feed = new SqliteFeed(database, (error) => this.#onPollError(error));
    this.#reader = new RecordReader(database, this.#records, (action) => this.#reading(action));
    this.#lease = new SessionLease({
      renew: () => this.#renew(),
      leaseMs: opened.leaseMs,
      grantedMs: opened.grantedMs,
    });
  }

  get epoch(): string {
    return this.#file.epoch;
  }

  get lost(): AbortSignal {
    return this.#lease.lost;
  }

  read(keys: readonly Key[]): Promise<readonly (Stored | null)[]> {
    return this.#reader.read(keys);
  }

  readNumbers(keys: readonly Key[]): Promise<readonly (bigint | null)[]> {
    return this.#reader.readNumbers(keys);
  }

  scan(bucket: string, cursor: string, limit: number): Promise<ScanPage> {
    return this.#reader.scan(bucket, cursor, limit);
  }

  buckets(prefix: string): AsyncIterable<string> {
    return this.#reader.buckets(prefix);
  }

  numbers(bucket: string): Promise<readonly (readonly [string, bigint])[]> {
    return this.#reader.numbers(bucket);
  }

  async follow(key: Key, link: Link): Promise<{ record: Stored | null; target: Stored | null }> {
    assertKey(key);
    return this.#reading(() => {
      const record = this.#records.read(key);
      const target = record === null ? null : linkTarget(record.value, link);
      return { record, target: target === null ? null : this.#records.read(target) };
    });
  }

  async count(bucket: string): Promise<number> {
    assertBucket(bucket);
    return this.#reading(() => this.#records.count(bucket));
  }

  async commit(transaction: Minitransaction): Promise<CommitResult> {
    checkMinitransaction(transaction);
    this.#assertOpen();
    this.#lease.check();
    if (this.#waiting.length >= WAITING_MAX) {
      throw new PenstockError('unavailable', `${this.#options.path}: ${WAITING_MAX} commits are waiting already`);
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ transaction, resolve, reject });
      this.#committing ??= this.#commitWaiting();
    });
  }

  async instant(tag: string): Promise<Instant> {
    assertBucketPrefix(tag);
    if (this.#instants.size >= INSTANTS_MAX) throw tooManyInstants(this.url, tag);
    await this.#reading(() => this.#refuseIfFenced());
    const instant: SqliteInstant = await retryBusy(
      this.#options,
      () => new SqliteInstant(this.#options.path, this.#lease, () => this.#instants.delete(instant)),
    );
    this.#instants.add(instant);
    return instant;
  }

  /** Of one whose process is gone SQLite keeps nothing. */
  clearInstants(): Promise<void> {
    return Promise.resolve();
  }

  async subscribe(shards: readonly string[], handlers: FeedHandlers): Promise<Subscription> {
    this.#assertOpen();
    return retryBusy(this.#options, () => this.#feed.subscribe(shards, handlers));
  }

  async sessions(): Promise<readonly SessionInfo[]> {
    return this.#reading(() => this.#sessions.all());
  }

  async endSession(id: number): Promise<void> {
    await this.#changing(() => this.#sessions.end(id));
    if (id === this.sessionId) this.#lease.lose(`session ${id} was ended`);
  }

  async flush(): Promise<void> {
    this.#assertOpen();
    if (this.#options.durability === 'commit') return;
    // SQLite holds no locks on the log, so a second descriptor on it is harmless. A checkpoint syncs what it moves out of it.
    await syncFile(`${this.#options.path}-wal`, this.#options.path);
    if (this.#folderSynced) return;
    await syncFile(dirname(this.#options.path), this.#options.path);
    this.#folderSynced = true;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#committing;
    await this.#lease.stop();
    this.#feed.close();
    for (const instant of this.#instants) await instant.close();
    try {
      await this.#changing(() => this.#sessions.end(this.sessionId));
    } finally {
      this.#database.close();
    }
  }

  /** One transaction per group, until nobody waits. */
  async #commitWaiting(): Promise<void> {
    // What other callers ask for in this turn of the event loop shares the fsync. So do those who ask again when answered.
    do {
      await nextTurn();
      await this.#commitGroup(this.#takeGroup());
    } while (this.#waiting.length > 0);
    // In the same step as the look at the queue: a commit that comes later starts anew.
    this.#committing = undefined;
  }

  async #commitGroup(group: readonly Waiting[]): Promise<void> {
    try {
      const outcomes = await retryBusy(this.#options, () =>
        inTransaction(this.#database, () => this.#applyGroup(group)),
      );
      group.forEach(({ resolve, reject }, i) => {
        const outcome = outcomes[i];
        if (outcome === undefined || outcome instanceof Error) reject(outcome);
        else resolve(outcome);
      });
    } catch (error) {
      const reason = fromSqliteError(error, this.#options.path);
      for (const { reject } of group) reject(reason);
      return;
    }
    try {
      this.#feed.deliver();
    } catch (error) {
      this.#onPollError(error);
    }
  }

  #takeGroup(): Waiting[] {
    let records = 0;
    const end = this.#waiting.findIndex(
      ({ transaction: { compare = [], write = [], patch = [], publish = [] } }, i) => {
        records += 1 + compare.length + write.length + patch.length + publish.length;
        return i > 0 && records > GROUP_RECORDS_MAX;
      },
    );
    return this.#waiting.splice(0, end === -1 ? this.#waiting.length : end);
  }

  #applyGroup(group: readonly Waiting[]): (CommitResult | PenstockError)[] {
    this.#refuseIfFenced();
    let published = 0;
    const outcomes = group.map(({ transaction }) => {
      try {
        const result = this.#records.apply(transaction);
        if (result.ok && !result.repeated) published += transaction.publish?.length ?? 0;
        return result;
      } catch (error) {
        // An overflow: found before the member changed anything. All else ends the group.
        if (error instanceof PenstockError && error.code === 'too-large') return error;
        throw error;
      }
    });
    if (published > 0) this.#feed.prune(published);
    return outcomes;
  }

  #refuseIfFenced(): void {
    const { path } = this.#options;
    if (inodeOf(path) !== this.#file.inode) throw this.#lease.lose(`${path} was removed or replaced by another file`);
    const refusal = this.#sessions.refusal(this.sessionId, this.#file.epoch);
    if (refusal !== null) throw this.#lease.lose(`${path}: ${refusal}`);
  }

  async #renew(): Promise<void> {
    await this.#changing(() => {
      this.#refuseIfFenced();
      this.#sessions.renew(this.sessionId);
    });
  }

  /** The feed cannot be read: the next poll tries again; a file that stays unreadable ends the session with its lease. */
  #onPollError(error: unknown): void {
    const reason = fromSqliteError(error, this.#options.path);
    if (reason.code === 'corrupt') this.#lease.lose(reason.message);
  }

  async #changing<T>(action: () => T): Promise<T> {
    try {
      return await retryBusy(this.#options, () => inTransaction(this.#database, action));
    } catch (error) {
      throw fromSqliteError(error, this.#options.path);
    }
  }

  /** Several reads see one state of the file, and take SQLite's read lock once. */
  async #reading<T>(action: () => T): Promise<T> {
    this.#assertOpen();
    try {
      return await retryBusy(this.#options, () => inTransaction(this.#database, action, 'DEFERRED'));
    } catch (error) {
      throw fromSqliteError(error, this.#options.path);
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new PenstockError('closed', `${this.#options.path} was closed`);
  }
}

async function syncFile(path: string, what: string): Promise<void> {
  try {
    const handle = await open(path, constants.O_RDONLY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fromSqliteError(error, what);
  }
}
