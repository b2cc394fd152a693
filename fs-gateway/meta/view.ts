/**
 * The view of one volume: its records through the coherent cache, and changes as minitransactions.
 *
 * Answers come at once (no promise) when the cache has them; a miss is one round trip (`follow` reads an entry together with its
 * inode), a change is one round trip while the cache is right and one more for each failed compare.
 * Invariants: see cache.ts. A change that is repeated under the same operation id (a request sent again by the kernel) is applied once.
 * Limits: ATTEMPTS_MAX failed compares of one change are `conflict`.
 */
import { PenstockError, describeError, isCode } from '../../lib/errors.ts';
import type { Key, MetaEngine, ScanPage, SessionInfo, Stored } from '../../lib/meta/engine.ts';
import { counted } from '../../lib/units.ts';
import { decodeChanges } from '../../lib/volume/feed.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { MetaCache } from './cache.ts';
import type { CachedEntry, Node, Watch } from './cache.ts';
import { Change } from './change.ts';
import type { Committed, Settled } from './change.ts';
import { Connection } from './connection.ts';
import { DirectoryPages } from './directory-pages.ts';
import { IdBlocks } from './id-blocks.ts';
import type { IdCounter } from './id-blocks.ts';
import { LakeListings } from './lake-listings.ts';
import { Quotas } from './quotas.ts';
import { RecordReader } from './record-reader.ts';
import type { Checked, Name } from './record-reader.ts';
import { Repeats } from './repeats.ts';
import { Unflushed } from './unflushed.ts';

/** Each failed compare means that somebody else made progress; this many in a row on one record is a fault. */
const ATTEMPTS_MAX = 64;
/** Inodes in one line of the log. */
const NAMED_MAX = 20;

export interface ViewEvents {
  /** Another client changed it; the kernel's copy is out of date too. */
  inodeChanged(ino: number): void;
  entryChanged(parent: number, name: string): void;
  everythingChanged(): void;
}

export interface LockEvents {
  /** Somebody's wait for a lock on it may be over. */
  locksChanged(ino: number): void;
  /** News may have been missed, or the session is another. */
  locksUnknown(): void;
}

export type Changed<T> =
  { readonly value: T; readonly repeated: undefined } | { readonly value: undefined; readonly repeated: number };

export interface ViewOptions {
  open(): Promise<MetaEngine>;
  readonly volume: string;
  /** The same for every worker of a mount. */
  readonly mountId: string;
  /** Inodes (and entries) kept. */
  readonly cacheEntries: number;
  readonly deadlineMs: number;
  report(message: string): void;
}

export class VolumeView {
  readonly keys: VolumeKeys;
  readonly directories: DirectoryPages;
  readonly lake: LakeListings;
  readonly quotas: Quotas;
  readonly #cache: MetaCache;
  readonly #options: ViewOptions;
  readonly #repeats: Repeats;
  #connection: Connection | undefined;
  readonly #listeners: Partial<ViewEvents>[] = [];
  #lockEvents: LockEvents | undefined;
  readonly #ids: IdBlocks;
  readonly #reader: RecordReader;
  readonly #unflushed = new Unflushed();

  private constructor(options: ViewOptions) {
    this.#options = options;
    this.keys = new VolumeKeys(options.volume);
    this.#repeats = new Repeats(this.keys, options.mountId);
    this.#cache = new MetaCache(options.cacheEntries);
    const engine = (): MetaEngine | Promise<MetaEngine> => this.engine();
    const retry = <T>(read: () => Promise<T>): Promise<T> => this.#retry(read);
    this.#ids = new IdBlocks({ keys: this.keys, engine, retry });
    this.#reader = new RecordReader({ keys: this.keys, cache: this.#cache, engine, retry });
    this.directories = new DirectoryPages({
      keys: this.keys,
      cache: this.#cache,
      nodes: (inos) => this.nodes(inos),
      scanRecords: (bucket, cursor, limit) => this.scanRecords(bucket, cursor, limit),
    });
    this.lake = new LakeListings(this.keys, engine, retry);
    this.quotas = new Quotas(this.keys, engine, retry);
  }

