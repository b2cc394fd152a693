/**
 * Sets and shows quotas (lib/volume/quota.ts, fs-gateway/meta/quotas.ts).
 *
 * A directory that gets a quota becomes a quota root first: from that commit on, what is made in it counts to it. Then what was there is
 * counted from the top down, each inode in the commit that makes it count, so the usage is exact at every moment, whatever others do
 * meanwhile. The limit is enforced when all is counted.
 * What a quota counts to is known only once it is counted itself: until then none is begun below it, and none around it ends (`conflict`).
 * Failure: killed in between, the quota stays marked as being counted and enforces nothing; the same command goes on.
 * Limits: PORTION inodes in one commit. Until all is counted a rename of a directory from what is not counted into what is gives EXDEV.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { encodeChanges } from '../../lib/volume/feed.ts';
import { countedBytes, INODE_LISTING, isDirectory } from '../../lib/volume/inode.ts';
import { ROOT_INO, VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeQuota, encodeQuota } from '../../lib/volume/quota.ts';
import type { Quota } from '../../lib/volume/quota.ts';
import { scanBucket } from '../../lib/volume/references.ts';
import type { CachedEntry } from '../meta/cache.ts';
import type { Change } from '../meta/change.ts';
import type { Account } from '../meta/quotas.ts';
import type { EntryPage } from '../meta/directory-pages.ts';
import { VolumeView } from '../meta/view.ts';
import type { Progress } from './tool.ts';
import { LAKE_NAME } from '../vfs/system-directories.ts';
import { namesOf, DirectoryPaths, resolvePath } from './volume-path.ts';

const PORTION = 64;
const SCAN_PAGE = 500;
/** Each failed one means that something was written in the inner quota meanwhile. */
const ADOPT_ATTEMPTS_MAX = 1000;

export interface QuotaReport {
  readonly path: string;
  readonly inode: number;
  readonly bytes: number;
  /** Null: no limit. */
  readonly bytesMax: number | null;
  readonly inodes: number;
  readonly inodesMax: number | null;
  /** An earlier `quota set` was interrupted: nothing is enforced until it is given again. */
  readonly counting: boolean;
}

export interface QuotaLimits {
  /** Undefined: as it is; null: none. */
  readonly bytesMax?: number | null;
  readonly inodesMax?: number | null;
}

/** Throws `not-found`, `usage` for what can have no quota, and `conflict` while a quota above or below it is being counted. */
export async function setQuota(
  engine: MetaEngine,
  volume: string,
  path: string,
  limits: QuotaLimits,
  progress: Progress = () => undefined,
): Promise<QuotaReport> {
  const view = VolumeView.over(engine, volume);
  if (namesOf(path)[0] === LAKE_NAME) {
    throw new PenstockError('usage', `'${path}': the lake's directories belong to its tables; set a quota elsewhere`);
  }
  const { ino, inode } = await resolvePath(view, path);
  if (!isDirectory(inode)) throw new PenstockError('usage', `'${path}' is not a directory`);
  const quota = await makeRoot(view, ino, limits);
  if (quota.counting) {
    await new Counting(view, engine, ino, quota.outer, progress).run();
    await editQuota(engine, view, ino, (current) => ({ ...current, counting: false }));
  }
  return report(engine, view, ino, path);
}

/** The quota of a directory itself. Throws `not-found` when it has none. */
export async function getQuota(engine: MetaEngine, volume: string, path: string): Promise<QuotaReport> {
  const view = VolumeView.over(engine, volume);
  const { ino } = await resolvePath(view, path);
  return report(engine, view, ino, path);
}

