/**
 * What was written on this node and is not in the volume, because others had changed the same bytes while the node was away (vfs/away.ts), or a dump of the volume
 * was loaded (earlier-lives.ts).
 *
 *   <dir>/<time>-<ino>        the bytes at their offsets, up to the last of them; what was not written here is a hole
 *   <dir>/<time>-<ino>.json   the inode, the size that the file had here, and the ranges that were written
 *
 * Invariants: both are on the disk, with their names, before the bytes are let go. Nobody but a person removes them.
 * Failure: what could not be kept whole is removed, as it is tried again and again; killed on the way, a file without its `.json` stays.
 */
import { readdirSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectory, replaceFile, syncDirectory } from '../../lib/durable-files.ts';
import { fromSystemError, PenstockError } from '../../lib/errors.ts';
import type { Range } from './overlay.ts';

/** In the folder of a mount. */
export const ASIDE_FOLDER = 'aside';
const STEP_BYTES = 2 ** 20;

/** Whose bytes are kept. */
export interface WrittenFile {
  readonly ino: number;
  /** Copies bytes that were written: `length` of them from `offset` on, to `at` of the target. */
  load(offset: number, target: Buffer, at: number, length: number): void;
}

/** It is not in the volume, and will not be. */
export class KeptAsideError extends PenstockError {
  constructor(message: string) {
    super('io', message);
  }
}

export class KeptAside {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** How many there are. */
  get count(): number {
    try {
      return readdirSync(this.#dir).filter((name) => name.endsWith('.json')).length;
    } catch {
      return 0; // None was ever kept.
    }
  }

  /** Returns where they are. Throws `full` and `io` when the local disk does. */
  async keep(file: WrittenFile, size: number, ranges: readonly Range[], nowMs: number): Promise<string> {
    const path = join(this.#dir, `${new Date(nowMs).toISOString().replaceAll(':', '-')}-${file.ino}`);
    try {
      await makeDirectory(this.#dir);
      const target = await open(path, 'w', 0o600);
      try {
        for (const { start, end, kind } of ranges) {
          for (let at = start; kind === 'data' && at < end; at += STEP_BYTES) {
            const bytes = Buffer.alloc(Math.min(STEP_BYTES, end - at));
            file.load(at, bytes, 0, bytes.length);
            for (let done = 0; done < bytes.length;)
              done += (await target.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
          }
        }
        await target.sync();
      } finally {
        await target.close();
      }
      await replaceFile(`${path}.json`, `${JSON.stringify({ inode: file.ino, size, ranges })}\n`);
      await syncDirectory(this.#dir);
    } catch (error) {
      await rm(path, { force: true }).catch(() => undefined);
      throw fromSystemError(error, `keeping what was written to inode ${file.ino} in ${this.#dir}`);
    }
    return path;
  }
}
