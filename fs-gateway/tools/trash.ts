/**
 * What is in the trash of a volume (fs-gateway/vfs/trash.ts): shows it, brings it back, and removes it for good.
 *
 * Invariants: what is brought back goes to where it was, by one commit each, and replaces nothing; a directory that was removed comes back
 * before what was in it, and where another has its name meanwhile, its content goes there.
 * Limits: the entries of the trash in memory, some 300 bytes each; PARALLEL removals at a time.
 */
import type { Clock } from '../../lib/clock.ts';
import { describeError, PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { DT_DIR, DT_LNK, DT_REG } from '../../lib/volume/dentry.ts';
import { INODE_TRASHED, isDirectory } from '../../lib/volume/inode.ts';
import { ROOT_INO } from '../../lib/volume/keys.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { encodeOrphan } from '../../lib/volume/orphan.ts';
import type { Change } from '../meta/change.ts';
import type { EntryPage } from '../meta/directory-pages.ts';
import { VolumeView } from '../meta/view.ts';
import { NAME_MAX, TimeSource } from '../vfs/context.ts';
import { Namespace } from '../vfs/namespace.ts';
import { Errno, PosixError, RENAME_NOREPLACE } from '../vfs/operations.ts';
import { TRASH_NAME } from '../vfs/system-directories.ts';
import { hourEndMs, LONG_NAME_XATTR } from '../vfs/trash.ts';
import { formatOf } from './tool.ts';
import type { Progress } from './tool.ts';
import { join, namesOf, DirectoryPaths, resolveNames } from './volume-path.ts';

const PAGE = 500;
const PARALLEL = 16;
const FAILURES_SHOWN = 20;
const KINDS: Readonly<Record<number, string>> = {
  [DT_DIR]: 'directory',
  [DT_REG]: 'file',
  [DT_LNK]: 'symbolic link',
};
/** A tool asks once. */
const ONCE = { operation: undefined };

export interface TrashedItem {
  readonly id: number;
  /** Where it was; null when that is not known any more. */
  readonly path: string | null;
  readonly kind: string;
  readonly bytes: number;
  readonly removed: string;
}

export interface RestoreReport {
  readonly restored: number;
  readonly failed: number;
  readonly failures: readonly string[];
}

interface Entry {
  readonly hour: number;
  readonly field: string;
  readonly parent: number;
  readonly ino: number;
  readonly name: string;
  readonly type: number;
}

export class TrashCan {
  readonly #view: VolumeView;
  readonly #namespace: Namespace;
  readonly #progress: Progress;

  private constructor(engine: MetaEngine, format: VolumeFormat, clock: Clock, progress: Progress) {
    const view = VolumeView.over(engine, format.volume);
    this.#view = view;
    this.#progress = progress;
    // Nobody waits for these orphans: a mount that has one open enters itself, and the others, or gc, remove them. Nothing is opened here.
    const orphans = {
      add: (change: Change, ino: number) => change.write(view.keys.orphan(ino), encodeOrphan(['trash'])),
      unlinked: () => undefined,
      reserve: () => Promise.resolve(null),
    };
    this.#namespace = new Namespace({ view, time: new TimeSource(clock), format }, orphans);
  }

  static async open(
    engine: MetaEngine,
    volume: string,
    clock: Clock,
    progress: Progress = () => undefined,
  ): Promise<TrashCan> {
    return new TrashCan(engine, await formatOf(engine, volume), clock, progress);
  }

  async list(): Promise<TrashedItem[]> {
    const entries = await this.#entries();
    const paths = this.#paths(entries);
    const items: TrashedItem[] = [];
    for (let at = 0; at < entries.length; at += PAGE) {
      const portion = entries.slice(at, at + PAGE);
      const nodes = await this.#view.nodes(portion.map(({ ino }) => ino));
      for (const { ino, parent, name, type } of portion) {
        const node = nodes.get(ino);
        if (node === undefined) continue;
        const above = await paths.of(parent);
        items.push({
          id: ino,
          path: above === null ? null : join(above, name),
          kind: KINDS[type] ?? 'other',
          bytes: isDirectory(node.inode) ? 0 : node.inode.size,
          removed: new Date(Number(node.inode.ctimeNs / 1_000_000n)).toISOString(),
        });
      }
    }
    return items.sort((a, b) => (a.removed < b.removed ? -1 : 1));
  }

  /**
   * Brings back what was at these paths (of several that were, the last), with all that was below, or what has these ids. With `to`, the
   * one that is named goes there. Throws `not-found`, `usage`.
   */
  async restore(wanted: readonly string[], to?: string): Promise<RestoreReport> {
    const entries = await this.#entries();
    if (to !== undefined && wanted.length !== 1) throw new PenstockError('usage', '--to takes one path or id');
    // What is wrong with it is wrong for all of them.
    if (to !== undefined) namesOf(to);
    const restoring = new Restoring(this.#view, this.#namespace, entries);
    const failures: string[] = [];
    let restored = 0;
    for (const what of wanted) {
      const { top, below } = await this.#select(what, entries);
      const all = [...(top === undefined ? [] : [top]), ...below];
      if (all.length === 0) throw new PenstockError('not-found', `'${what}' is not in the trash`);
      for (const entry of all) {
        try {
          await restoring.restore(entry, entry === top ? to : undefined);
          restored++;
        } catch (error) {
          failures.push(`${showEntry(entry)}: ${describeError(error)}`);
        }
        this.#progress('restored', restored);
      }
    }
    return { restored, failed: failures.length, failures: failures.slice(0, FAILURES_SHOWN) };
  }

  async #select(
    what: string,
    entries: readonly Entry[],
  ): Promise<{ readonly top: Entry | undefined; readonly below: readonly Entry[] }> {
    if (/^\d+$/.test(what)) return { top: entries.find(({ ino }) => ino === Number(what)), below: [] };
    const path = `/${namesOf(what)
      .map((name) => Buffer.from(name, 'latin1').toString())
      .join('/')}`;
    const paths = this.#paths(entries);
    // The last one that was removed stands last.
    const latest = new Map<string, Entry>();
    for (const entry of entries) {
      const above = await paths.of(entry.parent);
      const at = above === null ? undefined : join(above, entry.name);
      if (at !== undefined && (at === path || at.startsWith(path === '/' ? path : `${path}/`))) latest.set(at, entry);
    }
    const top = latest.get(path);
    latest.delete(path);
    // Directories before what is in them.
    const below = [...latest].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, entry]) => entry);
    return { top, below };
  }

  #paths(entries: readonly Entry[]): DirectoryPaths {
    const directories = new Map(entries.filter(({ type }) => type === DT_DIR).map((entry) => [entry.ino, entry]));
    return new DirectoryPaths(this.#view, (ino) => directories.get(ino));
  }

  /** Removes for good what was removed in hours that ended until `untilMs`. With `look`, only counts. */
  async empty(untilMs: number, look = false): Promise<number> {
    let removed = 0;
    for (const { name, ino } of await this.#hours()) {
      const endMs = hourEndMs(name);
      if (endMs === undefined || endMs > untilMs) continue;
      const entries = await this.#inHour(ino);
      for (let at = 0; at < entries.length && !look; at += PARALLEL) {
        await Promise.all(entries.slice(at, at + PARALLEL).map((entry) => this.#remove(entry)));
        this.#progress('removed from the trash', removed + at);
      }
      removed += entries.length;
      if (!look) await ignore([Errno.ENOENT, Errno.ENOTEMPTY], () => this.#removeHour(name));
    }
    return removed;
  }

  #remove({ hour, field, type }: Entry): Promise<void> {
    return ignore([Errno.ENOENT], () =>
      type === DT_DIR ? this.#namespace.rmdir(ONCE, hour, field) : this.#namespace.unlink(ONCE, hour, field),
    );
  }

  async #removeHour(name: string): Promise<void> {
    const trash = await this.#view.entry(ROOT_INO, TRASH_NAME);
    if (trash !== null) await this.#namespace.rmdir(ONCE, trash.ino, name);
  }

  async #hours(): Promise<{ readonly name: string; readonly ino: number }[]> {
    const trash = await this.#view.entry(ROOT_INO, TRASH_NAME);
    if (trash === null) return [];
    const hours: { name: string; ino: number }[] = [];
    for await (const [name, { ino }] of scanAll(this.#view, trash.ino)) hours.push({ name, ino });
    return hours.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** In the order of their hours, and within one in that of their removal. */
  async #entries(): Promise<Entry[]> {
    const entries: Entry[] = [];
    for (const { ino } of await this.#hours()) {
      const within = await this.#inHour(ino);
      const removedNs = new Map<number, bigint>();
      for (let at = 0; at < within.length; at += PAGE) {
        const nodes = await this.#view.nodes(within.slice(at, at + PAGE).map((entry) => entry.ino));
        for (const [number, { inode }] of nodes) removedNs.set(number, inode.ctimeNs);
      }
      const timeOf = (entry: Entry): bigint => removedNs.get(entry.ino) ?? 0n;
      entries.push(...within.sort((a, b) => (timeOf(a) < timeOf(b) ? -1 : 1)));
    }
    return entries;
  }

  async #inHour(hour: number): Promise<Entry[]> {
    const entries: Entry[] = [];
    const seen = new Set<string>();
    for await (const [field, { ino, type }] of scanAll(this.#view, hour)) {
      const match = /^(\d+)-\d+-([^]*)$/.exec(field);
      if (match === null || seen.has(field)) continue;
      seen.add(field);
      const name = field.length < NAME_MAX ? (match[2] ?? '') : await this.#longName(ino, match[2] ?? '');
      entries.push({ hour, field, parent: Number(match[1]), ino, name, type });
    }
    return entries;
  }

  async #longName(ino: number, beginning: string): Promise<string> {
    const [stored] = await this.#view.read([this.#view.keys.xattr(ino, LONG_NAME_XATTR)]);
    const name = stored?.value.toString('latin1');
    return name?.startsWith(beginning) === true ? name : beginning;
  }
}

