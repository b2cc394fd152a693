/**
 * A change of the volume under construction: the parts of one minitransaction, and what they mean for the client's cache.
 *
 * The planner of an operation says what must still be so (`expect…`) and what becomes so (`put…`, `remove…`); on success the cache
 * learns the new state without a read, after a failed compare it learns the fresh state that came back, so the retry needs none.
 *
 * Invariant: what takes a file's name away, or sets it, writes the file's inode in the same commit. So an inode whose version is the same has the same
 * names, and an open need not ask for them (fs-gateway/vfs/told-names.ts).
 */
import type {
  CommitResult,
  Compare,
  Key,
  Mismatch,
  Minitransaction,
  Patch,
  Publish,
  Stored,
  Version,
  Write,
} from '../../lib/meta/engine.ts';
import { encodeDentry } from '../../lib/volume/dentry.ts';
import { encodeChanges } from '../../lib/volume/feed.ts';
import type { Change as FeedChange } from '../../lib/volume/feed.ts';
import { countedBytes, encodeInode, isDirectory } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import type { CachedEntry, MetaCache, Node } from './cache.ts';
import { PenstockError } from '../../lib/errors.ts';
import { entryOf, nodeOf } from './cache.ts';
import type { Account, QuotaRoot, Quotas } from './quotas.ts';

/** A directory that was to be empty has entries. */
export class NotEmptyError extends Error {
  override readonly name = 'NotEmptyError';
}

/** What a compare was about, to learn from its mismatch. */
type Subject =
  | { readonly kind: 'node'; readonly ino: number }
  | { readonly kind: 'entry'; readonly parent: number; readonly name: string }
  | { readonly kind: 'other'; readonly learn?: (current: Stored | null) => void };

interface Put {
  readonly subject: Exclude<Subject, { readonly kind: 'other' }>;
  readonly before: Version | null;
  readonly removed: boolean;
  readonly put: (cache: MetaCache, version: Version) => void;
}

/** What the change adds to one quota; `root` is null for a volume without a limit. */
interface Charge {
  readonly root: QuotaRoot | null;
  inodes: number;
  bytes: number;
}

/** A record that a change set or removed, as the last word on an inode or on what a directory names. */
export interface LastWord {
  readonly ino: number;
  readonly key: Key;
  /** What it replaced; null: nothing. */
  readonly before: Version | null;
  readonly removed: boolean;
}

type Reading = ReturnType<MetaCache['beginNode']>;

interface UnderWay {
  readonly compared: readonly (Reading | undefined)[];
  readonly put: readonly (Reading | undefined)[];
}

export interface Settled {
  readonly compared: readonly boolean[];
  readonly put: readonly boolean[];
}

export interface Committed {
  readonly result: CommitResult;
  readonly settled: Settled;
}

function beginReading(cache: MetaCache, subject: Subject): Reading | undefined {
  if (subject.kind === 'node') return cache.beginNode(subject.ino);
  if (subject.kind === 'entry') return cache.beginEntry(subject.parent, subject.name);
  return undefined;
}

function endReading(cache: MetaCache, subject: Subject, reading: Reading | undefined): boolean {
  if (reading === undefined) return false;
  if (subject.kind === 'node') return cache.endNode(subject.ino, reading);
  return subject.kind === 'entry' && cache.endEntry(subject.parent, subject.name, reading);
}

function dropSubject(cache: MetaCache, subject: Subject): void {
  if (subject.kind === 'node') cache.dropNode(subject.ino);
  else if (subject.kind === 'entry') cache.dropEntry(subject.parent, subject.name);
}

export class Change {
  readonly #keys: VolumeKeys;
  readonly #quotas: Quotas;
  readonly #compare: Compare[] = [];
  readonly #subjects: Subject[] = [];
  readonly #write: Write[] = [];
  readonly #patch: Patch[] = [];
  readonly #feed = new Map<string, FeedChange[]>();
  /** Records that the change sets, and how the cache learns it. */
  readonly #puts: Put[] = [];
  readonly #onSuccess: ((cache: MetaCache, numbers: readonly (bigint | null)[], version: Version) => void)[] = [];
  readonly #charges = new Map<number, Charge>();
  /** The quota root of each compare behind those of the subjects. */
  readonly #quotaCompares: number[] = [];
  #underWay: UnderWay | undefined;

