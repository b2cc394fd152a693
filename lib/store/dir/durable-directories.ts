/**
 * Makes directories and knows which of them are on the disk.
 *
 * An object is durable only when every directory above it is: the entry of a new directory is written by an fsync of its parent.
 * Another process may have made the directory a moment ago and not have synced it yet, so the first use of every directory syncs
 * the whole chain up to the root; afterwards its identity (inode and birth time: inode numbers are used again) is remembered.
 */
import { mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemCode } from '../../errors.ts';

/** A volume of 8 MiB blocks spreads over far fewer directories; above it, syncing a chain again is only slower. */
const KNOWN_MAX = 10_000;

export class DurableDirectories {
  readonly #root: string;
  readonly #known = new Map<string, string>();

  /** `root` exists and is durable. */
  constructor(root: string) {
    this.#root = root;
  }

  /**
   * Creates `root/relative` and what is missing above it. ENOENT when somebody removes a folder meanwhile: try again. (Node's own
   * recursive mkdir reports that race as ENOTDIR, which would be taken for an object in the way.)
   */
  async make(relative: string): Promise<void> {
    if (relative === '' || (await this.#makeOne(relative))) return;
    await this.make(parentOf(relative));
    await mkdir(join(this.#root, relative)).catch((error: unknown) => {
      if (systemCode(error) !== 'EEXIST') throw error;
    });
  }

  /** False when the folder above is missing. */
  async #makeOne(relative: string): Promise<boolean> {
    try {
      await mkdir(join(this.#root, relative));
      return true;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return false;
      if (systemCode(error) === 'EEXIST') return true;
      throw error;
    }
  }

  /** Writes the entries of `root/relative`, and the chain above it, to the disk. */
  async sync(relative: string): Promise<void> {
    const path = join(this.#root, relative);
    const identity = await syncDirectory(path);
    if (relative === '' || this.#known.get(path) === identity) return;
    await this.sync(parentOf(relative));
    if (this.#known.size >= KNOWN_MAX) this.#known.clear();
    this.#known.set(path, identity);
  }
}

function parentOf(relative: string): string {
  const parent = dirname(relative);
  return parent === '.' ? '' : parent;
}

async function syncDirectory(path: string): Promise<string> {
  const handle = await open(path, 'r');
  try {
    const { ino, birthtimeNs } = await handle.stat({ bigint: true });
    try {
      await handle.sync();
    } catch (error) {
      // Some file systems (SMB, a few FUSE ones) have no fsync of a directory; they write entries synchronously.
      if (systemCode(error) !== 'EINVAL') throw error;
    }
    return `${ino}.${birthtimeNs}`;
  } finally {
    await handle.close();
  }
}
