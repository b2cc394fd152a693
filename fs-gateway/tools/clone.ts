/**
 * Clones and snapshots: a tree copied as metadata (tree-copy.ts) and linked in one step. A clone is as any other tree; a snapshot is of
 * the whole volume, at `/.snapshots/NAME`, and cannot be changed.
 *
 * Invariants
 * - Nobody sees a part of one: the name comes in the last commit, and goes in the first one of its removal.
 * - `consistent` is true when nothing that was copied has changed until the copy was complete: it is the state of that instant. Otherwise
 *   each file is as of one commit, and what was renamed meanwhile may be in it twice or not at all.
 * Failure: killed in between, gc removes what was built. One that was only stopped for longer than its lease finds its session ended, and
 * links nothing (building.ts).
 */
import type { Clock } from '../../lib/clock.ts';
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { abandonedTrees, encodeBuilder, takeOver } from '../../lib/volume/building.ts';
import { INODE_FROZEN, isDirectory, S_IFDIR, S_IFMT } from '../../lib/volume/inode.ts';
import { ROOT_INO, VolumeKeys } from '../../lib/volume/keys.ts';
import type { Node } from '../meta/cache.ts';
import { VolumeView } from '../meta/view.ts';
import { assertName, writableDirectory } from '../vfs/context.ts';
import { ensureSystemDirectory, isReserved, SNAPSHOTS_NAME } from '../vfs/system-directories.ts';
import { FeedLostError, FeedWatch } from './feed-watch.ts';
import { formatOf } from './tool.ts';
import type { Progress } from './tool.ts';
import { TreeCopy } from './tree-copy.ts';
import { TreeRemoval } from './tree-remove.ts';
import { namesOf, resolveNames, resolvePath } from './volume-path.ts';

const OPEN_TO_ALL = { mode: S_IFDIR | 0o755, flags: INODE_FROZEN };
const SNAPSHOT_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

export interface CopyReport {
  readonly path: string;
  readonly inode: number;
  readonly files: number;
  readonly directories: number;
  /** Sizes of the files; no data is copied. */
  readonly bytes: number;
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
}

/** Paths are of the volume. Throws `not-found`, `exists`, `quota`, `usage`. */
export async function cloneTree(options: CloneOptions, source: string, target: string): Promise<CopyReport> {
  await formatOf(options.engine, options.volume);
  const work = new Copying(options);
  const names = namesOf(target);
  const name = names.pop();
  if (name === undefined) throw new PenstockError('usage', `'${target}' is the root of the volume`);
  assertName(name);
  const parent = await resolveNames(work.view, names, target);
  if (isReserved(parent.ino, name)) throw new PenstockError('usage', `'${target}': the name belongs to the volume`);
  return work.copy(await resolvePath(work.view, source), parent, name, target, false);
}

/** Throws `exists`, `quota`, `usage`. */
export async function createSnapshot(options: CloneOptions, name?: string): Promise<CopyReport> {
  await formatOf(options.engine, options.volume);
  const work = new Copying(options);
  const named = name ?? new Date(options.clock.nowMs()).toISOString().slice(0, 19).replaceAll(':', '-') + 'Z';
  assertSnapshotName(named);
  const root = await work.root();
  const snapshots = await ensureSystemDirectory(work.view, root, SNAPSHOTS_NAME, OPEN_TO_ALL, work.nowNs);
  return work.copy(root, snapshots, named, `/${SNAPSHOTS_NAME}/${named}`, true);
}

export async function listSnapshots({ engine, volume }: CloneOptions): Promise<Snapshot[]> {
  await formatOf(engine, volume);
  const view = VolumeView.over(engine, volume);
  const directory = await view.entry(ROOT_INO, SNAPSHOTS_NAME);
  const snapshots: Snapshot[] = [];
  for (let cursor: string | null = directory === null ? null : ''; cursor !== null && directory !== null;) {
    const page: Awaited<ReturnType<VolumeView['scan']>> = await view.scan(directory.ino, cursor, 500);
    const nodes = await view.nodes(page.entries.map(([, { ino }]) => ino));
    for (const [name, { ino }] of page.entries) {
      const node = nodes.get(ino);
      if (node === undefined) continue;
      const created = new Date(Number(node.inode.ctimeNs / 1_000_000n)).toISOString();
      snapshots.push({ name, path: `/${SNAPSHOTS_NAME}/${name}`, created });
    }
    cursor = page.cursor;
  }
  return snapshots.sort((a, b) => (a.created < b.created ? -1 : 1));
}

/** Throws `not-found`. */
export async function deleteSnapshot(options: CloneOptions, name: string): Promise<void> {
  assertSnapshotName(name);
  await formatOf(options.engine, options.volume);
  await new Copying(options).remove(name);
}