  /** The inode that the change makes; 0: none. */
  made = 0;
  madeDirectory = false;
  /** Nobody knows yet of an attempt before: its answer was lost. */
  mayBeApplied = false;

  constructor(keys: VolumeKeys, quotas: Quotas) {
    this.#keys = keys;
    this.#quotas = quotas;
  }

  /** Nothing to commit: the plan found that all is as wanted. */
  get empty(): boolean {
    return this.#write.length === 0 && this.#patch.length === 0;
  }

  expectNode(node: Node): void {
    this.#expect({ key: this.#keys.inode(node.ino), version: node.version }, { kind: 'node', ino: node.ino });
  }

  expectEntry(parent: number, name: string, entry: CachedEntry | null): void {
    this.#expect(
      { key: this.#keys.entry(parent, name), version: entry?.version ?? null },
      { kind: 'entry', parent, name },
    );
  }

  /** The directory has no entries. */
  expectEmpty(directory: number): void {
    this.#expect({ emptyBucket: this.#keys.entries(directory) }, { kind: 'other' });
  }

  expectOther(key: Key, version: Version | null): void {
    this.#expect({ key, version }, { kind: 'other' });
  }

  /** A record that the caller caches itself: it learns the fresh one from a failed compare, the new version from the commit. */
  replaceRecord(
    key: Key,
    before: Version | null,
    value: Uint8Array | null,
    learn: (current: Stored | null) => void,
    committed: (version: Version) => void,
  ): void {
    this.#expect({ key, version: before }, { kind: 'other', learn });
    this.#write.push({ key, value });
    this.#onSuccess.push((_cache, _numbers, version) => committed(version));
  }

