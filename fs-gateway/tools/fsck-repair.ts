/**
 * The repairs of fsck. Each is one commit that is right by itself; none removes an inode or content.
 * Invariants: nobody has the volume mounted (fsck.ts has made sure); what a concurrent lander changes is compared.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { Key, MetaEngine, Patch, Write } from '../../lib/meta/engine.ts';
import { DT_DIR, dentryType, encodeDentry } from '../../lib/volume/dentry.ts';
import { takeIds } from '../../lib/volume/ids.ts';
import { encodeInode, isDirectory, newInode, S_IFDIR } from '../../lib/volume/inode.ts';
import type { Inode } from '../../lib/volume/inode.ts';
import { decodeInode } from '../../lib/volume/inode.ts';
import { decodeDentry } from '../../lib/volume/dentry.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import { encodeQuota } from '../../lib/volume/quota.ts';
import type { Quota } from '../../lib/volume/quota.ts';
import type { VolumeKeys } from '../../lib/volume/keys.ts';

const LOST_AND_FOUND = 'lost+found';

export class Repair {
  readonly #engine: MetaEngine;
  readonly #keys: VolumeKeys;
  readonly #nowNs: bigint;
  #lostAndFound = 0;

  constructor(engine: MetaEngine, keys: VolumeKeys, nowMs: number) {
    this.#engine = engine;
    this.#keys = keys;
    this.#nowNs = BigInt(Math.round(nowMs)) * 1_000_000n;
  }

  async #commit(write: readonly Write[], patch: readonly Patch[] = []): Promise<void> {
    await this.#engine.commit({ write, patch });
  }

  /** Returns false when the record has changed since it was judged. */
  async replace(key: Key, judged: Buffer, value: Uint8Array | null): Promise<boolean> {
    const [stored] = await this.#engine.read([key]);
    if (stored?.value.equals(judged) !== true) return false;
    return (await this.#engine.commit({ compare: [{ key, version: stored.version }], write: [{ key, value }] })).ok;
  }

  /** Changes the inode as it is now. */
  async edit(ino: number, change: (inode: Inode) => Inode): Promise<boolean> {
    const key = this.#keys.inode(ino);
    const [stored] = await this.#engine.read([key]);
    if (stored === null || stored === undefined) return false;
    const value = encodeInode(change(decodeInode(stored.value, ino)));
    return (await this.#engine.commit({ compare: [{ key, version: stored.version }], write: [{ key, value }] })).ok;
  }

  async add(number: Key, add: bigint): Promise<boolean> {
    return (await this.#engine.commit({ patch: [{ number, add }] })).ok;
  }

  async raise(number: Key, max: bigint): Promise<boolean> {
    return (await this.#engine.commit({ patch: [{ number, max }] })).ok;
  }

  async setQuota(directory: number, quota: Quota): Promise<boolean> {
    await this.#commit([{ key: this.#keys.quota(directory), value: encodeQuota(quota) }]);
    return true;
  }

  /** A new inode under a number whose own record is gone. */
  async revive(ino: number, mode: number, fields: Partial<Inode>): Promise<void> {
    const inode = newInode(mode, 0, 0, this.#nowNs, fields);
    await this.#commit([{ key: this.#keys.inode(ino), value: encodeInode(inode) }]);
  }

  /** Names an inode `#<ino>` in /lost+found; `from` is the name it loses. Returns its path. */
  async reconnect(ino: number, from?: Key): Promise<string> {
    const directory = await this.#ensureLostAndFound();
    const name = `#${ino}`;
    const [stored] = await this.#engine.read([this.#keys.inode(ino)]);
    if (stored === null || stored === undefined) throw new PenstockError('not-found', `inode ${ino} is gone`);
    const inode = decodeInode(stored.value, ino);
    const isDir = isDirectory(inode);
    const placed = isDir ? { ...inode, parent: directory, nlink: 2 } : { ...inode, nlink: 1 };
    await this.#commit(
      [
        { key: this.#keys.entry(directory, name), value: encodeDentry(ino, dentryType(inode.mode)) },
        { key: this.#keys.inode(ino), value: encodeInode(placed) },
        ...(from === undefined ? [] : [{ key: from, value: null }]),
      ],
      [
        { number: this.#keys.entriesChanged(directory), max: this.#nowNs },
        ...(isDir ? [{ number: this.#keys.subdirectories(directory), add: 1n }] : []),
      ],
    );
    return `/${LOST_AND_FOUND}/${name}`;
  }

  async #ensureLostAndFound(): Promise<number> {
    if (this.#lostAndFound !== 0) return this.#lostAndFound;
    const key = this.#keys.entry(ROOT_INO, LOST_AND_FOUND);
    const { record, target } = await this.#engine.follow(key, this.#keys.entryToInode);
    if (record !== null && target !== null) {
      const { ino } = decodeDentry(record.value, ROOT_INO, LOST_AND_FOUND);
      if (!isDirectory(decodeInode(target.value, ino))) {
        throw new PenstockError('exists', `/${LOST_AND_FOUND} is not a directory: rename it first`);
      }
      return (this.#lostAndFound = ino);
    }
    const ino = await takeIds(this.#engine, this.#keys, 'ino', 1);
    const inode = newInode(S_IFDIR | 0o700, 0, 0, this.#nowNs, { parent: ROOT_INO });
    await this.#commit(
      [
        { key, value: encodeDentry(ino, DT_DIR) },
        { key: this.#keys.inode(ino), value: encodeInode(inode) },
      ],
      [
        { number: this.#keys.subdirectories(ROOT_INO), add: 1n },
        { number: this.#keys.entriesChanged(ROOT_INO), max: this.#nowNs },
        { number: this.#keys.counter('inodes'), add: 1n },
      ],
    );
    return (this.#lostAndFound = ino);
  }
}