/** All quotas of directories that still exist. */
export async function listQuotas(engine: MetaEngine, volume: string): Promise<QuotaReport[]> {
  const view = VolumeView.over(engine, volume);
  const inos = new Set<number>();
  for await (const [field] of scanBucket(engine, view.keys.quotas)) inos.add(Number(field));
  const paths = new DirectoryPaths(view);
  const reports: QuotaReport[] = [];
  for (const ino of inos) {
    const path = await paths.of(ino);
    if (path !== null) reports.push(await report(engine, view, ino, path));
  }
  return reports.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Takes away the quotas of directories that were removed, once nothing counts to them any more. */
export async function forgetQuotas(engine: MetaEngine, volume: string): Promise<void> {
  const keys = new VolumeKeys(volume);
  const removed: number[] = [];
  for await (const [field] of scanBucket(engine, keys.quotas))
    if (Number(field) !== ROOT_INO) removed.push(Number(field));
  for (const ino of removed) {
    const key = keys.quota(ino);
    const [inode, stored] = await engine.read([keys.inode(ino), key]);
    if (inode !== null || stored === null || stored === undefined) continue;
    const usage = [keys.usage(ino, 'inodes'), keys.usage(ino, 'bytes')];
    await engine.commit({
      compare: [{ key, version: stored.version }, ...usage.map((number) => ({ number, atMost: 0n }))],
      write: [{ key, value: null }],
      patch: usage.map((number) => ({ number, remove: true })),
    });
  }
}

async function report(engine: MetaEngine, view: VolumeView, ino: number, path: string): Promise<QuotaReport> {
  const { keys } = view;
  const [stored] = await engine.read([keys.quota(ino)]);
  if (stored === null || stored === undefined) throw new PenstockError('not-found', `'${path}' has no quota`);
  const { bytesMax, inodesMax, counting } = decodeQuota(stored.value, ino);
  const [bytes, inodes] = await engine.readNumbers([keys.usage(ino, 'bytes'), keys.usage(ino, 'inodes')]);
  return {
    path,
    inode: ino,
    bytes: Number(bytes ?? 0n),
    bytesMax,
    inodes: Number(inodes ?? 0n),
    inodesMax,
    counting,
  };
}

/** The directory is a quota root with these limits afterwards. */
async function makeRoot(view: VolumeView, ino: number, limits: QuotaLimits): Promise<Quota> {
  const { value } = await view.change(undefined, async (change): Promise<Quota> => {
    const node = await view.node(ino);
    if (node === null) throw new PenstockError('not-found', `directory ${ino} was removed`);
    const key = view.keys.quota(ino);
    const [stored] = await view.read([key]);
    const before = stored === null || stored === undefined ? null : decodeQuota(stored.value, ino);
    // That of the volume counts from its beginning.
    const first: Quota = { outer: node.inode.quota, bytesMax: null, inodesMax: null, counting: ino !== ROOT_INO };
    const { bytesMax, inodesMax, ...rest } = before ?? first;
    const quota = { ...rest, bytesMax: limits.bytesMax ?? null, inodesMax: limits.inodesMax ?? null };
    if (limits.bytesMax === undefined) quota.bytesMax = bytesMax;
    if (limits.inodesMax === undefined) quota.inodesMax = inodesMax;
    change.expectOther(key, stored?.version ?? null);
    change.write(key, encodeQuota(quota));
    if (ino !== ROOT_INO && before === null) {
      await expectCounted(view, change, node.inode.quota);
      change.updateNode(node, { ...node.inode, quota: ino });
    }
    change.announce({ kind: 'quota', ino });
    return quota;
  });
  view.quotas.clear();
  if (value === undefined) throw new Error('a change without an operation is never a repeat');
  return value;
}

/** What is below it may count to it already, or not yet. */
async function expectCounted(view: VolumeView, change: Change, ino: number): Promise<void> {
  const key = view.keys.quota(ino);
  const [stored] = ino === 0 ? [] : await view.read([key]);
  if (stored === null || stored === undefined) return;
  if (decodeQuota(stored.value, ino).counting) throw await beingCounted(view, ino);
  change.expectOther(key, stored.version);
}

async function beingCounted(view: VolumeView, ino: number): Promise<PenstockError> {
  const path = (await new DirectoryPaths(view).of(ino)) ?? `directory ${ino}`;
  return new PenstockError(
    'conflict',
    `the quota of '${path}' is being counted, or that was interrupted: give 'quota set' for it again, then for this one`,
  );
}

async function editQuota(
  engine: MetaEngine,
  view: VolumeView,
  ino: number,
  edit: (quota: Quota) => Quota,
): Promise<void> {
  const key = view.keys.quota(ino);
  for (let done = false; !done;) {
    const [stored] = await engine.read([key]);
    if (stored === null || stored === undefined) throw new PenstockError('not-found', `the quota of ${ino} is gone`);
    const message = encodeChanges(engine.sessionId, [{ kind: 'quota', ino }]);
    const result = await engine.commit({
      compare: [{ key, version: stored.version }],
      write: [{ key, value: encodeQuota(edit(decodeQuota(stored.value, ino))) }],
      publish: [{ shard: view.keys.shard(ino), message }],
    });
    done = result.ok;
  }
}

type Child = readonly [name: string, entry: CachedEntry];

class Counting {
  readonly #view: VolumeView;
  readonly #engine: MetaEngine;
  readonly #root: number;
  readonly #outer: number;
  readonly #progress: Progress;
  #counted = 0;

  constructor(view: VolumeView, engine: MetaEngine, root: number, outer: number, progress: Progress) {
    this.#view = view;
    this.#engine = engine;
    this.#root = root;
    this.#outer = outer;
    this.#progress = progress;
  }

  /** A directory is looked into only after it counts itself: whatever comes into it from then on counts already. */
  async run(): Promise<void> {
    const left = [this.#root];
    for (let directory = left.pop(); directory !== undefined; directory = left.pop()) {
      for (let cursor: string | null = ''; cursor !== null;) {
        const page: EntryPage = await this.#view.directories.scan(directory, cursor, SCAN_PAGE);
        cursor = page.cursor;
        for (let at = 0; at < page.entries.length; at += PORTION) {
          left.push(...(await this.#portion(directory, page.entries.slice(at, at + PORTION))));
        }
      }
    }
  }

  /** Returns the directories to go on with. */
  async #portion(directory: number, children: readonly Child[]): Promise<readonly number[]> {
    const inner: number[] = [];
    let scanned = true;
    const { value } = await this.#view.change(undefined, async (change) => {
      const further: number[] = [];
      const changed = new Set<number>();
      const account = await this.#account();
      inner.length = 0;
      await this.#view.nodes(children.map(([, { ino }]) => ino));
      for (const [name, entry] of children) {
        // What was scanned is true at first; after a failed compare the view knows better.
        const current = scanned ? entry : await this.#view.entry(directory, name);
        const node = current === null ? null : await this.#view.node(current.ino);
        if (current === null || node === null || changed.has(node.ino)) continue;
        const { inode } = node;
        if (inode.quota === node.ino) inner.push(node.ino);
        if ((inode.flags & INODE_LISTING) !== 0 || inode.quota === node.ino) continue;
        if (isDirectory(inode)) further.push(node.ino);
        // A file that counts elsewhere has another name there.
        if (inode.quota !== this.#outer) continue;
        changed.add(node.ino);
        change.expectEntry(directory, name, current);
        change.updateNode(node, { ...inode, quota: this.#root });
        for (const root of account) change.charge(root, 1, countedBytes(inode));
      }
      scanned = false;
      return further;
    });
    for (const ino of inner) await this.#adopt(ino);
    this.#counted += children.length;
    this.#progress('inodes counted', this.#counted);
    return value ?? [];
  }

  /** What counts to the outer quotas does so already. */
  async #account(): Promise<Account> {
    return (await this.#view.quotas.account(this.#root)).filter(({ ino }) => ino === this.#root);
  }

  /** A quota inside of the new one: from this commit on all that counts to it counts here too, what it has until now included. */
  async #adopt(inner: number): Promise<void> {
    const { keys } = this.#view;
    const key = keys.quota(inner);
    const numbers = [keys.usage(inner, 'inodes'), keys.usage(inner, 'bytes')] as const;
    const message = encodeChanges(this.#engine.sessionId, [{ kind: 'quota', ino: inner }]);
    for (let attempt = 0; attempt < ADOPT_ATTEMPTS_MAX; attempt++) {
      const [stored] = await this.#engine.read([key]);
      if (stored === null || stored === undefined) return;
      const quota = decodeQuota(stored.value, inner);
      if (quota.outer !== this.#outer) return;
      // What it has not counted yet would count here neither now nor later.
      if (quota.counting) throw await beingCounted(this.#view, inner);
      const [inodes = 0n, bytes = 0n] = (await this.#engine.readNumbers(numbers)).map((value) => value ?? 0n);
      const result = await this.#engine.commit({
        compare: [
          { key, version: stored.version },
          { number: numbers[0], atLeast: inodes },
          { number: numbers[0], atMost: inodes },
          { number: numbers[1], atLeast: bytes },
          { number: numbers[1], atMost: bytes },
        ],
        write: [{ key, value: encodeQuota({ ...quota, outer: this.#root }) }],
        // It counts itself here, too.
        patch: [
          { number: keys.usage(this.#root, 'inodes'), add: inodes + 1n },
          { number: keys.usage(this.#root, 'bytes'), add: bytes },
        ],
        publish: [{ shard: keys.shard(inner), message }],
      });
      if (result.ok) return;
    }
    throw new PenstockError('conflict', `directory ${inner}, which has a quota too, is written too fast to be counted`);
  }
}