/** Directories come back once, whoever was in them. */
class Restoring {
  readonly #view: VolumeView;
  readonly #namespace: Namespace;
  readonly #left: Map<number, Entry>;
  /** Directories whose place another one has. */
  readonly #merged = new Map<number, number>();

  constructor(view: VolumeView, namespace: Namespace, entries: readonly Entry[]) {
    this.#view = view;
    this.#namespace = namespace;
    this.#left = new Map(entries.map((entry) => [entry.ino, entry]));
  }

  async restore(entry: Entry, to?: string): Promise<void> {
    if (this.#left.get(entry.ino) !== entry) return;
    const names = to === undefined ? undefined : namesOf(to);
    const name = names?.pop() ?? entry.name;
    const parent =
      names === undefined ? await this.#directory(entry.parent) : (await resolveNames(this.#view, names, to ?? '')).ino;
    try {
      await this.#namespace.rename(ONCE, entry.hour, entry.field, parent, name, RENAME_NOREPLACE);
    } catch (error) {
      const there = await this.#directoryThere(error, entry, parent, name);
      if (there === undefined) throw error;
      this.#merged.set(entry.ino, there);
    }
    this.#left.delete(entry.ino);
  }

  async #directoryThere(error: unknown, { type }: Entry, parent: number, name: string): Promise<number | undefined> {
    if (!(error instanceof PosixError) || error.errno !== Errno.EEXIST || type !== DT_DIR) return undefined;
    const node = await this.#namespace.lookup(parent, name);
    return node !== null && isDirectory(node.inode) ? node.ino : undefined;
  }

  async #directory(ino: number): Promise<number> {
    const removed = this.#left.get(ino);
    if (removed !== undefined) await this.restore(removed);
    const at = this.#merged.get(ino) ?? ino;
    const node = await this.#view.node(at);
    if (node === null || (node.inode.flags & INODE_TRASHED) !== 0) {
      throw new PenstockError('not-found', 'the directory that it was in is gone: say --to');
    }
    return at;
  }
}

async function* scanAll(view: VolumeView, directory: number): AsyncGenerator<EntryPage['entries'][number]> {
  for (let cursor: string | null = ''; cursor !== null;) {
    const page: EntryPage = await view.directories.scan(directory, cursor, PAGE);
    yield* page.entries;
    cursor = page.cursor;
  }
}

async function ignore(errnos: readonly number[], run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof PosixError) || !errnos.includes(error.errno)) throw error;
  }
}

function showEntry({ ino, name }: Entry): string {
  return `${ino} ('${join('', name).slice(1)}')`;
}
