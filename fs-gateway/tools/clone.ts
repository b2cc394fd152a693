/**
 * Clones and snapshots: a tree copied as metadata (tree-copy.ts) and linked in one step. A clone is as any other tree; a snapshot is of
 * the whole volume, at `/.snapshots/NAME`, and cannot be changed.
 *
 * Invariants
 * - {v}c <root ino> (building.ts) says whose work a tree is, from before its beginning. It is made only while the volume has its format: who removes
 *   the volume takes that away first, and then looks for the work of others.
 * - Nobody sees a part of one: the name comes in the last commit, and goes in the first one of its removal.
 * - `consistent` is true when the copy is as of one instant, at which it had begun already: so it is but for INSTANTS_TRIED lost ones, or where the
 *   engine gives none. Then each file is as of one commit, and what was renamed meanwhile may be in it twice or not at all.
 * Failure: killed in between, gc removes what was built. One that was only stopped for longer than its lease finds its session ended, and
 * links nothing (building.ts).
 */
import type { Clock } from '../../lib/clock.ts';
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, Write } from '../../lib/meta/engine.ts';
import { InstantLostError } from '../../lib/meta/instant-lost.ts';
import { encodeBuilder, takeOver, treesIn } from '../../lib/volume/building.ts';
import { DT_DIR, dentryType } from '../../lib/volume/dentry.ts';
import { INODE_FROZEN, isDirectory, S_IFDIR } from '../../lib/volume/inode.ts';
import { ROOT_INO, VolumeKeys } from '../../lib/volume/keys.ts';
import { encodeQuota } from '../../lib/volume/quota.ts';
import type { Node } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { EntryPage } from '../meta/directory-pages.ts';
import { VolumeView } from '../meta/view.ts';
import { assertName, writableDirectory } from '../vfs/context.ts';
import { ensureSystemDirectory, isReservedIn, SNAPSHOTS_NAME } from '../vfs/system-directories.ts';
import { formatOf } from './tool.ts';
import type { Progress } from './tool.ts';
import { TreeCopy } from './tree-copy.ts';
import { TreeRemoval } from './tree-remove.ts';
import { TreeSource } from './tree-source.ts';
import { namesOf, resolveNames, resolvePath } from './volume-path.ts';

const OPEN_TO_ALL = { mode: S_IFDIR | 0o755, flags: INODE_FROZEN };
/** It was not made, and will not be. */
const LINK_REFUSED = ['exists', 'conflict', 'not-found'] as const;
/** So often an instant may be lost before a copy does without. */
const INSTANTS_TRIED = 2;
const SNAPSHOT_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

export interface CopyReport {
  readonly path: string;
  readonly inode: number;
  readonly files: number;
  readonly directories: number;
  /** Sizes of the files; no data is copied. */
  readonly bytes: number;
  /** As of one instant. */
  readonly consistent: boolean;
}

export interface Snapshot {
  readonly name: string;
  readonly path: string;
  readonly created: string;
}

export interface CloneOptions {
  readonly engine: MetaEngine;
  readonly volume: string;
  readonly clock: Clock;
  readonly progress?: Progress;
  /** What becomes true in the same commit as a copy. */
  readonly alongside?: (report: CopyReport) => Write;
}

/** Paths are of the volume. Throws `not-found`, `exists`, `quota`, `usage`. */
export async function cloneTree(options: CloneOptions, source: string, target: string): Promise<CopyReport> {
  const work = await TreeWork.open(options);
  const place = await newPlace(work.view, target);
  return work.copy(await resolvePath(work.view, source), place);
}

/** Where a tree is to be linked that can be changed. Throws `not-found` for its directory, `usage`. */
export async function newPlace(view: VolumeView, path: string): Promise<CopyTarget> {
  const names = namesOf(path);
  const name = names.pop();
  if (name === undefined) throw new PenstockError('usage', `'${path}' is the root of the volume`);
  assertName(name);
  const parent = await resolveNames(view, names, path);
  if (await isReservedIn(view, parent.ino, name)) {
    throw new PenstockError('usage', `'${path}': the name belongs to the volume`);
  }
  return { parent, name, path, frozen: false };
}