/** What clones and removals left that were killed. */
export async function removeAbandoned(options: CloneOptions): Promise<number> {
  const keys = new VolumeKeys(options.volume);
  let removed = 0;
  for (const tree of await abandonedTrees(options.engine, keys)) {
    if (!(await takeOver(options.engine, keys, tree))) continue;
    await new Copying(options).discard(tree.root);
    removed++;
  }
  return removed;
}

function assertSnapshotName(name: string): void {
  if (SNAPSHOT_NAME.test(name)) return;
  throw new PenstockError(
    'usage',
    `'${name}' is no name of a snapshot: expected 1 to 128 letters, digits, '.', '_' or '-'`,
  );
}

class Copying {
  readonly view: VolumeView;
  readonly nowNs: bigint;
  readonly #engine: MetaEngine;
  readonly #progress: Progress;

  constructor({ engine, volume, clock, progress = () => undefined }: CloneOptions) {
    this.view = VolumeView.over(engine, volume);
    this.nowNs = BigInt(Math.floor(clock.nowMs())) * 1_000_000n;
    this.#engine = engine;
    this.#progress = progress;
  }

  async root(): Promise<Node> {
    const root = await this.view.node(ROOT_INO);
    if (root === null) throw new PenstockError('corrupt', `volume '${this.view.keys.volume}' has no root`);
    return root;
  }

  async copy(source: Node, parent: Node, name: string, path: string, frozen: boolean): Promise<CopyReport> {
    const { view, nowNs } = this;
    if (!frozen) await writableDirectory(view, parent.ino);
    if ((await view.entry(parent.ino, name)) !== null) throw new PenstockError('exists', `'${path}' exists`);
    const { quota } = parent.inode;
    const sessionId = this.#engine.sessionId;
    const copy = new TreeCopy({ view, sessionId, quota, frozen, nowNs, progress: this.#progress });
    let changed = false;
    const watch = await FeedWatch.open(this.#engine, view.keys, (change) => {
      if (change.kind === 'lock' || change.kind === 'quota') return;
      changed ||= copy.has(change.kind === 'entry' ? change.parent : change.ino);
    });
    let root: number | undefined;
    try {
      root = await copy.run(source, parent.ino, (made) => (root = made));
      changed = (await this.#missed(watch)) || changed;
      await this.#link(root, parent.ino, name, path, quota);
    } catch (error) {
      // What went wrong is said; what is left of the copy, gc removes when this fails too.
      if (root !== undefined) await this.discard(root).catch(() => undefined);
      throw error;
    } finally {
      await watch.close();
    }
    const { files, directories, bytes } = copy;
    return { path, inode: root, files, directories, bytes, consistent: !changed };
  }

  /** Whether what changed until now is not known. */
  async #missed(watch: FeedWatch): Promise<boolean> {
    try {
      await watch.catchUp();
      return false;
    } catch (error) {
      if (error instanceof FeedLostError || isCode(error, 'timeout')) return true;
      throw error;
    }
  }

  async #link(root: number, parent: number, name: string, path: string, quota: number): Promise<void> {
    const { view, nowNs } = this;
    await view.change(undefined, async (change) => {
      const [directory, node] = [await view.node(parent), await view.node(root)];
      if (directory === null || directory.inode.nlink === 0) {
        throw new PenstockError('not-found', `the directory of '${path}' was removed`);
      }
      if (node === null) throw new PenstockError('corrupt', `the copy at inode ${root} is gone`);
      if (directory.inode.quota !== quota) {
        throw new PenstockError('conflict', `the quota of the directory of '${path}' was changed: clone again`);
      }
      if ((await view.entry(parent, name)) !== null) throw new PenstockError('exists', `'${path}' exists`);
      change.expectNode(directory);
      change.updateNode(node, { ...node.inode, ctimeNs: nowNs });
      change.putEntry(parent, name, null, root, (node.inode.mode & S_IFMT) >> 12);
      change.touchDirectory(parent, nowNs, isDirectory(node.inode) ? 1 : 0);
      change.write(view.keys.building(root), null);
    });
  }

  /** No name leads there from the first commit on. */
  async remove(name: string): Promise<void> {
    const { view, nowNs } = this;
    const snapshots = await view.entry(ROOT_INO, SNAPSHOTS_NAME);
    const { value: root } = await view.change(undefined, async (change) => {
      const entry = snapshots === null ? null : await view.entry(snapshots.ino, name);
      if (snapshots === null || entry === null) throw new PenstockError('not-found', `no snapshot '${name}'`);
      change.removeEntry(snapshots.ino, name, entry);
      change.touchDirectory(snapshots.ino, nowNs, -1);
      change.write(view.keys.building(entry.ino), encodeBuilder(this.#engine.sessionId));
      return entry.ino;
    });
    if (root !== undefined) await this.discard(root);
  }

  async discard(root: number): Promise<void> {
    await new TreeRemoval(this.view, this.nowNs, this.#progress).run(root);
  }
}
