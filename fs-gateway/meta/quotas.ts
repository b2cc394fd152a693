/**
 * What the inodes of this volume count to: the quota roots above them, cached until the feed says that one has changed.
 *
 * Invariants
 * - A commit that counts to a directory's quota compares the quota's record, so what it counts to, and the limit, are those of that
 *   moment. It compares the usage with the limit, too: no two mounts together pass it.
 * - The limit of the whole volume is compared where this client knows of one; one that was set a moment ago is enforced when the feed
 *   has told of it.
 * Limits: ACCOUNTS_KEPT quota roots.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, Version } from '../../lib/meta/engine.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';
import { decodeQuota } from '../../lib/volume/quota.ts';
import type { Quota } from '../../lib/volume/quota.ts';
import type { Node } from './cache.ts';

const ACCOUNTS_KEPT = 10_000;
/** Quotas in quotas; a longer chain is a damaged one. */
const DEPTH_MAX = 100;

export interface QuotaRoot extends Quota {
  readonly ino: number;
  readonly version: Version;
}

/** The quota roots that something counts to, the nearest first; the volume last, when it has a limit. */
export type Account = readonly QuotaRoot[];

export class Quotas {
  readonly #keys: VolumeKeys;
  readonly #engine: () => MetaEngine | Promise<MetaEngine>;
  readonly #retry: <T>(read: () => Promise<T>) => Promise<T>;
  /** By the nearest root; 0: only that of the volume. */
  readonly #accounts = new Map<number, Account>();
  /** Bytes that counted to a root when it was last heard of. */
  readonly #used = new Map<number, number>();
  #generation = 0;

  constructor(
    keys: VolumeKeys,
    engine: () => MetaEngine | Promise<MetaEngine>,
    retry: <T>(read: () => Promise<T>) => Promise<T>,
  ) {
    this.#keys = keys;
    this.#engine = engine;
    this.#retry = retry;
  }

  /** What an inode in this quota (`Inode.quota`) counts to. */
  account(quota: number): Account | Promise<Account> {
    return this.#accounts.get(quota) ?? this.#retry(() => this.#load(quota));
  }

  /** What this inode itself counts to. */
  of({ ino, inode }: Node): Account | Promise<Account> {
    const account = this.account(inode.quota);
    if (inode.quota !== ino) return account;
    return account instanceof Promise ? account.then((roots) => roots.slice(1)) : account.slice(1);
  }

  async #load(quota: number): Promise<Account> {
    const generation = this.#generation;
    const engine = await this.#engine();
    const account: QuotaRoot[] = [];
    let volume: QuotaRoot | undefined;
    for (let at = quota, depth = 0; depth === 0 || at !== 0; depth++) {
      if (depth > DEPTH_MAX) throw new PenstockError('corrupt', `the quota of directory ${quota} is above itself`);
      // The volume's record comes with the first.
      const inos = depth > 0 ? [at] : at === 0 ? [ROOT_INO] : [ROOT_INO, at];
      const records = await engine.read(inos.map((ino) => this.#keys.quota(ino)));
      at = 0;
      for (const [index, ino] of inos.entries()) {
        const stored = records[index];
        if (stored === null || stored === undefined) continue;
        const root = { ino, version: stored.version, ...decodeQuota(stored.value, ino) };
        if (ino === ROOT_INO) volume = root;
        else {
          account.push(root);
          at = root.outer;
        }
      }
    }
    if (volume !== undefined) account.push(volume);
    if (generation === this.#generation) {
      if (this.#accounts.size >= ACCOUNTS_KEPT) this.clear();
      this.#accounts.set(quota, account);
    }
    return account;
  }

  /** A commit said how much counts to it now. */
  learn(root: number, bytes: bigint): void {
    this.#used.set(root, Number(bytes));
  }

  /** Whether so many more bytes are likely to fit. The commit decides; this lets a write fail at once instead of at close. */
  fits(account: Account, bytes: number): boolean | Promise<boolean> {
    for (const root of account) {
      if (root.bytesMax === null || root.counting) continue;
      const used = this.#used.get(root.ino);
      if (used === undefined || used + bytes > root.bytesMax) return this.#fitsNow(account, bytes);
    }
    return true;
  }

  async #fitsNow(account: Account, bytes: number): Promise<boolean> {
    const used = await this.usage(account, 'bytes');
    for (const [index, { ino }] of account.entries()) this.#used.set(ino, used[index] ?? 0);
    return account.every(
      (root, index) => root.bytesMax === null || root.counting || (used[index] ?? 0) + bytes <= root.bytesMax,
    );
  }

  /** What counts to each root of an account now; to that of the volume all does, whether it has a limit or not. */
  usage(account: readonly Pick<QuotaRoot, 'ino'>[], what: 'bytes' | 'inodes'): Promise<number[]> {
    return this.#retry(async () => {
      const engine = await this.#engine();
      const numbers = await engine.readNumbers(account.map(({ ino }) => this.#keys.usage(ino, what)));
      return numbers.map((value) => Math.max(0, Number(value ?? 0n)));
    });
  }

  /** A quota changed somewhere: they are few, and so are the changes. */
  clear(): void {
    this.#generation++;
    this.#accounts.clear();
    this.#used.clear();
  }
}