/** Throws `exists`, `quota`, `usage`. */
export async function createSnapshot(options: CloneOptions, name?: string): Promise<CopyReport> {
  const work = await TreeWork.open(options);
  const named = name ?? new Date(options.clock.nowMs()).toISOString().slice(0, 19).replaceAll(':', '-') + 'Z';
  assertSnapshotName(named);
  const root = await work.root();
  const snapshots = await ensureSystemDirectory(work.view, root, SNAPSHOTS_NAME, OPEN_TO_ALL, work.nowNs);
  const path = `/${SNAPSHOTS_NAME}/${named}`;
  return work.copy(root, { parent: snapshots, name: named, path, frozen: true });
}

export async function listSnapshots({ engine, volume }: CloneOptions): Promise<Snapshot[]> {
  await formatOf(engine, volume);
  const view = VolumeView.over(engine, volume);
  const directory = await view.entry(ROOT_INO, SNAPSHOTS_NAME);
  const found = directory === null ? [] : await snapshotsIn(view, directory.ino);
  return found.map(({ name, created }) => ({ name, path: `/${SNAPSHOTS_NAME}/${name}`, created }));
}

/** The trees of a directory of snapshots, the oldest first. */
export async function snapshotsIn(view: VolumeView, directory: number): Promise<Omit<Snapshot, 'path'>[]> {
  const snapshots: Omit<Snapshot, 'path'>[] = [];
  for (let cursor: string | null = ''; cursor !== null;) {
    const page: EntryPage = await view.directories.scan(directory, cursor, 500);
    const nodes = await view.nodes(page.entries.map(([, { ino }]) => ino));
    for (const [name, { ino }] of page.entries) {
      const node = nodes.get(ino);
      if (node === undefined) continue;
      const created = new Date(Number(node.inode.ctimeNs / 1_000_000n)).toISOString();
      snapshots.push({ name, created });
    }
    cursor = page.cursor;
  }
  return snapshots.sort((a, b) => (a.created < b.created ? -1 : 1));
}

/** Throws `not-found`. */
export async function deleteSnapshot(options: CloneOptions, name: string): Promise<void> {
  assertSnapshotName(name);
  const work = await TreeWork.open(options);
  const root = await work.unlink(await work.view.entry(ROOT_INO, SNAPSHOTS_NAME), name);
  if (root === undefined) throw new PenstockError('not-found', `no snapshot '${name}'`);
  await work.discard(root);
}

/** What clones and removals left that were killed. */
export async function removeAbandoned(options: CloneOptions): Promise<number> {
  const keys = new VolumeKeys(options.volume);
  const { abandoned } = await treesIn(options.engine, keys);
  let removed = 0;
  for (const tree of abandoned) {
    if (!(await takeOver(options.engine, keys, tree))) continue;
    await (await TreeWork.open(options)).discard(tree.root);
    removed++;
  }
  return removed;
}

/** The change is made only while there is such a volume. */
export async function expectFormat(view: VolumeView, change: Change): Promise<void> {
  const { formatKey, volume } = view.keys;
  const [format] = await view.read([formatKey]);
  if (format === null || format === undefined) throw new PenstockError('not-found', `there is no volume '${volume}'`);
  change.expectOther(formatKey, format.version);
}

function assertSnapshotName(name: string): void {
  if (SNAPSHOT_NAME.test(name)) return;
  throw new PenstockError(
    'usage',
    `'${name}' is no name of a snapshot: expected 1 to 128 letters, digits, '.', '_' or '-'`,
  );
}

function noInstant(path: string, cause: PenstockError): PenstockError {
  const text = `'${path}' is not made, as it would not be of one instant: ${cause.message}`;
  return new PenstockError('unavailable', text, { cause });
}

