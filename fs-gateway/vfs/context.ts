/** What the parts of the virtual file system share: the volume, its data, the clock, and how long the kernel may believe us. */
import type { Clock } from '../../lib/clock.ts';
import { INODE_FROZEN, INODE_LISTING, INODE_TRASHED, isDirectory } from '../../lib/volume/inode.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import type { Node } from '../meta/cache.ts';
import type { Content } from '../meta/content.ts';
import type { VolumeView } from '../meta/view.ts';
import type { KeptAside } from '../data/kept-aside.ts';
import type { BlockReader } from '../data/block-reader.ts';
import type { Staging } from '../data/staging.ts';
import type { WholeFiles } from '../data/whole-files.ts';
import type { Away } from './away.ts';
import type { Handles } from './handles.ts';
import { Errno, PosixError } from './operations.ts';
import type { Result } from './operations.ts';
import type { ToldNames } from './told-names.ts';

export const NAME_MAX = 255;

export interface Context {
  readonly view: VolumeView;
  readonly content: Content;
  readonly format: VolumeFormat;
  readonly reader: BlockReader;
  readonly staging: Staging;
  readonly time: TimeSource;
  readonly whole: WholeFiles;
  readonly away: Away;
  readonly keptAside: KeptAside;
  readonly handles: Handles;
  readonly told: ToldNames;
  /** Entries and attributes in the kernel; pushed invalidations make it long. */
  readonly ttlMs: number;
  report(message: string): void;
}

/** Nanosecond times that never repeat and never go back by less than a jump of the clock. */
export class TimeSource {
  readonly #clock: Clock;
  #lastNs = 0n;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  nowNs(): bigint {
    const nowNs = BigInt(Math.floor(this.#clock.nowMs())) * 1_000_000n;
    // Within a second: the same millisecond again, or a clock that is being slewed.
    const next = nowNs <= this.#lastNs && this.#lastNs - nowNs < 1_000_000_000n ? this.#lastNs + 1n : nowNs;
    this.#lastNs = next;
    return next;
  }
}

export function assertName(name: string): void {
  if (name.length > NAME_MAX) throw new PosixError(Errno.ENAMETOOLONG, `a name of ${name.length} bytes`);
}

/** The inode, or ENOENT. */
export function nodeOrThrow(view: VolumeView, ino: number): Result<Node> {
  const node = view.node(ino);
  if (node instanceof Promise) return node.then((found) => found ?? missing(ino));
  return node ?? missing(ino);
}

export function missing(ino: number): never {
  throw new PosixError(Errno.ENOENT, `inode ${ino} is gone`);
}

/** EROFS for what is in a snapshot. */
export function refuseFrozen({ ino, inode }: Node): void {
  if ((inode.flags & INODE_FROZEN) !== 0) throw new PosixError(Errno.EROFS, `inode ${ino} is of a snapshot`);
}

/**
 * A directory whose entries may be changed: the lake's own listings belong to its tables. From what is in the trash, names may only be
 * taken away (`takes`).
 */
export async function writableDirectory(view: VolumeView, ino: number, takes = false): Promise<Node> {
  const found = nodeOrThrow(view, ino);
  const node = found instanceof Promise ? await found : found;
  if (!isDirectory(node.inode)) throw new PosixError(Errno.ENOTDIR, `inode ${ino} is not a directory`);
  if ((node.inode.flags & INODE_LISTING) !== 0) {
    throw new PosixError(
      Errno.EPERM,
      `directory ${ino} is a listing of the lake: its files are changed through the table`,
    );
  }
  refuseFrozen(node);
  if ((node.inode.flags & INODE_TRASHED) !== 0 && !takes) {
    // A program may still stand in a directory that was removed.
    if (node.inode.nlink === 0) throw new PosixError(Errno.ENOENT, `directory ${ino} was removed`);
    throw new PosixError(Errno.EPERM, `directory ${ino} is one of the trash: names can only be removed, or moved out`);
  }
  return node;
}