  /** A view for a tool: it uses the engine as it is, for one pass, without the feed. */
  static over(engine: MetaEngine, volume: string): VolumeView {
    const view = new VolumeView({
      open: () => Promise.resolve(engine),
      volume,
      mountId: 'tool',
      cacheEntries: 1024,
      deadlineMs: 0,
      report: () => undefined,
    });
    view.#connection = Connection.over(engine);
    return view;
  }

  static async open(options: ViewOptions): Promise<VolumeView> {
    const view = new VolumeView(options);
    view.#connection = await Connection.open({
      open: () => options.open(),
      shards: view.keys.shards(),
      feed: {
        onMessage: (_shard, message) => view.#hear(message),
        onGap: () => view.#forgetAll(),
      },
      onReplaced: () => view.#onReplaced(),
      onOpened: (engine) => view.#onOpened(engine),
      report: (message) => options.report(message),
      deadlineMs: options.deadlineMs,
    });
    return view;
  }

  /** Another one when the one before was lost. */
  get session(): number {
    return this.#connection?.current.sessionId ?? 0;
  }

  /**
   * To be called before the first change: ends the sessions of earlier workers of the mount (ours may be among them), whose commits may still
   * lie in some buffer on their way, and learns what they applied.
   */
  async takeOver(sessions: readonly SessionInfo[]): Promise<void> {
    await this.#retry(async () => {
      const engine = await this.engine();
      for (const { id } of sessions) if (id !== engine.sessionId) await engine.endSession(id);
      await this.#repeats.load(engine);
    });
  }

  /** Resolves when the session was found alive; the next one, if it was over. */
  confirmSession(): Promise<unknown> {
    return this.#retry(async () => (await this.engine()).commit({}));
  }

  /** Where these inodes are, as far as their names are in the cache. */
  pathsOf(inos: ReadonlySet<number>): ReadonlyMap<number, string> {
    return this.#cache.pathsOf(inos, this.lake.placesOf(inos));
  }

  listen(listener: Partial<ViewEvents>): void {
    this.#listeners.push(listener);
  }

  set lockEvents(events: LockEvents) {
    this.#lockEvents = events;
  }

  /** The kernel's copy of the inode is out of date, found out before the feed said so. */
  announceStale(ino: number): void {
    for (const listener of this.#listeners) listener.inodeChanged?.(ino);
  }

  /** The same of a name, which a change of ours has set beside the one that the kernel asked for. */
  announceStaleEntry(parent: number, name: string): void {
    for (const listener of this.#listeners) listener.entryChanged?.(parent, name);
  }

  engine(): MetaEngine | Promise<MetaEngine> {
    if (this.#connection === undefined) throw new PenstockError('closed', 'the volume is not open yet');
    return this.#connection.get();
  }

  async #retry<T>(read: () => Promise<T>): Promise<T> {
    if (this.#connection === undefined) throw new PenstockError('closed', 'the volume is not open yet');
    return this.#connection.retry(read);
  }

  /** The inode if the cache has it. */
  cachedNode(ino: number): Node | undefined {
    return this.#cache.node(ino);
  }

  cachedEntry(parent: number, name: string): CachedEntry | null | undefined {
    return this.#cache.entry(parent, name);
  }

  /** Null: there is no such inode. Throws `corrupt`. */
  node(ino: number): Node | null | Promise<Node | null> {
    return this.#cache.node(ino) ?? this.#reader.node(ino);
  }

  /** The inode as the engine has it at a moment of this call (the cached one where that is the same version), and which of its names lead elsewhere. */
  async checkedNode(ino: number, names: readonly Name[]): Promise<Checked> {
    const checked = await this.#reader.checked(ino, names);
    if (checked.node === null) this.#cache.dropNode(ino);
    return checked;
  }

  /** Whether the engine, at a moment of this call, and then the cache have this very version of the inode. */
  isCurrent(node: Node): Promise<boolean> {
    return this.#reader.isCurrent(node);
  }

  /** Null: there is no such name. */
  entry(parent: number, name: string): CachedEntry | null | Promise<CachedEntry | null> {
    const cached = this.#cache.entry(parent, name);
    return cached === undefined ? this.#reader.entry(parent, name) : cached;
  }

  /** Several inodes in one round trip (two when there are directories among them); absent ones are left out. */
  nodes(inos: readonly number[]): Promise<ReadonlyMap<number, Node>> {
    return this.#reader.nodes(inos);
  }

  /** Whether the cache has all of a directory's entries, and they are no more than `countMax`. */
  isWhole(directory: number, countMax: number): boolean {
    const entries = this.#cache.entriesOf(directory);
    return entries !== undefined && entries.size <= countMax;
  }

  /** A page of a bucket of other records. */
  async scanRecords(bucket: string, cursor: string, limit: number): Promise<ScanPage> {
    return this.#retry(async () => (await this.engine()).scan(bucket, cursor, limit));
  }

  async sessions(): Promise<readonly SessionInfo[]> {
    return this.#retry(async () => (await this.engine()).sessions());
  }

  /** Up to `limit` names of the extended attributes. */
  async xattrNames(ino: number, limit = 1000): Promise<string[]> {
    return this.#fields(this.keys.xattrs(ino), limit);
  }

  /** Up to `limit` of the pages that a large file's extents have. */
  async pageNumbers(ino: number, limit: number): Promise<number[]> {
    return (await this.#fields(this.keys.pages(ino), limit)).map(Number);
  }

  async #fields(bucket: string, limit: number): Promise<string[]> {
    const names: string[] = [];
    for (let cursor: string | null = ''; cursor !== null && names.length < limit;) {
      const page: ScanPage = await this.scanRecords(bucket, cursor, limit - names.length);
      names.push(...page.entries.map(([name]) => name));
      cursor = page.cursor;
    }
    return [...new Set(names)].slice(0, limit);
  }

  /** The kernel is being told of an entry of a page that is true now. */
  tellEntry(parent: number, name: string, entry: CachedEntry): void {
    this.#cache.tellEntry(parent, name, entry);
  }

  watch(directory: number): Watch {
    return this.#cache.watch(directory);
  }

  unwatch(watch: Watch): void {
    this.#cache.unwatch(watch);
  }

  forgetEntry(parent: number, name: string): void {
    this.#cache.dropEntry(parent, name);
  }

  forgetNode(ino: number): void {
    this.#cache.dropNode(ino);
  }

  async read(keys: readonly Key[]): Promise<readonly (Stored | null)[]> {
    return this.#retry(async () => (await this.engine()).read(keys));
  }

  /** An earlier worker of the mount applied the operation, or a commit of this one whose answer was lost. */
  wasApplied(operation: string): boolean {
    return this.#repeats.applied(operation) !== undefined;
  }

  /** The same, or its answer was lost and nobody knows yet. */
  mayBeApplied(operation: string): boolean {
    return this.wasApplied(operation) || this.#repeats.isUnsettled(operation);
  }

  /** The inode that the operation made (0: none); undefined: it was not applied, and never will be. */
  async outcome(operation: string): Promise<number | undefined> {
    await this.#retry(async () => this.#repeats.settle(await this.engine()));
    if (this.#repeats.isUnsettled(operation)) throw new PenstockError('closed', 'the volume is closed');
    return this.#repeats.applied(operation);
  }

  /**
   * Plans and commits until it succeeds: `plan` fills the change from the cache and is called again after a failed compare, and after an
   * outage up to the deadline. What it throws ends the change. `repeated`: an earlier worker, or a commit whose answer was lost, had
   * applied the operation; the inode that it made (0: none).
   */
  async change<T>(operation: string | undefined, plan: (change: Change) => T | Promise<T>): Promise<Changed<T>> {
    const repeated = operation === undefined ? undefined : this.#repeats.applied(operation);
    if (repeated !== undefined) return { value: undefined, repeated };
    let endMs: number | undefined;
    let mayBeApplied = false;
    for (let conflicts = 0; conflicts < ATTEMPTS_MAX;) {
      const change = new Change(this.keys, this.quotas);
      change.mayBeApplied = mayBeApplied;
      const planned = plan(change);
      const value = planned instanceof Promise ? await planned : planned;
      if (change.empty) return { value, repeated: undefined };
      const record = operation === undefined ? undefined : this.#repeats.next(operation, change.made);
      if (record !== undefined) change.write(record.key, record.value);
      const ready = this.engine();
      const engine = ready instanceof Promise ? await ready : ready;
      let committed: Committed;
      try {
        committed = await this.#commit(engine, change);
      } catch (error) {
        if (record !== undefined && isCode(error, 'timeout')) this.#repeats.unheard(record, engine);
        mayBeApplied ||= !isCode(error, 'fenced');
        endMs ??= performance.now() + this.#options.deadlineMs;
        await this.#connection?.recover(engine, error, endMs);
        // (Changes without an operation are flushes and clean-ups: doing them twice is doing them once.)
        const made = operation === undefined ? undefined : await this.outcome(operation);
        if (made !== undefined) return { value: undefined, repeated: made };
        continue;
      }
      const { result, settled } = committed;
      if (result.ok) {
        change.succeed(this.#cache, settled, result.version, result.numbers);
        this.#unflushed.committed(change, result.version);
        return { value, repeated: undefined };
      }
      change.learn(this.#cache, settled, result.mismatches);
      conflicts++;
    }
    throw new PenstockError(
      'conflict',
      `a change of volume '${this.keys.volume}' met other changes ${ATTEMPTS_MAX} times`,
    );
  }

  /** Commits; the cache knows meanwhile that answers of older reads, and news of others, come in between. */
  async #commit(engine: MetaEngine, change: Change): Promise<Committed> {
    const directory = change.madeDirectory ? this.#cache.beginDirectory(change.made) : undefined;
    change.begin(this.#cache);
    let made = false;
    let settled: Settled | undefined;
    try {
      const result = await engine.commit(change.transaction(engine.sessionId));
      made = result.ok;
      settled = change.end(this.#cache);
      return { result, settled };
    } finally {
      if (settled === undefined) change.end(this.#cache);
      if (directory !== undefined) this.#cache.endDirectory(change.made, directory, made);
    }
  }

  /**
   * Returns when what was committed here of an inode, or of what a directory names, is as durable as the engine promises, waiting for an
   * engine as reads do. Throws `io` when a failover may have lost it.
   */
  async flush(ino: number): Promise<void> {
    return this.#retry(async () => this.#unflushed.flush(await this.engine(), ino));
  }

  /** A fresh id, at once while the block at hand lasts. */
  newId(counter: IdCounter): number | Promise<number> {
    return this.#ids.next(counter);
  }

  async #onOpened(engine: MetaEngine): Promise<void> {
    await this.#repeats.settle(engine);
    const lost = await this.#unflushed.adopt(engine);
    if (lost.length === 0) return;
    const named = lost.slice(0, NAMED_MAX).join(' ');
    this.#options.report(
      `a failover of the metadata engine lost changes of ${counted(lost.length, 'inode')}, such as ${named}`,
    );
  }

  #onReplaced(): void {
    this.#ids.renew();
    this.#forgetAll();
  }

  #hear(message: Buffer): void {
    let heard: ReturnType<typeof decodeChanges>;
    try {
      heard = decodeChanges(message);
    } catch (error) {
      // What it said is lost, as in a gap.
      this.#options.report(describeError(error));
      this.#forgetAll();
      return;
    }
    const { session, changes } = heard;
    if (session === this.#connection?.current.sessionId) return;
    for (const change of changes) {
      if (change.kind === 'entry') {
        this.#cache.dropEntry(change.parent, change.name);
        for (const listener of this.#listeners) listener.entryChanged?.(change.parent, change.name);
      } else if (change.kind === 'quota') this.quotas.clear();
      else if (change.kind === 'lock') this.#lockEvents?.locksChanged(change.ino);
      else {
        if (change.kind === 'listing') this.lake.drop(change.ino);
        this.#cache.dropNode(change.ino);
        for (const listener of this.#listeners) listener.inodeChanged?.(change.ino);
      }
    }
  }

  #forgetAll(): void {
    this.#cache.clear();
    this.lake.clear();
    this.quotas.clear();
    for (const listener of this.#listeners) listener.everythingChanged?.();
    this.#lockEvents?.locksUnknown();
  }

  async close(): Promise<void> {
    await this.#connection?.close();
  }
}