interface CopyTarget {
  readonly parent: Node;
  readonly name: string;
  /** For messages. */
  readonly path: string;
  readonly frozen: boolean;
  /** Rather none than one that is not. */
  readonly ofOneInstant?: boolean;
  /** A quota of its own with this limit (null: none), which counts to none above it. */
  readonly quota?: { readonly bytesMax: number | null };
}

type Copied = Omit<CopyReport, 'path' | 'inode'>;
type Built<T> = T & { readonly path: string; readonly inode: number };

/** Trees that come and go as a whole. */
export class TreeWork {
  readonly view: VolumeView;
  readonly nowNs: bigint;
  readonly #engine: MetaEngine;
  readonly #progress: Progress;
  readonly #alongside: CloneOptions['alongside'];

  private constructor({ engine, volume, clock, progress = () => undefined, alongside }: CloneOptions) {
    this.view = VolumeView.over(engine, volume);
    this.nowNs = BigInt(Math.floor(clock.nowMs())) * 1_000_000n;
    this.#engine = engine;
    this.#progress = progress;
    this.#alongside = alongside;
  }

  /** Throws `not-found` when there is no such volume. */
  static async open(options: CloneOptions): Promise<TreeWork> {
    await formatOf(options.engine, options.volume);
    return new TreeWork(options);
  }

  async root(): Promise<Node> {
    const root = await this.view.node(ROOT_INO);
    if (root === null) throw new PenstockError('corrupt', `volume '${this.view.keys.volume}' has no root`);
    return root;
  }

