/**
 * The part of fsck about counters: the usage of the volume and of each quota, which quota each inode counts to, and that no id is given
 * out twice. Usage that changes while it is counted is not judged.
 */
import { describeError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { countedBytes } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeQuota } from '../../lib/volume/quota.ts';
import type { Quota } from '../../lib/volume/quota.ts';
import { scanBucket } from '../../lib/volume/references.ts';
import type { Findings } from './fsck-findings.ts';
import type { Paths } from './fsck-paths.ts';
import { FILE } from './fsck-table.ts';
import type { InodeTable } from './fsck-table.ts';

const WHAT = ['inodes', 'bytes'] as const;
const DEPTH_MAX = 1000;

type Usage = Record<(typeof WHAT)[number], bigint>;

export interface UsageParts {
  readonly engine: MetaEngine;
  readonly keys: VolumeKeys;
  readonly table: InodeTable;
  readonly paths: Paths;
  readonly findings: Findings;
}

export class UsageCheck {
  readonly #parts: UsageParts;
  readonly #quotas = new Map<number, Quota>();
  /** What counts to each quota itself, without those inside of it; the volume's is all. */
  readonly #counted = new Map<number, Usage>([[ROOT_INO, { inodes: 0n, bytes: 0n }]]);
  /** For directories: the quota that what is made in them should count to. */
  readonly #expected = new Map<number, number>([[ROOT_INO, 0]]);
  #before: ReadonlyMap<number, Usage> = new Map();
  #ids: readonly bigint[] = [];
  #damaged = 0;
  #highestIno = 0;

  constructor(parts: UsageParts) {
    this.#parts = parts;
  }

  /** Before the walk. */
  async begin(): Promise<void> {
    const { engine, keys, findings } = this.#parts;
    for await (const [field, value] of scanBucket(engine, keys.quotas)) {
      const ino = Number(field);
      try {
        this.#quotas.set(ino, decodeQuota(value, ino));
      } catch (error) {
        await findings.add('damaged-record', describeError(error));
      }
    }
    this.#before = await this.#said();
    this.#ids = await this.#lastIds();
  }

  async #said(): Promise<ReadonlyMap<number, Usage>> {
    const { engine, keys } = this.#parts;
    const said = new Map<number, Usage>();
    for (const ino of new Set([ROOT_INO, ...this.#quotas.keys()])) {
      const [inodes, bytes] = await engine.readNumbers(WHAT.map((what) => keys.usage(ino, what)));
      said.set(ino, { inodes: inodes ?? 0n, bytes: bytes ?? 0n });
    }
    return said;
  }

  async #lastIds(): Promise<bigint[]> {
    const { engine, keys } = this.#parts;
    return (await engine.readNumbers([keys.counter('ino'), keys.counter('object')])).map((value) => value ?? 0n);
  }

  noteDamaged(ino: number): void {
    this.#damaged++;
    this.#count(ROOT_INO, 0);
    this.#highestIno = Math.max(this.#highestIno, ino);
  }

  note(ino: number, inode: Inode): void {
    this.#highestIno = Math.max(this.#highestIno, ino);
    const bytes = countedBytes(inode);
    this.#count(ROOT_INO, bytes);
    if (inode.quota === 0) return;
    this.#parts.table.setQuota(ino, inode.quota);
    const root = inode.quota === ino ? (this.#quotas.get(ino)?.outer ?? 0) : inode.quota;
    if (root !== 0) this.#count(root, bytes);
  }

  /** An inode that is made by a repair, or would be. */
  noteLost(bytes: number): void {
    this.#count(ROOT_INO, bytes);
  }

  /** The root of a tree that no name leads to yet: what is in it counts to where it will be. */
  noteBuilding(root: number): void {
    this.#expected.set(root, this.#parts.table.quota(root));
  }

  #count(root: number, bytes: number): void {
    const usage = this.#counted.get(root) ?? { inodes: 0n, bytes: 0n };
    this.#counted.set(root, { inodes: usage.inodes + 1n, bytes: usage.bytes + BigInt(bytes) });
  }

  /** First of all: a repair may need a new inode. */
  checkLastIno(): Promise<void> {
    return this.#checkLast('ino', this.#ids[0] ?? 0n, this.#highestIno);
  }

