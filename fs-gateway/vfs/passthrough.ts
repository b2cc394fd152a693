/**
 * Passthrough: which opens the kernel serves by itself from a whole file of this node, and what becomes of such a file.
 *
 * Rules, each from an experiment with the kernel (docs/decisions/0021)
 * - All handles of an inode have one backing id, or none: a plain open beside a passthrough one, and the reverse, is EIO. So the first open
 *   decides, and the id is in the journal before the kernel hears of it: it belongs to the mount's connection and outlives this process.
 * - The path is chosen per handle: with FOPEN_DIRECT_IO its reads and writes come to the daemon, also beside handles that pass through.
 * - Closing is not the end of writing, as a mapping may go on. Only a read lease on the backing file proves that nobody can write.
 * - In mode `read` writers get the daemon path. A writer that joins readers makes the file *live* (live-file.ts): it can map the file and
 *   store to it without a word to us. In mode `full` every writer does.
 * - Setuid and setgid fall by a write only if the daemon sees it: such files are written through it.
 * - Whole files are brought up to date in place while the kernel reads them, but only while nobody can write them; the answers to
 *   opens wait for it.
 * Limits: COUNTED_MAX inodes whose reads are counted.
 */
import { closeSync, openSync } from 'node:fs';
import { describeError, fromSystemError, isCode, PenstockError } from '../../lib/errors.ts';
import { INODE_IMMUTABLE, INODE_INLINE, isRegular } from '../../lib/volume/inode.ts';
import { BlockHashes } from '../data/block-hashes.ts';
import type { FileHasher } from '../data/file-hasher.ts';
import { KeptAsideError } from '../data/kept-aside.ts';
import { LiveFile } from '../data/live-file.ts';
import type { WholeFiles } from '../data/whole-files.ts';
import type { FileContent } from '../data/whole-record.ts';
import { BoundedMap } from '../meta/bounded-map.ts';
import type { Node } from '../meta/cache.ts';
import { flushOperation } from './append.ts';
import { Calming } from './calming.ts';
import { contentOf, keyOf } from './content-of.ts';
import { nodeOrThrow } from './context.ts';
import type { Context } from './context.ts';
import type { Filler } from './filler.ts';
import type { KernelBacking, Result } from './operations.ts';
import type { RemovedFiles } from './removed-files.ts';

const O_APPEND = 0o2000;
/** O_DSYNC, O_SYNC: each write is to be in the store; the kernel would sync the backing file only. */
const O_SYNCS = 0o4010000;
/** Handles that are never passed through, if they are the first. */
const DAEMON_FLAGS = O_APPEND | O_SYNCS;
const SET_ID = 0o6000;
/** What a new file may become before anybody looks. */
const NEW_FILE_BYTES = 64 * 2 ** 20;
/** An fsync compares the whole file: an inode whose fsyncs did so in vain for this long is written through the daemon from its next first open on. */
const FSYNC_BUDGET_MS = 1000;
const COUNTED_MAX = 4096;
/** Who reads so much of a file will read the rest. */
const FILL_SHARE = 0.25;
export interface Opened {
  readonly backingId: number;
  readonly directIo: boolean;
}

export type PassthroughMode = 'off' | 'read' | 'full';

export interface PassthroughOptions {
  readonly context: Context;
  /** Absent in mode `off`: no mapping of ours can be alive. */
  readonly kernel: KernelBacking | undefined;
  readonly mode: PassthroughMode;
  readonly whole: WholeFiles;
  readonly filler: Filler;
  readonly hasher: FileHasher;
  readonly removed: RemovedFiles;
  readonly bootId: string;
  read(content: FileContent, from: number, target: Buffer): void | Promise<void>;
  /** Commits what a live file has changed, at once. */
  flush(ino: number): Result<void>;
  /** The same in its turn. */
  commit(ino: number): Result<void>;
  /** An open that kept the file from being closed does not wait any more. */
  letGo(ino: number): void;
}

export class Passthrough {
  readonly #options: PassthroughOptions;
  /** Bytes that the daemon read of an inode since it was last opened here. */
  readonly #bytesRead = new BoundedMap<number, number>(COUNTED_MAX);
  readonly #fsyncMs = new BoundedMap<number, number>(COUNTED_MAX);
  readonly #daemonOnly = new BoundedMap<number, true>(COUNTED_MAX);
  readonly #calming: Calming;
  readonly #following = new Set<Promise<void>>();
  #opens = 0;
  #refused = false;

  constructor(options: PassthroughOptions) {
    this.#options = options;
    this.#calming = new Calming(options);
  }

  stats(): Readonly<Record<string, string | number>> {
    const { mode, whole, filler } = this.#options;
    return {
      passthrough: mode,
      passthroughOpens: this.#opens,
      wholeBytes: whole.bytes,
      liveFiles: whole.live.size,
      filling: filler.pending,
    };
  }

