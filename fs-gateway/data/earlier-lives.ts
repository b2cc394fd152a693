/**
 * What a mount point had staged in a life of its volume that is over, because a dump of the volume was loaded since (lib/volume/format.ts). An inode number of then may be
 * another file's now, so nothing of it is committed: it is kept aside, in the folder where it was staged, and the caches of that life go.
 *
 * Invariants: the bytes are kept aside (kept-aside.ts) before they are let go. What other mount points had staged is theirs to keep.
 * Failure: is never one of the mount. What cannot be kept stays staged, the log says why, and the next mount tries again; killed between the two, a mount has kept
 *   the same bytes under one name, and the next one keeps them under another.
 */
import { closeSync, existsSync, fstatSync, openSync, readdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../lib/clock.ts';
import { describeError } from '../../lib/errors.ts';
import { idOfLife } from '../../lib/volume/format.ts';
import { setAside, tryLock } from './abandoned.ts';
import { FileHasher } from './file-hasher.ts';
import type { Hole } from './file-hasher.ts';
import { ASIDE_FOLDER, KeptAside } from './kept-aside.ts';
import type { WrittenFile } from './kept-aside.ts';
import { LiveComparison } from './live-comparison.ts';
import type { Overlay } from './overlay.ts';
import { Staging } from './staging.ts';
import { readLife } from './staging-life.ts';
import { WHOLE_FOLDER, WholeFiles } from './whole-files.ts';

export interface EarlierLivesOptions {
  readonly cacheDir: string;
  /** Of the volume as it is. */
  readonly life: string;
  /** Of the mount point, in the folder of each life. */
  readonly mountFolder: string;
  readonly bootId: string;
  readonly clock: Clock;
  readonly holes: (fd: number) => readonly Hole[];
  readonly report: (message: string) => void;
}

export class EarlierLives {
  readonly #options: EarlierLivesOptions;
  readonly #bases: readonly string[];

  constructor(options: EarlierLivesOptions) {
    const { cacheDir, life } = options;
    this.#options = options;
    this.#bases = readdirSync(cacheDir)
      .filter((name) => name !== life && idOfLife(name) === idOfLife(life))
      .map((name) => join(cacheDir, name));
  }

  /** How many files are kept aside. */
  get keptAside(): number {
    return this.#bases.reduce((sum, base) => sum + this.#asideOf(base).count, 0);
  }

  #asideOf(base: string): KeptAside {
    return new KeptAside(join(base, this.#options.mountFolder, ASIDE_FOLDER));
  }

  async keepAside(): Promise<void> {
    for (const base of this.#bases) {
      try {
        await this.#keepAside(base);
        for (const unused of await setAside(base, Infinity)) await rm(unused, { recursive: true, force: true });
      } catch (error) {
        const why = `is of the time before a dump of the volume was loaded, and stays there`;
        this.#options.report(`what is left in ${base} ${why}: ${describeError(error)}`);
      }
    }
  }

  async #keepAside(base: string): Promise<void> {
    const { mountFolder, report } = this.#options;
    const dir = join(base, mountFolder);
    if (!existsSync(dir)) return;
    const lock = await tryLock(dir);
    if (lock === undefined) {
      report(`what is staged in ${dir} is kept aside by the next mount: the process that staged it still runs`);
      return;
    }
    try {
      const aside = this.#asideOf(base);
      await this.#keepStaged(dir, aside);
      if (existsSync(join(dir, WHOLE_FOLDER))) await this.#keepLive(join(dir, WHOLE_FOLDER), aside);
    } finally {
      lock.release();
    }
  }

  async #keepStaged(dir: string, aside: KeptAside): Promise<void> {
    const { bootId, clock } = this.#options;
    // Of the mount that staged it: its workers are told by it that they serve this volume no more.
    const life = readLife(dir)?.life ?? '';
    // Whether something was committed before the load does not matter: kept once more it costs only room.
    const staging = new Staging({ dir, life, bootId, promises: false, isCommitted: () => false });
    try {
      for (const file of [...staging.files.values()]) {
        if (!file.active.empty) await this.#keep(aside, file, file.size, file.active);
        staging.drop(file, BigInt(clock.nowMs()) * 1_000_000n);
      }
    } finally {
      staging.close();
    }
  }

  /** Files that the kernel wrote by itself: what differs from their last flush. */
  async #keepLive(dir: string, aside: KeptAside): Promise<void> {
    const { bootId, holes, report } = this.#options;
    const whole = new WholeFiles({ dir, bytesMax: Infinity, freeBytesMin: 0, bootId, isInUse: () => false, report });
    const hasher = new FileHasher();
    try {
      for (const ino of [...whole.live]) {
        const base = whole.records.base(ino);
        if (base === null) continue;
        const fd = openSync(whole.path(ino), 'r');
        try {
          const compared = new LiveComparison({ hasher, inlineBytes: 0, holes }, fd);
          const changed = await compared.changes(fstatSync(fd).size, base.hashes);
          const { size } = compared;
          const load: WrittenFile['load'] = (offset, target, at, length) =>
            compared.load(offset, target.subarray(at, at + length));
          if (!changed.empty || size !== base.content.size) await this.#keep(aside, { ino, load }, size, changed);
        } finally {
          closeSync(fd);
        }
        whole.drop(ino);
      }
    } finally {
      whole.close();
      await hasher.close();
    }
  }

  async #keep(aside: KeptAside, file: WrittenFile, size: number, written: Overlay): Promise<void> {
    const path = await aside.keep(file, size, written.ranges, this.#options.clock.nowMs());
    this.#options.report(
      `inode ${file.ino} was changed here before a dump of the volume was loaded: what was written to it is kept in ${path}, and not in the volume`,
    );
  }
}
