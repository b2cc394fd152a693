/**
 * Commits what is staged of a file: small content into the metadata, larger as objects and extents.
 *
 * Invariants
 * - Objects are durable before a commit refers to them. A flush commits exactly the ranges that were written here: what another node
 *   committed to other bytes meanwhile stays, because a failed compare starts again from its extents.
 * - Where unwritten bytes were read to be written again (a file that leaves the metadata, a block with too many fragments), the commit
 *   holds only for the version that they were read from.
 * - What was appended goes behind the end of the file as it is at the commit (append.ts), once: the commit carries an id, and so does one of what was
 *   promised. The journal has the id before, over a power cut too where the bytes would be there.
 * Failure: until the commit the old content stands; the staged bytes are kept and flushed again. A flush whose answer was lost is settled before the next
 * one begins: as committed, or as failed. Uploaded objects that no commit
 * refers to are garbage for gc. What would write over changes of others after a long absence is kept aside (away.ts).
 * Limits: EXTENTS_INLINE extents in the inode, then pages; FRAGMENTS_MAX extents in a block, then it is written whole.
 */
import { open } from 'node:fs/promises';
import { describeError, PenstockError } from '../../lib/errors.ts';
import type { Version } from '../../lib/meta/engine.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { extentsWithin } from '../../lib/volume/extents.ts';
import { INODE_INLINE, INODE_PAGED } from '../../lib/volume/inode.ts';
import { KeptAsideError } from '../data/kept-aside.ts';
import { LiveFile } from '../data/live-file.ts';
import { gaps, mergeExtents, withoutExtents } from '../data/merge-extents.ts';
import { Overlay } from '../data/overlay.ts';
import type { Range } from '../data/overlay.ts';
import { StagedDamageError } from '../data/segment-file.ts';
import type { Flush, StagedFile } from '../data/staged-file.ts';
import type { Uploader } from '../data/uploader.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import { flushOperation, layOver, operationOf, placeFlush } from './append.ts';
import type { PlacedFlush } from './append.ts';
import { contentOf, keyOf, knownKey } from './content-of.ts';
import type { Context } from './context.ts';
import { PageCommits, sizeAfter } from './page-commits.ts';
import type { FlushPart } from './page-commits.ts';

export const EXTENTS_INLINE = 64;
const FRAGMENTS_MAX = 32;
/** Also how often in a row another mount may append while this one uploads. */
const RESTARTS_MAX = 64;

const EMPTY = Buffer.alloc(0);
const COMPARED_BYTES = 2 ** 20;

type Outcome = 'committed' | 'moved' | 'repeated' | 'gone' | 'over' | 'restart';

export class Flusher {
  readonly #context: Context;
  readonly #uploader: Uploader;
  readonly #pages: PageCommits;

