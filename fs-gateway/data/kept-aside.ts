/**
 * What was written on this node and is not in the volume, because others had changed the same bytes while the node was away (vfs/away.ts), or a dump of the volume
 * was loaded (earlier-lives.ts), or its bytes are not what was written, or nobody can tell whether they are.
 *
 *   <dir>/<time>-<ino>           the bytes at their offsets, up to the last of them; what was not written here is a hole
 *   <dir>/<time>-<ino>.json      the inode, the size that the file had here, the ranges that were written, and of those some that are `damaged`
 *   <dir>/<time>-<ino>.<index>   a segment (found-segments.ts) as it is, written last at that time; its `.json` has the inode, the `offset` of its first byte in the file, and
 *                                the ranges of the file that the journal knows to be written
 *   doubtful.<name>              beside <dir>: such a segment, with its `.json`, that could not be moved there
 *
 * Invariants: both are on the disk, with their names, before the bytes are let go, or the journal does not speak of them. Nobody but a person removes them.
 * Failure: what could not be kept whole is removed, as it is tried again and again; killed on the way, a file without its `.json` stays. A segment is kept also where a full
 * disk has no room for its `.json`.
 */
import {
  closeSync,
  fdatasyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { makeDirectory, replaceFile, syncDirectory } from '../../lib/durable-files.ts';
import { describeError, fromSystemError, PenstockError } from '../../lib/errors.ts';
import { writeAll } from '../../lib/write-all.ts';
import type { DoubtfulSegment } from './found-segments.ts';
import { syncFolder } from './journal.ts';
import type { Range } from './overlay.ts';
import { SEGMENT_BYTES, StagedDamageError } from './segment-file.ts';

/** In the folder of a mount. */
export const ASIDE_FOLDER = 'aside';
const STEP_BYTES = 2 ** 20;

/** Whose bytes are kept. */
export interface WrittenFile {
  readonly ino: number;
  /** Copies bytes that were written: `length` of them from `offset` on, to `at` of the target. */
  load(offset: number, target: Buffer, at: number, length: number): void;
  /** The same where that throws StagedDamageError. */
  loadDamaged?(offset: number, target: Buffer, at: number, length: number): void;
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
    const damaged: { readonly start: number; readonly end: number }[] = [];
    try {
      await makeDirectory(this.#dir);
      const target = await open(path, 'w', 0o600);
      try {
        for (const { start, end, kind } of ranges) {
          for (let at = start; kind === 'data' && at < end; at += STEP_BYTES) {
            const bytes = Buffer.alloc(Math.min(STEP_BYTES, end - at));
            const damage = load(file, at, bytes);
            if (damage !== undefined) damaged.push({ start: damage.start, end: damage.end });
            await writeAll(target, bytes, at);
          }
        }
        await target.sync();
      } finally {
        await target.close();
      }
      const record = { inode: file.ino, size, ranges, ...(damaged.length > 0 && { damaged }) };
      await replaceFile(`${path}.json`, `${JSON.stringify(record)}\n`);
      await syncDirectory(this.#dir);
    } catch (error) {
      await rm(path, { force: true }).catch(() => undefined);
      throw fromSystemError(error, `keeping what was written to inode ${file.ino} in ${this.#dir}`);
    }
    return path;
  }
}

/** Returns what is off of it first. */
function load(file: WrittenFile, at: number, bytes: Buffer): StagedDamageError | undefined {
  try {
    file.load(at, bytes, 0, bytes.length);
    return undefined;
  } catch (error) {
    if (!(error instanceof StagedDamageError) || file.loadDamaged === undefined) throw error;
    file.loadDamaged(at, bytes, 0, bytes.length);
    return error;
  }
}

/** What a worker does not go on with. At once, as it starts; what cannot be moved is said, and no reason not to start. Returns what to tell. */
export function keepDoubtful(dir: string, doubtful: readonly DoubtfulSegment[]): string {
  const told = doubtful.map((segment) => {
    const { ino, ranges, path } = segment;
    const bytes = ranges.map(({ start, end }) => `${start} to ${end}`).join(', ');
    const what = `inode ${ino}${bytes === '' ? '' : `, bytes ${bytes}`}`;
    if (path === undefined) return `${what}: not there any more`;
    try {
      return `${what}: kept in ${keepSegment(dir, path, segment)}`;
    } catch (error) {
      return `${what}: in ${path}, which the next start removes, as it cannot be kept (${describeError(error)}): copy it before that`;
    }
  });
  return `of what was staged nobody can tell whether it is committed, because the word for it is lost; it is not uploaded: ${told.join('; ')}`;
}

function keepSegment(dir: string, path: string, segment: DoubtfulSegment): string {
  const { ino, offset } = segment;
  const time = statSync(path).mtime.toISOString().replaceAll(':', '-');
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    return moveSegment(path, join(dir, `${time}-${ino}.${offset / SEGMENT_BYTES}`), segment);
  } catch {
    // By its name the next worker would remove it: the journal does not speak of it then.
    return moveSegment(path, join(dirname(path), `doubtful.${basename(path)}`), segment);
  }
}

/** Returns where it is, and what is amiss with it. Throws when it is where it was. */
function moveSegment(path: string, kept: string, { ino, ranges, offset }: DoubtfulSegment): string {
  const record = `${kept}.json`;
  const unrecorded = failureOf(() => {
    writeFileSync(record, `${JSON.stringify({ inode: ino, offset, ranges })}\n`, { mode: 0o600, flush: true });
  });
  if (unrecorded !== undefined) rmSync(record, { force: true });
  try {
    renameSync(path, kept);
  } catch (error) {
    rmSync(record, { force: true });
    throw error;
  }
  const unsynced = failureOf(() => {
    syncBytes(kept);
    for (const folder of [dirname(kept), dirname(path)]) syncFolder(folder);
  });
  const amiss = [
    ...(unrecorded === undefined ? [] : [`, without its .json (${unrecorded})`]),
    ...(unsynced === undefined ? [] : [`, which a power cut may take (${unsynced})`]),
  ];
  return `${kept}${amiss.join('')}`;
}

/** Undefined: it has none. */
function failureOf(work: () => void): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    return describeError(error);
  }
}

function syncBytes(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fdatasyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