  /** How the kernel is to serve this open; null: through the daemon. When this returns or resolves, the open is counted, and in the journal. */
  open(node: Node, flags: number, writes: boolean, request: string): Result<Opened | null> {
    if (!this.#isCandidate(node, flags, writes)) return this.#answer(node, null, flags, writes, request);
    const key = keyOf(this.#options.context, node);
    if (key instanceof Promise) return key.then((known) => this.#answer(node, known, flags, writes, request));
    return this.#answer(node, key, flags, writes, request);
  }

  /** A whole file of the committed content may serve it. */
  #isCandidate({ ino, inode }: Node, flags: number, writes: boolean): boolean {
    const { context, mode } = this.#options;
    if (mode === 'off' || context.staging.opens.has(ino) || context.staging.get(ino) !== undefined) return false;
    if (!isRegular(inode)) return false;
    if (!writes) return (inode.flags & INODE_INLINE) === 0 && inode.size > 0;
    if (mode !== 'full' || this.#daemonOnly.get(ino) === true) return false;
    return (flags & DAEMON_FLAGS) === 0 && (inode.mode & SET_ID) === 0;
  }

  /** Decides and counts in one go: nothing else runs in between. */
  #answer(node: Node, key: string | null, flags: number, writes: boolean, request: string): Result<Opened | null> {
    const id = this.#options.context.staging.opens.backingOf(node.ino);
    if (id !== undefined) return this.#joinCounted(node, id, flags, writes, request);
    // The next worker would not know of the backing file.
    const canNote = this.#options.context.staging.failure === undefined;
    const opened = canNote ? this.#begin(node, key, flags, writes) : null;
    try {
      this.#count(node.ino, opened?.backingId ?? 0, request, !writes && opened === null);
    } catch (error) {
      // Nobody will close what the kernel does not hear of.
      if (opened !== null) this.closed(node.ino, opened.backingId);
      this.calmLater(node.ino);
      if (writes) throw error;
      this.#count(node.ino, 0, request, true);
      return null;
    }
    return opened;
  }

  /** `mayBeUnnoted`: where the disk fails. */
  #count(ino: number, backingId: number, request: string, mayBeUnnoted: boolean): void {
    const { staging, time } = this.#options.context;
    staging.opens.opened(ino, time.nowNs(), request, backingId, mayBeUnnoted);
    if (backingId > 0) this.#opens++;
  }

  /** It may wait long, and comes again to the next worker if this one is killed meanwhile: so it is counted at its end. */
  async #joinCounted(node: Node, id: number, flags: number, writes: boolean, request: string): Promise<Opened> {
    const { staging } = this.#options.context;
    staging.opens.hold(node.ino);
    try {
      const opened = await this.#join(node, id, flags, writes);
      this.#count(node.ino, id, request, !writes);
      return opened;
    } finally {
      this.#options.letGo(node.ino);
    }
  }