  constructor(context: Context, uploader: Uploader) {
    this.#context = context;
    this.#uploader = uploader;
    this.#pages = new PageCommits(context, (change, node, flush, size) =>
      this.#commitAttributes(change, node, flush, size, node.inode.flags, []),
    );
  }

  /**
   * Commits all that is staged at the call. One flush per file at a time. True when appended bytes went elsewhere than staged. Throws `io` once, when
   * it was kept aside instead (away.ts), or because the local disk has other bytes than were staged.
   */
  async flush(file: StagedFile): Promise<boolean> {
    const { staging, time, away, view } = this.#context;
    if (file.isUnsettled && (await this.#settle(file))) return true;
    const keptUp = staging.keepUp();
    if (keptUp !== undefined) await keptUp;
    if (file.promiseAgain) await staging.sync(file, time.nowNs()).catch(() => undefined); // As staging.syncFlush.
    const flush = staging.beginFlush(file, time.nowNs());
    let aside: string | undefined;
    let removed = false;
    try {
      for (let attempt = 0; aside === undefined; attempt++) {
        if (attempt === RESTARTS_MAX) {
          throw new PenstockError('conflict', `inode ${file.ino} was changed elsewhere during ${RESTARTS_MAX} flushes`);
        }
        if (file instanceof LiveFile) await this.#confirmSession(file);
        const node = await view.node(file.ino);
        removed = node === null || node.inode.nlink === 0;
        if (file instanceof LiveFile && away.was(file)) {
          aside = await this.#yieldWhereMet(file, node);
          if (aside !== undefined) continue;
        }
        const outcome = away.writesOver(file, flush, node)
          ? await this.#over(file, flush, node)
          : await this.#attempt(file, flush, node);
        // It went a moment ago: of a live file it is yet to be asked whether this node was away.
        if (outcome === 'restart' || (outcome === 'gone' && file.selfKept && node !== null)) continue;
        if (outcome === 'over' || (outcome === 'gone' && away.writesOver(file, flush, null))) {
          aside = (await this.#keepAside(file, flush, outcome === 'gone' ? null : node)).told;
          continue;
        }
        if (outcome === 'gone') {
          this.#context.report(`inode ${file.ino} was removed with ${file.stagedBytes} staged bytes`);
          this.#gone(file, flush);
        } else this.#committed(file, flush);
        return outcome === 'moved' || outcome === 'repeated';
      }
    } catch (error) {
      if (error instanceof StagedDamageError) aside = await this.#keepDamaged(file, flush, error);
      const { ino, sentId } = file;
      if (aside === undefined) {
        if (sentId !== undefined && view.mayBeApplied(flushOperation(ino, sentId))) staging.unsettledFlush(file, flush);
        else staging.failedFlush(file, flush);
        throw error;
      }
    }
    if (file.selfKept && removed) this.#gone(file, flush);
    else this.#committed(file, flush);
    if (staging.opens.has(file.ino)) this.#context.handles.lost(file.ino, aside);
    // The kernel's pages have what was written here.
    view.announceStale(file.ino);
    throw new KeptAsideError(aside);
  }

  #gone(file: StagedFile, flush: Flush): void {
    const { staging, time } = this.#context;
    staging.failedFlush(file, flush); // It reads no more.
    staging.drop(file, time.nowNs());
  }

  /** What became of the flush before, whose answer was lost. True when it was committed: appended bytes may be elsewhere. */
  async #settle(file: StagedFile): Promise<boolean> {
    const { staging, view } = this.#context;
    const { ino, sentId, flush } = file;
    const isMade = sentId !== undefined && (await view.outcome(flushOperation(ino, sentId))) !== undefined;
    if (flush === undefined) {
      file.isUnsettled = false;
      return false;
    }
    if (!isMade) {
      staging.failedFlush(file, flush);
      return false;
    }
    // What is staged behind it is staged upon this version.
    await view.node(ino);
    this.#committed(file, flush);
    return true;
  }

  #committed(file: StagedFile, flush: Flush): void {
    const { staging, time, away, view } = this.#context;
    staging.committed(file, flush, time.nowNs());
    away.settled(file, view.cachedNode(file.ino));
  }

  /** An answer that was lost with the absence: what seems to be of others is the commit that was made of this. */
  async #over(file: StagedFile, flush: Flush, node: Node | null): Promise<Outcome> {
    const { overlay, size, sizeSet, append } = flush;
    if (node === null || node.inode.size < size || (sizeSet && node.inode.size > size)) return 'over';
    // The same line may be in a log twice: it does not tell whose it is.
    if (append !== undefined && append.from < size) return 'over';
    for (const { start, end, kind } of overlay.within(0, size)) {
      for (let at = start; at < end; at += COMPARED_BYTES) {
        const there = Buffer.alloc(Math.min(COMPARED_BYTES, end - at));
        const written = Buffer.alloc(there.length);
        await this.readCommitted(node, at, there);
        if (kind === 'data') file.load(at, written, 0, written.length);
        if (!there.equals(written)) return 'over';
      }
    }
    return 'committed';
  }

  /** Before a live file takes over what others have committed: it may not have noticed yet that it was away. */
  async #confirmSession(file: LiveFile): Promise<void> {
    const { away, view } = this.#context;
    if (!away.mayHaveBeen(file) || away.was(file)) return;
    const node = await view.node(file.ino);
    if (node === null || (await keyOf(this.#context, node)) !== file.baseKey) await view.confirmSession();
  }

  /** Of a live file: what to tell where it met what others have committed; undefined: it did not. */
  async #yieldWhereMet(file: LiveFile, node: Node | null): Promise<string | undefined> {
    const committed = node === null || node.inode.nlink === 0 ? null : await contentOf(this.#context, node);
    const met = await file.meets(committed, this.#context.away.lastContent(file));
    if (met === null) return undefined;
    const { told, path } = await this.#keepAside(file, met, node);
    if (committed !== null) {
      const aside = await open(path, 'r');
      try {
        await file.yieldTo(committed, met, aside.fd);
      } finally {
        await aside.close();
      }
    }
    return told;
  }

  /** Where it is kept, and what to tell of it. */
  async #keepAside(
    file: StagedFile,
    flush: Pick<Flush, 'overlay' | 'size'>,
    node: Node | null,
  ): Promise<{ readonly path: string; readonly told: string }> {
    const path = await this.#keep(file, flush);
    const what = node === null || node.inode.nlink === 0 ? 'removed' : 'changed';
    const told = `inode ${file.ino} was ${what} elsewhere while this node was away: what was written to it here is kept in ${path}, and not in the volume`;
    return { path, told };
  }

  /**
   * What to tell; undefined: it cannot be kept, and is tried again. Of what was written nothing is committed: a part of it would be a content that nobody has written.
   */
  async #keepDamaged(file: StagedFile, flush: Flush, damage: StagedDamageError): Promise<string | undefined> {
    try {
      const path = await this.#keep(file, flush);
      return `${damage.message}. What was written to it and not committed is kept in ${path}, and not in the volume: write it anew`;
    } catch (error) {
      this.#context.report(`what is damaged of inode ${file.ino} stays staged: ${describeError(error)}`);
      return undefined;
    }
  }

  #keep(file: StagedFile, { overlay, size }: Pick<Flush, 'overlay' | 'size'>): Promise<string> {
    const { keptAside, time } = this.#context;
    return keptAside.keep(file, size, overlay.ranges, Number(time.nowNs() / 1_000_000n));
  }

  async #attempt(file: StagedFile, flush: Flush, node: Node | null): Promise<Outcome> {
    if (node === null) return 'gone';
    if (!(file instanceof LiveFile)) return this.#commit(file, flush, node);
    const change = await file.compare(await contentOf(this.#context, node));
    if (change === null) return 'committed';
    if (change.append !== undefined && file.promised) await this.#context.staging.syncFlush();
    return this.#commit(file, { ...flush, ...change }, node);
  }

  async #commit(file: StagedFile, flush: Flush, node: Node): Promise<Outcome> {
    const placed = placeFlush(flush, node.inode.size);
    const small = sizeAfter(node, placed) <= this.#context.format.inlineBytes && (node.inode.flags & INODE_PAGED) === 0;
    return small ? this.#commitInline(file, flush, node) : this.#commitExtents(file, placed, flush, node);
  }

  async #commitInline(file: StagedFile, staged: Flush, seen: Node): Promise<Outcome> {
    const { view, content } = this.#context;
    let shift = 0;
    let bytes = EMPTY;
    const { value, repeated } = await view.change(operationOf(file, staged), async (change): Promise<Outcome> => {
      const node = await view.node(file.ino);
      if (node === null) return 'gone';
      const flush = placeFlush(staged, node.inode.size);
      shift = flush.shift;
      const size = sizeAfter(node, flush);
      if (size > this.#context.format.inlineBytes || (node.inode.flags & INODE_PAGED) !== 0) return 'restart';
      if (staged.whole && node.version !== seen.version) return 'restart';
      if (this.#context.away.writesOver(file, staged, node)) return 'restart';
      bytes = Buffer.alloc(size);
      if (gaps(flush.overlay.ranges, 0, Math.min(size, node.inode.size)).length > 0)
        await this.readCommitted(node, 0, bytes);
      await layOver(file, flush, 0, bytes);
      if (file instanceof LiveFile) file.committingInline(bytes);
      const key = view.keys.inlineData(file.ino);
      const had = (node.inode.flags & INODE_INLINE) !== 0;
      if (size > 0) change.write(key, bytes);
      else if (had) change.write(key, null);
      const flags = size > 0 ? node.inode.flags | INODE_INLINE : node.inode.flags & ~INODE_INLINE;
      await this.#commitAttributes(change, node, flush, size, flags, []);
      return 'committed';
    });
    const outcome = value ?? repeatedFlush(repeated);
    if (outcome !== 'committed' && outcome !== 'repeated') return outcome;
    if (file instanceof LiveFile) file.committed();
    if (outcome === 'repeated') return outcome;
    const committed = view.cachedNode(file.ino);
    if (committed !== undefined && bytes.length > 0) content.keepInline(committed, bytes);
    return shift === 0 ? 'committed' : 'moved';
  }

  async #commitExtents(file: StagedFile, flush: PlacedFlush, staged: Flush, seen: Node): Promise<Outcome> {
    const { view, away } = this.#context;
    const plan = await this.#planUpload(flush, seen);
    const early = await file.earlyExtents(plan.overlay);
    const late = await this.#uploader.upload(
      withoutExtents(plan.overlay.ranges, early),
      async (offset, target) => {
        // Only what has to be written again with the rest; the base is then the one that the commit insists on.
        if (!flush.overlay.covers(offset, offset + target.length)) await this.readCommitted(seen, offset, target);
        await layOver(file, flush, offset, target);
      },
      file.selfKept,
    );
    const uploaded = [...early, ...late].sort((a, b) => a.fileOffset - b.fileOffset);
    await this.#pages.cutFar(file, flush);
    const parts = await this.#pages.parts(seen, flush, plan.overlay.ranges, uploaded);
    if (file instanceof LiveFile) file.committingExtents(plan.overlay.ranges, uploaded);
    let outcome: Outcome = flush.shift > 0 ? 'moved' : 'committed';
    let base: Version | undefined = parts.length === 1 ? seen.version : view.cachedNode(file.ino)?.version;
    for (const part of parts) {
      const operation = part.last ? operationOf(file, staged) : undefined;
      const { value, repeated } = await view.change(operation, async (change): Promise<Outcome> => {
        const node = await view.node(file.ino);
        if (node === null) return 'gone';
        if (placeFlush(staged, node.inode.size).shift !== flush.shift) return 'restart';
        if (away.writesOver(file, staged, node)) return 'restart';
        if (plan.rewritesCommitted && node.version !== base) return 'restart';
        const inline = (node.inode.flags & INODE_INLINE) !== 0;
        if (inline && !plan.rewritesCommitted) return 'restart';
        return this.#putExtents(change, node, part);
      });
      if (value === undefined) outcome = repeatedFlush(repeated);
      else if (value !== 'committed') return value;
      base = view.cachedNode(file.ino)?.version;
      // The next part goes on top of our own.
      if (!part.last) away.settled(file, view.cachedNode(file.ino));
    }
    if (file instanceof LiveFile) file.committed();
    return outcome;
  }

  /** Which ranges to upload: those written, and what has to be written again with them. */
  async #planUpload(
    flush: Flush,
    node: Node,
  ): Promise<{ readonly overlay: Overlay; readonly rewritesCommitted: boolean }> {
    const overlay = new Overlay();
    overlay.add(flush.overlay);
    const size = sizeAfter(node, flush);
    if ((node.inode.flags & INODE_INLINE) !== 0) {
      for (const gap of gaps(flush.overlay.ranges, 0, Math.min(node.inode.size, size)))
        overlay.set(gap.start, gap.end, 'data');
      return { overlay, rewritesCommitted: true };
    }
    const { blockSize } = this.#context.format;
    let rewritesCommitted = flush.whole;
    const perBlock = new Map<number, number>();
    for (const { start, end } of flush.overlay.ranges) {
      // What is between its first and its last block it covers whole.
      const blocks = new Set([Math.floor(start / blockSize), Math.floor((end - 1) / blockSize)]);
      for (const block of blocks) perBlock.set(block, (perBlock.get(block) ?? 0) + 1);
    }
    for (const [block, count] of perBlock) {
      const start = block * blockSize;
      const end = Math.min(start + blockSize, size);
      if (start >= end || overlay.covers(start, end)) continue;
      const extents = await this.#context.content.extents(node, start, end);
      if (count * 2 + extentsWithin(extents, start, end).length <= FRAGMENTS_MAX) continue;
      overlay.set(start, end, 'data');
      rewritesCommitted = true;
    }
    return { overlay, rewritesCommitted };
  }

  async #putExtents(change: Change, node: Node, { flush, ranges, uploaded }: FlushPart): Promise<Outcome> {
    const { view } = this.#context;
    const { inode, ino } = node;
    const size = sizeAfter(node, flush);
    if ((inode.flags & INODE_INLINE) !== 0) change.write(view.keys.inlineData(ino), null);
    const flags = inode.flags & ~INODE_INLINE;
    if ((inode.flags & INODE_PAGED) === 0) {
      const extents = mergeExtents(inode.extents, ranges, uploaded, size);
      const paged = extents.length > EXTENTS_INLINE;
      if (paged) this.#pages.begin(change, ino, extents);
      await this.#commitAttributes(
        change,
        node,
        flush,
        size,
        paged ? flags | INODE_PAGED : flags,
        paged ? [] : extents,
      );
      return 'committed';
    }
    if (!(await this.#pages.put(change, node, { flush, ranges, uploaded }, size))) return 'restart';
    await this.#commitAttributes(change, node, flush, size, flags, []);
    return 'committed';
  }

  async #commitAttributes(
    change: Change,
    node: Node,
    flush: Flush,
    size: number,
    flags: number,
    extents: readonly Extent[],
  ): Promise<void> {
    const { ino, inode } = node;
    const mtimeKept = this.#context.staging.get(ino)?.mtimesKept !== flush.mtimesKept;
    change.updateNode(node, {
      ...inode,
      flags,
      size,
      extents,
      mtimeNs: mtimeKept ? inode.mtimeNs : (flush.mtimeNs ?? inode.mtimeNs),
      ctimeNs: flush.ctimeNs > inode.ctimeNs ? flush.ctimeNs : inode.ctimeNs,
    });
    change.count(0, size - inode.size, await this.#context.view.quotas.account(inode.quota));
  }

  /** Where the file has bytes (not holes) from `from` on, in order. */
  async dataRanges(node: Node, staged: StagedFile | undefined, from: number, size: number): Promise<readonly Range[]> {
    const layers = new Overlay();
    if ((node.inode.flags & INODE_INLINE) !== 0) layers.set(0, node.inode.size, 'data');
    for (const extent of await this.#context.content.extents(node, from, size)) {
      layers.set(extent.fileOffset, extent.fileOffset + extent.length, 'data');
    }
    if (staged?.flushing !== undefined) layers.add(staged.flushing);
    if (staged !== undefined) layers.add(staged.active);
    return layers.within(0, size).filter((range) => range.kind === 'data');
  }

  /**
   * For a read of committed content without a copy: the bytes [from, to), true until the next turn of the event loop; a promise of what has to come
   * first; undefined: `readCommitted` is the way.
   */
  lookCommitted(node: Node, from: number, to: number): Buffer | Promise<unknown> | undefined {
    const { content, reader, whole } = this.#context;
    const extents = content.extents(node, from, to);
    if (extents instanceof Promise || extents.length === 0) return undefined;
    const view = reader.view(extents, from, to);
    if (view !== null) return view;
    const key = knownKey(node);
    return key !== undefined && whole.isComplete(node.ino, key) ? undefined : reader.bring(extents, from, to);
  }

  /** The committed content from `from` on; zeros where there is none. */
  readCommitted(node: Node, from: number, target: Buffer): void | Promise<void> {
    const { content, reader, whole } = this.#context;
    const key = knownKey(node);
    if (key !== undefined && whole.readSync(node.ino, key, from, target)) return;
    if ((node.inode.flags & INODE_INLINE) !== 0) {
      const bytes = content.inline(node);
      if (bytes instanceof Promise) return bytes.then((read) => fillFrom(read, from, target));
      fillFrom(bytes, from, target);
      return;
    }
    const extents = content.extents(node, from, from + target.length);
    return extents instanceof Promise
      ? extents.then((list) => reader.read(list, from, target))
      : reader.read(extents, from, target);
  }
}

function fillFrom(bytes: Buffer, from: number, target: Buffer): void {
  const copied = from < bytes.length ? bytes.copy(target, 0, from) : 0;
  if (copied < target.length) target.fill(0, copied);
}

/** The commit was made and its answer lost. */
function repeatedFlush(repeated: number | undefined): Outcome {
  if (repeated === undefined) throw new Error('a plan that was carried out has a value');
  return 'repeated';
}