  #expect(compare: Compare, subject: Subject): void {
    this.#compare.push(compare);
    this.#subjects.push(subject);
  }

  /** A new inode, under a number that nobody else has. */
  addNode(ino: number, inode: Inode): void {
    this.made = ino;
    this.madeDirectory = isDirectory(inode);
    this.#putNode(ino, null, inode, 0n, 0);
  }

  /** Replaces an inode as it was at `node`. */
  updateNode(node: Node, inode: Inode): void {
    this.expectNode(node);
    this.#putNode(node.ino, node.version, inode, node.entriesChangedNs, node.subdirectories);
    this.announce({ kind: 'inode', ino: node.ino });
  }

  #putNode(ino: number, before: Version | null, inode: Inode, entriesChangedNs: bigint, subdirectories: number): void {
    this.#write.push({ key: this.#keys.inode(ino), value: encodeInode(inode) });
    const put = (cache: MetaCache, version: Version): void => {
      // Numbers that another of our commits patched meanwhile are newer than those of the plan.
      const current = cache.node(ino);
      cache.putNode({
        ino,
        inode,
        version,
        entriesChangedNs: current?.entriesChangedNs ?? entriesChangedNs,
        subdirectories: current?.subdirectories ?? subdirectories,
      });
    };
    this.#puts.push({ subject: { kind: 'node', ino }, before, removed: false, put });
  }

  removeNode(node: Node): void {
    this.expectNode(node);
    this.#write.push({ key: this.#keys.inode(node.ino), value: null });
    if (isDirectory(node.inode)) {
      this.#patch.push(
        { number: this.#keys.entriesChanged(node.ino), remove: true },
        { number: this.#keys.subdirectories(node.ino), remove: true },
      );
    }
    this.announce({ kind: 'inode', ino: node.ino });
    this.#onSuccess.push((cache) => cache.dropNode(node.ino));
  }

  /** Sets a name that was `before` (null: absent). `told`: the kernel will know. */
  putEntry(
    parent: number,
    name: string,
    before: CachedEntry | null,
    ino: number,
    type: number,
    { told = false }: { readonly told?: boolean | undefined } = {},
  ): void {
    this.expectEntry(parent, name, before);
    this.#write.push({ key: this.#keys.entry(parent, name), value: encodeDentry(ino, type) });
    this.announce({ kind: 'entry', parent, name });
    const put = (cache: MetaCache, version: Version): void =>
      cache.changeEntry(parent, name, { ino, type, version, heldAt: version, told });
    this.#puts.push({ subject: { kind: 'entry', parent, name }, before: before?.version ?? null, removed: false, put });
  }

  removeEntry(parent: number, name: string, before: CachedEntry): void {
    this.expectEntry(parent, name, before);
    this.#write.push({ key: this.#keys.entry(parent, name), value: null });
    this.announce({ kind: 'entry', parent, name });
    const put = (cache: MetaCache): void => cache.changeEntry(parent, name, null);
    this.#puts.push({ subject: { kind: 'entry', parent, name }, before: before.version, removed: true, put });
  }

  /** The entries of `directory` change now; `subdirectories` is how many more there are. Never conflicts. */
  touchDirectory(directory: number, nowNs: bigint, subdirectories: number): void {
    const changedAt = this.#patch.length;
    this.#patch.push({ number: this.#keys.entriesChanged(directory), max: nowNs });
    const countAt = this.#patch.length;
    if (subdirectories !== 0) {
      this.#patch.push({ number: this.#keys.subdirectories(directory), add: BigInt(subdirectories) });
    }
    this.announce({ kind: 'inode', ino: directory });
    this.#onSuccess.push((cache, numbers) => {
      const node = cache.node(directory);
      if (node === undefined) return;
      const count = subdirectories === 0 ? null : (numbers[countAt] ?? null);
      cache.putNode({
        ...node,
        entriesChangedNs: numbers[changedAt] ?? nowNs,
        subdirectories: count === null ? node.subdirectories : Number(count),
      });
    });
  }

  /** A directory that nobody sees yet has one more. */
  countSubdirectory(directory: number): void {
    this.#patch.push({ number: this.#keys.subdirectories(directory), add: 1n });
  }

  /** What statfs reports, and what counts to the quotas of `account`. */
  count(inodes: number, bytes: number, account: Account): void {
    this.#add(ROOT_INO, account.find(({ ino }) => ino === ROOT_INO) ?? null, inodes, bytes);
    for (const root of account) if (root.ino !== ROOT_INO) this.charge(root, inodes, bytes);
  }

  /** An inode counts to other quotas from now on; to those that both accounts have nothing is added. */
  recount(inode: Inode, from: Account, to: Account): void {
    const bytes = countedBytes(inode);
    this.count(-1, -bytes, from);
    this.count(1, bytes, to);
  }

  /** What counts to one quota only, because it counted to those above before. */
  charge(root: QuotaRoot, inodes: number, bytes: number): void {
    this.#add(root.ino, root, inodes, bytes);
  }

  #add(ino: number, root: QuotaRoot | null, inodes: number, bytes: number): void {
    const charge = this.#charges.get(ino);
    if (charge === undefined) this.#charges.set(ino, { root, inodes, bytes });
    else {
      charge.inodes += inodes;
      charge.bytes += bytes;
    }
  }

  /** Behind all other compares and patches, so that these keep their places. */
  #settleCharges(): void {
    for (const [ino, charge] of this.#charges) {
      const { root, inodes, bytes } = charge;
      if (inodes === 0 && bytes === 0) continue;
      // The volume's counters have no record to be right with unless there is a limit.
      if (root !== null) this.#compareQuota(ino, { key: this.#keys.quota(ino), version: root.version });
      this.#settle(ino, root, 'inodes', inodes);
      this.#settle(ino, root, 'bytes', bytes);
    }
    this.#charges.clear();
  }

  #settle(ino: number, root: QuotaRoot | null, what: 'inodes' | 'bytes', added: number): void {
    if (added === 0) return;
    const number = this.#keys.usage(ino, what);
    const limit = what === 'inodes' ? root?.inodesMax : root?.bytesMax;
    if (added > 0 && limit !== null && limit !== undefined && root?.counting === false) {
      this.#compareQuota(ino, { number, atMost: BigInt(limit - added) });
    }
    const at = this.#patch.length;
    this.#patch.push({ number, add: BigInt(added) });
    if (root === null || what === 'inodes') return;
    this.#onSuccess.push((_cache, numbers) => this.#quotas.learn(ino, numbers[at] ?? 0n));
  }

  #compareQuota(ino: number, compare: Compare): void {
    this.#compare.push(compare);
    this.#quotaCompares.push(ino);
  }

  write(key: Key, value: Uint8Array | null): void {
    this.#write.push({ key, value });
  }

  announce(change: FeedChange): void {
    const shard = this.#keys.shard(change.kind === 'entry' ? change.parent : change.ino);
    const list = this.#feed.get(shard);
    if (list === undefined) this.#feed.set(shard, [change]);
    else list.push(change);
  }

  /** To be called once, when the plan is complete. */
  transaction(sessionId: number): Minitransaction {
    this.#settleCharges();
    const publish: Publish[] = [];
    for (const [shard, changes] of this.#feed) publish.push({ shard, message: encodeChanges(sessionId, changes) });
    return { compare: this.#compare, write: this.#write, patch: this.#patch, publish };
  }

  /** Before the commit is sent: from here on the feed may tell of later changes before the answer is here. */
  begin(cache: MetaCache): void {
    this.#underWay = {
      compared: this.#subjects.map((subject) => beginReading(cache, subject)),
      put: this.#puts.map(({ subject }) => beginReading(cache, subject)),
    };
  }

  /** After it, whatever came of it. Returns which of the compared and of the set records nobody else changed meanwhile. */
  end(cache: MetaCache): Settled {
    const underWay = this.#underWay;
    this.#underWay = undefined;
    return {
      compared: this.#subjects.map((subject, index) => endReading(cache, subject, underWay?.compared[index])),
      put: this.#puts.map(({ subject }, index) => endReading(cache, subject, underWay?.put[index])),
    };
  }

  /** Of the file, and of the directory, whose records it sets. */
  *lastWords(): Iterable<LastWord> {
    for (const { subject, before, removed } of this.#puts) {
      if (subject.kind === 'node') yield { ino: subject.ino, key: this.#keys.inode(subject.ino), before, removed };
      else yield { ino: subject.parent, key: this.#keys.entry(subject.parent, subject.name), before, removed };
    }
  }

  succeed(cache: MetaCache, settled: Settled, version: Version, numbers: readonly (bigint | null)[]): void {
    for (const [index, { subject, put }] of this.#puts.entries()) {
      if (settled.put[index] === true) put(cache, version);
      else dropSubject(cache, subject);
    }
    for (const effect of this.#onSuccess) effect(cache, numbers, version);
  }

  /** Throws NotEmptyError, or `quota`, when that is the only thing that was not as planned. */
  learn(cache: MetaCache, settled: Settled, mismatches: readonly Mismatch[]): void {
    for (const mismatch of mismatches) {
      const subject = this.#subjects[mismatch.index];
      if (mismatch.kind !== 'value') continue;
      if (subject === undefined) this.#quotas.clear();
      else if (subject.kind === 'other') subject.learn?.(mismatch.current);
      else if (settled.compared[mismatch.index] !== true) dropSubject(cache, subject);
      else learnSubject(cache, subject, mismatch.current);
    }
    if (mismatches.some((mismatch) => mismatch.kind === 'value')) return;
    if (mismatches.some((mismatch) => mismatch.kind === 'bucket')) {
      throw new NotEmptyError('the directory is not empty');
    }
    const full = mismatches.map(({ index }) => this.#quotaCompares[index - this.#subjects.length]);
    throw new PenstockError('quota', full[0] === ROOT_INO ? 'the volume is full' : `directory ${full[0] ?? 0} is full`);
  }
}

function learnSubject(
  cache: MetaCache,
  subject: Exclude<Subject, { readonly kind: 'other' }>,
  current: Stored | null,
): void {
  if (subject.kind === 'entry') {
    const entry = current && entryOf(subject.parent, subject.name, current);
    cache.putEntry(subject.parent, subject.name, entry);
    return;
  }
  const known = cache.node(subject.ino);
  if (current === null || known === undefined) cache.dropNode(subject.ino);
  else cache.putNode(nodeOf(subject.ino, current, known.entriesChangedNs, known.subdirectories));
}