  /** The first open of an inode. */
  #begin(node: Node, key: string | null, flags: number, writes: boolean): Opened | null {
    const { context, whole, filler, mode } = this.#options;
    const { ino, inode } = node;
    // The kernel holds pages of it: a passthrough open would be refused until the last of the others is closed.
    if (mode === 'off' || context.staging.opens.has(ino)) return null;
    const staged = context.staging.get(ino);
    if (staged instanceof LiveFile) return this.#register(node, whole.path(ino), flags, writes);
    if (staged !== undefined || key === null) return null;
    const own = this.#ownObject(node);
    if (own !== null) return this.#register(node, own, flags, writes);
    if (whole.isComplete(ino, key) && !filler.isFilling(ino)) {
      return this.#register(node, whole.path(ino), flags, writes);
    }
    if (writes && inode.size <= context.format.inlineBytes && !filler.isFilling(ino) && whole.hasRoom(NEW_FILE_BYTES)) {
      return this.#create(node, flags);
    }
    // It was whole, as another version or before the machine was started: that costs little.
    if (whole.has(ino)) filler.later(ino);
    return null;
  }

  /** A backing file for a file that is new, or small enough to be in the metadata. */
  #create(node: Node, flags: number): Opened | null {
    const { context, whole, bootId } = this.#options;
    const content = contentOf(context, node);
    if (content instanceof Promise) return null;
    const { size, inline } = content;
    // Extents of a small file: what is behind the inline limit in the store is rare, and goes through the daemon.
    if (inline === null && size > 0) return null;
    const bytes = Buffer.alloc(size);
    inline?.copy(bytes);
    try {
      whole.createLive(node.ino, bytes, (mtimeNs) => ({ content, hashes: BlockHashes.of(bytes), bootId, mtimeNs }));
    } catch (error) {
      context.report(`inode ${node.ino} is written through the daemon: ${describeError(error)}`);
      whole.drop(node.ino);
      return null;
    }
    const opened = this.#register(node, whole.path(node.ino), flags, true);
    if (opened === null) whole.drop(node.ino);
    return opened;
  }

  /** A file of the lake in a store that is a directory of this machine: the object is the file. */
  #ownObject({ inode }: Node): string | null {
    const [extent] = inode.extents;
    if ((inode.flags & INODE_IMMUTABLE) === 0 || extent === undefined || inode.extents.length !== 1) return null;
    const { source } = extent;
    if (source.kind !== 'external' || extent.length !== inode.size || source.objectBytes !== inode.size) return null;
    return this.#options.context.reader.localObject(source.key, source.objectBytes);
  }

  #register(node: Node, path: string, flags: number, writes: boolean): Opened | null {
    const { ino } = node;
    const { kernel, whole, context } = this.#options;
    let fd: number;
    try {
      fd = openSync(path, 'r');
    } catch (error) {
      context.report(`the whole file of inode ${ino} is gone: ${describeError(error)}`);
      if (!(context.staging.get(ino) instanceof LiveFile)) whole.drop(ino);
      return null;
    }
    const id = kernel?.register(fd) ?? 0;
    closeSync(fd);
    if (id <= 0) {
      if (!this.#refused) context.report(`the kernel takes no backing file (errno ${-id}): the daemon serves the data`);
      this.#refused = true;
      return null;
    }
    try {
      if (writes) this.#makeLive(node);
    } catch (error) {
      // Somebody has removed it, or its record, at this moment.
      kernel?.unregister(id);
      whole.drop(ino);
      context.report(`inode ${ino} is written through the daemon: ${describeError(error)}`);
      return null;
    }
    return { backingId: id, directIo: this.#isDaemonPath(flags, writes) };
  }

  async #join(node: Node, backingId: number, flags: number, writes: boolean): Promise<Opened> {
    const { context } = this.#options;
    const { ino } = node;
    if (writes) await this.beforeChange(ino);
    const file = context.staging.get(ino);
    if (this.#ownObject(node) === null) {
      try {
        // What another node has committed is merged, or written in place.
        if (file instanceof LiveFile) await this.#mergeNews(node, file);
        else await this.#refresh(node);
      } catch (error) {
        context.report(`inode ${ino} is read through the daemon: ${describeError(error)}`);
        return { backingId, directIo: true };
      }
    }
    return { backingId, directIo: this.#isDaemonPath(flags, writes) };
  }

  async #mergeNews(node: Node, file: LiveFile): Promise<void> {
    if ((await keyOf(this.#options.context, node)) === file.baseKey) return;
    file.unsettle();
    try {
      await this.#options.flush(node.ino);
    } catch (error) {
      // Then it has the news, too.
      if (!(error instanceof KeptAsideError)) throw error;
    }
  }

  /** The kernel reads the content that is committed now. */
  async #refresh(node: Node): Promise<void> {
    const { context, whole, filler, removed } = this.#options;
    if (whole.isComplete(node.ino, await keyOf(context, node))) return;
    removed.expectReachable(node.ino);
    await filler.now(node.ino);
  }

  #isDaemonPath(flags: number, writes: boolean): boolean {
    return writes && (this.#options.mode !== 'full' || (flags & DAEMON_FLAGS) !== 0);
  }

  /** Before an inode that the kernel has open for passthrough is changed here: nothing where it has not. */
  async beforeChange(ino: number): Promise<void> {
    const { context, whole, filler, removed } = this.#options;
    if (context.staging.opens.backingOf(ino) === undefined) return;
    removed.expectReachable(ino);
    const node = await nodeOrThrow(context.view, ino);
    if (!(context.staging.get(ino) instanceof LiveFile)) {
      // Nobody changes it in place from now on; and what has no record is not known well enough to be changed.
      while (filler.isFilling(ino) || whole.records.complete(ino) === null) await filler.now(ino);
    }
    this.#makeLive(node);
  }

  #makeLive(node: Node): void {
    const { context, whole } = this.#options;
    const { ino } = node;
    const known = context.staging.get(ino);
    if (known instanceof LiveFile) {
      known.unsettle();
      context.away.staging(known, node);
      return;
    }
    if (!whole.live.has(ino)) whole.enliven(ino);
    context.away.staging(this.#adopt(ino), node);
  }

  /** After a start: files that programs were writing when the worker before this one ended. Flush them next. */
  resume(): void {
    const { whole, context, removed, bootId } = this.#options;
    for (const ino of whole.live) {
      try {
        const file = this.#adopt(ino);
        context.staging.bases.takeUp(file, file.record.bootId === bootId);
      } catch (error) {
        if (isCode(fromSystemError(error, whole.path(ino)), 'full')) throw error; // The next worker may have room.
        context.report(`what was written to inode ${ino} is lost with its file: ${describeError(error)}`);
        whole.drop(ino);
      }
    }
    const { bases, appends } = context.staging;
    for (const ino of bases.unclaimed)
      if (context.staging.opens.backingOf(ino) !== undefined && whole.records.complete(ino) === null)
        removed.noteLost(ino);
      else bases.forget(ino);
    appends.resumed();
  }

  /** After that flush: what nobody has open any more becomes complete, or is looked after. */
  lookAfter(): void {
    for (const ino of this.#options.whole.live) this.calmLater(ino);
  }

  #adopt(ino: number): LiveFile {
    const { context, whole, hasher, kernel } = this.#options;
    const base = whole.records.base(ino);
    if (base === null) throw new PenstockError('corrupt', `the record of the live file of inode ${ino} is gone`);
    const file = new LiveFile({
      ino,
      base,
      whole,
      hasher,
      appends: context.staging.appends,
      inlineBytes: context.format.inlineBytes,
      // Who has it open may write it, though the kernel has not opened the backing file for him yet.
      isQuiet: (fd) => !context.staging.opens.has(ino) && (kernel?.isQuiet(fd) ?? true),
      isCommitted: (id) => context.view.wasApplied(flushOperation(ino, id)),
      holes: (fd) => kernel?.holes(fd) ?? [],
      read: (content, from, target) => this.#options.read(content, from, target),
      nowNs: () => context.time.nowNs(),
    });
    context.staging.adopt(file);
    return file;
  }

  /** Another client changed it: who has it open by the kernel sees the news as soon as they are here. */
  changed(ino: number): void {
    const { context, whole } = this.#options;
    const file = context.staging.get(ino);
    const live = file instanceof LiveFile;
    if (!live && (context.staging.opens.backingOf(ino) === undefined || !whole.has(ino))) return;
    if (live) file.unsettle();
    const following = this.#follow(ino, live)
      .catch((error: unknown) => context.report(`inode ${ino} is not up to date here: ${describeError(error)}`))
      .finally(() => this.#following.delete(following));
    this.#following.add(following);
  }

  async #follow(ino: number, live: boolean): Promise<void> {
    const node = await this.#options.context.view.node(ino);
    if (node === null) return;
    if (live) await this.#options.flush(ino);
    else await this.#refresh(node);
  }

  /** Resolves when what was heard of until now is seen by who has it open by the kernel; undefined: it is. */
  settled(): Promise<unknown> | undefined {
    return this.#following.size === 0 ? undefined : Promise.all(this.#following);
  }

  /** News may have been missed. */
  changedAll(): void {
    for (const ino of this.#options.context.staging.opens.backed) this.changed(ino);
  }

  /** The daemon read these bytes of it. */
  wasRead(node: Node, bytes: number): void {
    const { ino, inode } = node;
    if (this.#options.mode === 'off' || (inode.flags & INODE_INLINE) !== 0 || inode.size === 0) return;
    const read = (this.#bytesRead.get(ino) ?? 0) + bytes;
    // One block is fetched whole by whoever reads a byte of it.
    const wanted = inode.size <= this.#options.context.format.blockSize ? 1 : inode.size * FILL_SHARE;
    this.#bytesRead.set(ino, read);
    if (read < wanted || read - bytes >= wanted) return;
    if (this.#ownObject(node) === null) this.#options.filler.later(ino);
  }

  /** How long an fsync of it compared what was the same. */
  fsynced(ino: number, wastedMs: number): void {
    const total = (this.#fsyncMs.get(ino) ?? 0) + wastedMs;
    this.#fsyncMs.set(ino, total);
    if (total > FSYNC_BUDGET_MS) this.#daemonOnly.set(ino, true);
  }

  /** The last handle is closed; `id` was its backing id. */
  closed(ino: number, id: number | undefined): void {
    if (id === undefined) {
      this.#bytesRead.delete(ino);
      return;
    }
    this.#options.removed.closed(ino);
    this.#options.kernel?.unregister(id);
  }

  /** When the last handle is closed, whether its flush succeeded or not. */
  calmLater(ino: number): void {
    this.#calming.begin(ino);
  }

  async close(): Promise<void> {
    this.#calming.close();
    await this.#options.filler.close();
    const live = [...this.#options.context.staging.files.values()].filter((file) => file instanceof LiveFile);
    // Else a mount after the next boot would commit again what is committed now.
    await Promise.all(live.map((file) => file.kept()));
    for (const file of live) file.close();
  }
}