  /** Every inode counts to the nearest quota above it; a file with other names may count to that of another one. */
  async checkPlaces(): Promise<void> {
    if (this.#quotas.size === 0) return;
    const { table, paths, findings } = this.#parts;
    for (const ino of table.inos()) {
      const parent = table.parent(ino);
      if (parent === 0 || (table.kind(ino) === FILE && table.get(ino, 'names') > 1)) continue;
      const around = this.#quotaIn(parent);
      const quota = this.#isRoot(ino) ? ino : around;
      if (this.#quotas.get(around)?.counting === true || table.quota(ino) === quota) continue;
      const text = `${await paths.of(ino)} counts to the quota of ${await this.#name(table.quota(ino))}, not of ${await this.#name(quota)}`;
      await findings.add('wrong-quota', text, (repair) => repair.edit(ino, (inode) => ({ ...inode, quota })));
    }
    for (const [ino, quota] of this.#quotas) {
      const outer = this.#quotaIn(table.parent(ino));
      if (!this.#isRoot(ino) || quota.outer === outer || this.#quotas.get(outer)?.counting === true) continue;
      const text = `the quota of ${await this.#name(ino)} counts to that of ${await this.#name(quota.outer)}, not of ${await this.#name(outer)}`;
      await findings.add('wrong-quota', text, (repair) => repair.setQuota(ino, { ...quota, outer }));
    }
  }

  #name(quota: number): Promise<string> {
    return quota === 0 ? Promise.resolve('none') : this.#parts.paths.of(quota);
  }

  #isRoot(ino: number): boolean {
    return ino !== ROOT_INO && this.#quotas.has(ino) && this.#parts.table.isDirectory(ino);
  }

  /** What an inode in this directory should count to. */
  #quotaIn(directory: number): number {
    const climbed: number[] = [];
    let at = directory;
    let quota = this.#expected.get(at);
    while (quota === undefined && at !== 0 && climbed.length < DEPTH_MAX) {
      climbed.push(at);
      if (this.#isRoot(at)) quota = at;
      else {
        at = this.#parts.table.parent(at);
        quota = this.#expected.get(at);
      }
    }
    for (const ino of climbed) this.#expected.set(ino, quota ?? 0);
    return quota ?? 0;
  }

  async checkCounters(highestObject: number): Promise<void> {
    const { keys, paths, findings } = this.#parts;
    const after = await this.#said();
    for (const [ino, said] of after) {
      const counted = this.#total(ino);
      for (const what of WHAT) {
        // The size in a damaged record is not known, nor what it counts to.
        const known =
          this.#before.get(ino)?.[what] === said[what] &&
          (this.#damaged === 0 || (what === 'inodes' && ino === ROOT_INO));
        if (!known || said[what] === counted[what]) continue;
        const of = ino === ROOT_INO ? '' : ` of the quota of ${await paths.of(ino)}`;
        const text = `${said[what]} ${what}${of} are counted, there are ${counted[what]}`;
        await findings.add('wrong-usage', text, (repair) =>
          repair.add(keys.usage(ino, what), counted[what] - said[what]),
        );
      }
    }
    await this.#checkLast('object', (await this.#lastIds())[1] ?? 0n, highestObject);
  }

  /** With the quotas inside of it. */
  #total(root: number, depth = 0): Usage {
    const total = { ...(this.#counted.get(root) ?? { inodes: 0n, bytes: 0n }) };
    if (root === ROOT_INO || depth > DEPTH_MAX) return total;
    for (const [ino, { outer }] of this.#quotas) {
      if (outer !== root) continue;
      const inner = this.#total(ino, depth + 1);
      total.inodes += inner.inodes;
      total.bytes += inner.bytes;
    }
    return total;
  }

  async #checkLast(name: 'ino' | 'object', last: bigint, highest: number): Promise<void> {
    if (last >= highest) return;
    const { engine, keys, findings } = this.#parts;
    // What came after the walk's beginning has raised it.
    const [now] = await engine.readNumbers([keys.counter(name)]);
    if ((now ?? 0n) >= highest) return;
    await findings.add('low-counter', `the counter '${name}' is at ${last}, ${highest} is in use`, (repair) =>
      repair.raise(keys.counter(name), BigInt(highest)),
    );
  }
}
