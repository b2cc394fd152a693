/**
 * An estimate of what the kernel reads and writes by itself (passthrough), which no request tells of: the positions of open files in
 * /proc/<pid>/fdinfo, looked at every few seconds. What a position moved is counted for its process, as read where the file is open for reading only
 * and as written else.
 *
 * It is mostly too low: reads and writes at an offset (pread, mappings) move no position, and a file that is opened and closed between two looks
 * was never seen. It is too high where a program seeks forward. Nothing looks into the mount: that could wait for this very process.
 * Limits: PROCESSES_MAX that opened such a file since this process began, DESCRIPTORS_MAX open files a look, the rest at the next one.
 */
import { readdir, readlink } from 'node:fs/promises';
import type { Caller } from './caller.ts';
import type { HotFiles } from './hot-files.ts';
import { statOf, textOf } from './process-files.ts';

const PROCESSES_MAX = 64;
const DESCRIPTORS_MAX = 1000;
const MOUNT_TABLES_MAX = 64;
const O_ACCMODE = 3;

interface Watched {
  readonly caller: Caller;
  /** By descriptor. */
  positions: ReadonlyMap<string, OpenFile>;
}

interface OpenFile {
  readonly position: number;
  readonly isWritten: boolean;
  readonly mountId: string;
  readonly ino: number;
}

export interface PassedThroughOptions {
  /** Whether the kernel serves this file by itself at present. */
  passesThrough(ino: number): boolean;
  /** `major:minor` of the mount; undefined: nothing passes through. */
  readonly device: string | undefined;
}

export class PassedThrough {
  readonly #options: PassedThroughOptions;
  readonly #files: HotFiles;
  /** By process (thread group), in the order in which they are looked at. */
  readonly #watched = new Map<number, Watched>();
  #news: Caller[] = [];
  #sampling: Promise<boolean> | undefined;

  constructor(options: PassedThroughOptions, files: HotFiles) {
    this.#options = options;
    this.#files = files;
  }

  watch(caller: Caller): void {
    if (this.#options.device !== undefined && this.#news.length < PROCESSES_MAX) this.#news.push(caller);
  }

  callers(): Caller[] {
    return [...this.#news, ...[...this.#watched.values()].map(({ caller }) => caller)];
  }

  /** False: nobody has such a file open. */
  sample(): Promise<boolean> {
    return (this.#sampling ??= this.#sample().finally(() => (this.#sampling = undefined)));
  }

  async #sample(): Promise<boolean> {
    for (const caller of new Set(this.#news.splice(0))) {
      const process = /^Tgid:\s*(\d+)$/m.exec((await textOf(caller.pid, 'status')) ?? '')?.[1];
      if (process === undefined || this.#watched.size >= PROCESSES_MAX) continue;
      if (!this.#watched.has(Number(process))) this.#watched.set(Number(process), { caller, positions: new Map() });
    }
    let left = DESCRIPTORS_MAX;
    const mountIds = new Map<string, ReadonlySet<string>>();
    const counted = new Set<string>();
    for (const [pid, watched] of [...this.#watched]) {
      if (left <= 0) break;
      this.#watched.delete(pid);
      const files = await this.#openFiles(pid, watched, left, mountIds);
      left -= files.looked;
      if (files.open.size === 0) continue;
      this.#count(watched, files.open, counted);
      this.#watched.set(pid, { ...watched, positions: files.open });
    }
    return this.#watched.size > 0;
  }

  async #openFiles(
    pid: number,
    { caller }: Watched,
    max: number,
    known: Map<string, ReadonlySet<string>>,
  ): Promise<{ readonly looked: number; readonly open: ReadonlyMap<string, OpenFile> }> {
    const open = new Map<string, OpenFile>();
    // The id may be another process's by now.
    const stat = pid === caller.pid && caller.startTicks !== undefined ? await statOf(pid) : null;
    if (stat !== null && stat.startTicks !== caller.startTicks) return { looked: 1, open };
    const names = (await readdir(`/proc/${pid}/fdinfo`).catch(() => [])).slice(0, max);
    const mountIds = names.length === 0 ? new Set<string>() : await this.#mountIds(pid, known);
    if (mountIds.size === 0) return { looked: 1, open };
    for (const name of names) {
      const file = parseOpenFile((await textOf(pid, `fdinfo/${name}`)) ?? '');
      if (file !== null && mountIds.has(file.mountId) && this.#options.passesThrough(file.ino)) open.set(name, file);
    }
    return { looked: names.length, open };
  }

  /** Of all places where the process sees the mount; those of one mount namespace are asked once a look. */
  async #mountIds(pid: number, known: Map<string, ReadonlySet<string>>): Promise<ReadonlySet<string>> {
    const space = await readlink(`/proc/${pid}/ns/mnt`).catch(() => String(pid));
    let ids = known.get(space);
    if (ids === undefined) {
      ids = mountIdsOf((await textOf(pid, 'mountinfo')) ?? '', this.#options.device ?? '');
      if (known.size < MOUNT_TABLES_MAX) known.set(space, ids);
    }
    return ids;
  }

  /** `counted`: positions that moved in this look. A file that processes have inherited from each other moves at one place for all. */
  #count({ caller, positions }: Watched, open: ReadonlyMap<string, OpenFile>, counted: Set<string>): void {
    for (const [name, file] of open) {
      const before = positions.get(name);
      const from = before?.ino === file.ino ? before.position : 0;
      // It was set back: what was read since then is behind that.
      const moved = file.position >= from ? file.position - from : 0;
      const place = `${file.ino}:${file.position}:${file.isWritten}`;
      if (moved === 0 || counted.has(place)) continue;
      counted.add(place);
      if (file.isWritten) caller.counts.kernelWrittenBytes += moved;
      else caller.counts.kernelReadBytes += moved;
      this.#files.add(file.ino, file.isWritten ? 0 : moved, file.isWritten ? moved : 0, performance.now());
    }
  }
}

/** proc(5), fdinfo: `pos:`, `flags:` (octal), `mnt_id:`, and since Linux 5.14 `ino:`. */
export function parseOpenFile(text: string): OpenFile | null {
  const field = (name: string): string | undefined => new RegExp(`^${name}:\\s*(\\d+)$`, 'm').exec(text)?.[1];
  const [position, flags, mountId, ino] = [field('pos'), field('flags'), field('mnt_id'), field('ino')];
  if (position === undefined || flags === undefined || mountId === undefined || ino === undefined) return null;
  return {
    position: Number(position),
    isWritten: (Number.parseInt(flags, 8) & O_ACCMODE) !== 0,
    mountId,
    ino: Number(ino),
  };
}

/** The ids of all mounts of a file system in a mount table (mountinfo: `id parent major:minor ...`). */
export function mountIdsOf(mountinfo: string, device: string): ReadonlySet<string> {
  const lines = mountinfo.split('\n').map((line) => line.split(' ', 3));
  return new Set(lines.filter(([, , at]) => at === device).map(([id = '']) => id));
}
