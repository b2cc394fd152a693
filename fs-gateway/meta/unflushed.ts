/**
 * What this mount committed and nobody flushed yet: which of it a failover of the engine lost, so that the next fsync says so.
 *
 * Invariants: the engine's flush says that what it has is durable, which after a failover may be less than what the engine before it had
 * acknowledged. Replicas have a beginning of what their master had, so the last record that was committed of an inode (its own, or an
 * entry of the directory) tells of all before it: it is lost when the record is again what our commits had replaced. (Any other version is a
 * later change by another mount.) `adopt` looks before anything is changed in the new epoch.
 * Limits: the last INODES_MAX inodes that were changed here, and of each the last REPLACED_MAX versions; at a failover these are read, in portions.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { Key, MetaEngine, Version } from '../../lib/meta/engine.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Change, LastWord } from './change.ts';

const INODES_MAX = 16_384;
const REPLACED_MAX = 64;
const READ_MAX = 512;

interface LastCommit {
  readonly key: Key;
  /** null: the record was removed, or was not there. */
  version: Version | null;
  /** Oldest first, each once. */
  readonly replaced: (Version | null)[];
}

export class Unflushed {
  /** By inode; of twice as many, the younger half are those that were changed last. */
  readonly #last = new BoundedMap<number, LastCommit>(2 * INODES_MAX);
  readonly #lost = new Set<number>();
  #epoch = '';

  committed(change: Change, version: Version): void {
    for (const word of change.lastWords()) this.#note(word, version);
  }

  #note({ ino, key, before, removed }: LastWord, version: Version): void {
    const known = this.#last.get(ino);
    const same = known?.key.bucket === key.bucket && known.key.field === key.field;
    const last = same ? known : { key, version: null, replaced: [] };
    last.version = removed ? null : version;
    removeFrom(last.replaced, before);
    removeFrom(last.replaced, last.version);
    if (before !== last.version) last.replaced.push(before);
    if (last.replaced.length > REPLACED_MAX) last.replaced.shift();
    if (last !== known) this.#last.set(ino, last);
  }

  /** A new engine, before it is used. Returns the inodes of which changes are lost. */
  async adopt(engine: MetaEngine): Promise<readonly number[]> {
    if (engine.epoch === this.#epoch) return [];
    const commits = this.#epoch === '' ? [] : [...this.#last.entries()];
    const lost: number[] = [];
    for (let at = 0; at < commits.length; at += READ_MAX) {
      const portion = commits.slice(at, at + READ_MAX);
      const found = await engine.read(portion.map(([, { key }]) => key));
      for (const [index, [ino, { version, replaced }]] of portion.entries()) {
        const current = found[index]?.version ?? null;
        if (current !== version && replaced.includes(current)) lost.push(ino);
      }
    }
    for (const ino of lost) {
      this.#last.delete(ino);
      this.#lost.add(ino);
    }
    this.#epoch = engine.epoch;
    return lost;
  }

  /** Returns when what was committed here of the inode is durable. Throws `io`, once, when a failover lost it. */
  async flush(engine: MetaEngine, ino: number): Promise<void> {
    if (this.#lost.delete(ino)) {
      throw new PenstockError('io', `inode ${ino}: a failover of the metadata engine lost what was committed`);
    }
    const version = this.#last.get(ino)?.version;
    await engine.flush();
    // What was committed meanwhile is not flushed.
    if (this.#last.get(ino)?.version === version) this.#last.delete(ino);
  }
}

function removeFrom(versions: (Version | null)[], version: Version | null): void {
  const at = versions.indexOf(version);
  if (at >= 0) versions.splice(at, 1);
}
