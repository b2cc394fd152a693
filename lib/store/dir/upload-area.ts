/**
 * Where objects are written before they get their name: `ROOT/.penstock/uploads/`, in the same file system as the objects and
 * outside of what any key can name.
 *
 * Failure: a killed put leaves its file here, and nowhere else. Whoever opens the store later removes files that are old enough
 * and belong to no live process; a file of a live process is never touched, its every write makes it young again.
 */
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { systemCode } from '../../errors.ts';
import { RESERVED_SEGMENT } from '../object-key.ts';

/** The owner is a dead process of this machine: only a pid that was read wrongly could be alive. */
const DEAD_OWNER_AGE_MS = 10 * 60_000;
/** The owner is on another machine, or its pid is in use (perhaps by another process): no single write takes that long. */
const UNKNOWN_OWNER_AGE_MS = 24 * 3600_000;

export class UploadArea {
  readonly #folder: string;
  readonly #host = hostname()
    .replaceAll(/[^A-Za-z0-9.-]/g, '-')
    .slice(0, 64);

  private constructor(root: string) {
    this.#folder = join(root, RESERVED_SEGMENT, 'uploads');
  }

  /** Creates the area and removes what crashed processes left in it. */
  static async open(root: string, nowMs: number): Promise<UploadArea> {
    const area = new UploadArea(root);
    await mkdir(area.#folder, { recursive: true });
    await area.#clean(nowMs);
    return area;
  }

  /** A path for one new file. */
  newPath(): string {
    return join(this.#folder, `${this.#host}_${process.pid}_${randomUUID()}`);
  }

  /** A new, empty file under a fresh path. */
  async create(): Promise<{ path: string; handle: FileHandle }> {
    const path = this.newPath();
    return { path, handle: await open(path, 'wx', 0o644) };
  }

  async #clean(nowMs: number): Promise<void> {
    for (const name of await readdir(this.#folder)) {
      const path = join(this.#folder, name);
      const ageMs = nowMs - (await modifiedMs(path));
      if (ageMs > (this.#isOfDeadProcess(name) ? DEAD_OWNER_AGE_MS : UNKNOWN_OWNER_AGE_MS)) {
        await rm(path, { force: true });
      }
    }
  }

  #isOfDeadProcess(name: string): boolean {
    const [host, pid] = name.split('_');
    if (host !== this.#host || !/^\d+$/.test(pid ?? '')) return false;
    try {
      process.kill(Number(pid), 0);
      return false;
    } catch (error) {
      return systemCode(error) === 'ESRCH';
    }
  }
}

/** Infinitely young when it is gone: its put has ended. */
async function modifiedMs(path: string): Promise<number> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return Infinity;
    throw error;
  }
}