  /** Throws `exists`, `quota`; with `ofOneInstant` also `unavailable`. */
  async copy(source: Node, target: CopyTarget): Promise<CopyReport> {
    for (let attempt = 1; ; attempt++) {
      try {
        const fill = (root: number, quota: number): Promise<Copied> =>
          this.#fill(source, target, root, quota, attempt <= INSTANTS_TRIED);
        return await this.build(target, fill, this.#alongside);
      } catch (error) {
        // Too much was changed meanwhile. The last try needs no instant.
        if (!(error instanceof InstantLostError) || attempt > INSTANTS_TRIED) throw error;
        if (target.ofOneInstant === true && attempt === INSTANTS_TRIED) throw noInstant(target.path, error);
      }
    }
  }

  /** As of one instant where the engine gives one. */
  async #sourceOf({ path, ofOneInstant = false }: CopyTarget): Promise<TreeSource> {
    try {
      return await TreeSource.open(this.#engine, this.view.keys);
    } catch (error) {
      if (!isCode(error, 'unsupported', 'held')) throw error;
      if (ofOneInstant) throw noInstant(path, error);
      return TreeSource.live(this.#engine, this.view.keys);
    }
  }

  /** Behind the record that says that it is under way: from there on gc waits for it. */
  async #fill(source: Node, target: CopyTarget, root: number, quota: number, still: boolean): Promise<Copied> {
    const { view, nowNs } = this;
    const { parent, frozen } = target;
    const from = still ? await this.#sourceOf(target) : TreeSource.live(this.#engine, view.keys);
    try {
      const copy = new TreeCopy({ view, source: from, quota, frozen, nowNs, progress: this.#progress });
      await copy.run(source.ino, parent.ino, root);
      const { files, directories, bytes } = copy;
      return { files, directories, bytes, consistent: from.consistent };
    } finally {
      await from.close();
    }
  }

  /**
   * What `fill` makes below the new number `root`, to count to `quota`, is linked when it is complete.
   * Throws `exists`, `quota`, and what `fill` throws.
   */
  async build<T>(
    target: CopyTarget,
    fill: (root: number, quota: number) => Promise<T>,
    alongside?: (made: Built<T>) => Write,
  ): Promise<Built<T>> {
    const { view } = this;
    const { parent, name, path, frozen } = target;
    if (!frozen) await writableDirectory(view, parent.ino);
    if ((await view.entry(parent.ino, name)) !== null) throw new PenstockError('exists', `'${path}' exists`);
    const root = await view.newId('ino');
    await this.#begin(root, target.quota);
    let linking = false;
    try {
      const made = await fill(root, target.quota === undefined ? parent.inode.quota : root);
      const built = { path, inode: root, ...made };
      linking = true;
      await this.#link(root, target, parent.inode.quota, alongside?.(built));
      return built;
    } catch (error) {
      // A link whose answer was lost may have been made, or be made yet: gc knows when our session is over. It also removes what is left when this fails.
      const linked = linking && !LINK_REFUSED.some((code) => isCode(error, code));
      if (!linked) await this.discard(root).catch(() => undefined);
      throw error;
    }
  }

  /** From now on the tree with this root is our work. */
  async #begin(root: number, quota: CopyTarget['quota']): Promise<void> {
    await this.view.change(undefined, async (change) => {
      await this.#mark(change, root);
      if (quota === undefined) return;
      const { bytesMax } = quota;
      const record = encodeQuota({ outer: 0, bytesMax, inodesMax: null, counting: false });
      change.write(this.view.keys.quota(root), record);
    });
  }

  async #mark(change: Change, root: number): Promise<void> {
    await expectFormat(this.view, change);
    change.write(this.view.keys.building(root), encodeBuilder(this.#engine.sessionId));
  }

  /** `around` is the quota that the directory had when the copy began. */
  async #link(
    root: number,
    { parent: { ino: parent }, name, path }: CopyTarget,
    around: number,
    beside: Write | undefined,
  ): Promise<void> {
    const { view, nowNs } = this;
    await view.change(undefined, async (change) => {
      const [directory, node] = [await view.node(parent), await view.node(root)];
      if (directory === null || directory.inode.nlink === 0) {
        throw new PenstockError('not-found', `the directory of '${path}' was removed`);
      }
      if (node === null) throw new PenstockError('corrupt', `the copy at inode ${root} is gone`);
      if (directory.inode.quota !== around) {
        throw new PenstockError('conflict', `the quota of the directory of '${path}' was changed: clone again`);
      }
      const entry = await view.entry(parent, name);
      // Ours, by a commit whose answer was lost.
      if (entry?.ino === root) return;
      if (entry !== null) throw new PenstockError('exists', `'${path}' exists`);
      change.expectNode(directory);
      change.updateNode(node, { ...node.inode, ctimeNs: nowNs });
      change.putEntry(parent, name, null, root, dentryType(node.inode.mode));
      change.touchDirectory(parent, nowNs, isDirectory(node.inode) ? 1 : 0);
      change.write(view.keys.building(root), null);
      if (beside !== undefined) change.write(beside.key, beside.value);
    });
  }

  /** No name leads there any more: discard it, or link it again. Undefined when there is no such name. */
  async unlink(directory: { readonly ino: number } | null, name: string): Promise<number | undefined> {
    const { view, nowNs } = this;
    if (directory === null) return undefined;
    let root: number | undefined;
    await view.change(undefined, async (change) => {
      const entry = await view.entry(directory.ino, name);
      if (entry === null) {
        // Gone already: by a commit of ours whose answer was lost, or by somebody else, who discards it.
        if (root !== undefined && !(await this.#isOurs(root))) root = undefined;
        return;
      }
      root = entry.ino;
      change.removeEntry(directory.ino, name, entry);
      change.touchDirectory(directory.ino, nowNs, -1);
      await this.#mark(change, entry.ino);
    });
    return root;
  }

  async #isOurs(root: number): Promise<boolean> {
    const [record] = await this.view.read([this.view.keys.building(root)]);
    return record?.value.equals(encodeBuilder(this.#engine.sessionId)) === true;
  }

  async relink(directory: { readonly ino: number }, name: string, root: number): Promise<void> {
    const { view, nowNs } = this;
    await view.change(undefined, async (change) => {
      if ((await view.entry(directory.ino, name)) !== null) return;
      change.putEntry(directory.ino, name, null, root, DT_DIR);
      change.touchDirectory(directory.ino, nowNs, 1);
      change.write(view.keys.building(root), null);
    });
  }

  async discard(root: number): Promise<void> {
    await new TreeRemoval(this.view, this.nowNs, this.#progress).run(root);
  }
}
