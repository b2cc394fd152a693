/**
 * Are the names linearizable? Wing and Gong's search: an order of the operations in which each does what it was seen to do, and which
 * keeps the order of those that did not overlap.
 *
 * Changes that were acknowledged are in that order for all mounts. Looks, and changes that were refused (EEXIST, ENOENT), may be answered by
 * the caches of a mount, name by name: they must not be older than what the same mount had acknowledged or looked at of the same name, and
 * are checked against all mounts when these have heard of everything (`end`). (A refusal may be newer than the looks after it: it can come from
 * the engine, while the kernel still has an entry that is about to be invalidated.)
 * An operation that failed with an error may have taken effect at any time after its start, or never.
 * Limits: SEARCH_MAX steps for the operations between two states that are known; the search remembers where it was in vain.
 */
import { failed, type Operation } from './history.ts';

/** Histories that have an order show it in a few hundred steps. */
const SEARCH_MAX = 50_000;

type Names = ReadonlyMap<string, number>;

/** The names after it, or null when it cannot have had this result. */
function step(names: Names, { kind, args, result }: Operation): Names | null {
  const [first = '', second = ''] = args;
  const at = names.get(first) ?? 0;
  const to = names.get(second) ?? 0;
  const set = (...changes: readonly (readonly [string, number])[]): Names => new Map([...names, ...changes]);
  switch (kind) {
    case 'look':
      return (result === 'ENOENT' ? 0 : result) === at ? names : null;
    case 'create':
      if (result === 'EEXIST') return at === 0 ? null : names;
      return at === 0 ? set([first, Number(result)]) : null;
    case 'unlink':
      if (result === 'ENOENT') return at === 0 ? names : null;
      return at === 0 ? null : set([first, 0]);
    case 'move':
      if (result === 'ENOENT') return at === 0 ? names : null;
      if (result === 'EEXIST') return to === 0 ? null : names;
      return at === 0 || to !== 0 ? null : set([second, at], [first, 0]);
    case 'replace':
      return set([first, Number(result)]);
    case 'link':
      // By the inode that the source was a moment before, which may have lost its names.
      if (result === 'ENOENT') return names;
      if (result === 'EEXIST') return to === 0 ? null : names;
      return to === 0 ? set([second, Number(result)]) : null;
    default:
      throw new Error(`unknown operation ${kind}`);
  }
}

function changes({ kind, result }: Operation): boolean {
  return kind !== 'look' && result !== 'EEXIST' && result !== 'ENOENT';
}

/** The names that the result tells of, or that it changed. */
function concerns({ kind, args, result }: Operation): readonly string[] {
  if (kind === 'link') return result === 'ENOENT' ? [] : args.slice(1);
  if (result === 'ENOENT') return args.slice(0, 1);
  if (result === 'EEXIST') return args.slice(-1);
  return kind === 'look' ? args.slice(0, 1) : args;
}

export interface NamesVerdict {
  readonly ok: boolean;
  /** Where the search came furthest: what could not follow. */
  readonly stuck: readonly Operation[];
}

export function checkNames(start: Names, history: readonly Operation[], end: Names): NamesVerdict {
  return new Search(history, end).run(start);
}

class Search {
  readonly #history: readonly Operation[];
  readonly #end: string;
  /** For each operation, those that come before it. */
  readonly #before: readonly (readonly number[])[];
  readonly #seen = new Set<string>();
  #furthest = -1;
  #left = SEARCH_MAX;
  #stuck: readonly Operation[] = [];

  constructor(history: readonly Operation[], end: Names) {
    this.#history = history;
    this.#end = keyOf(end);
    this.#before = history.map((later) =>
      [...history.keys()].filter((index) => {
        const earlier = history[index];
        if (earlier === undefined || earlier === later || failed(earlier) || earlier.end >= later.start) return false;
        if (changes(later)) return true;
        const informs = changes(earlier) || earlier.kind === 'look';
        return (
          informs && earlier.mount === later.mount && concerns(later).some((name) => concerns(earlier).includes(name))
        );
      }),
    );
  }

  run(start: Names): NamesVerdict {
    const ok = this.#search(start, new Uint8Array(this.#history.length), 0);
    return { ok, stuck: ok ? [] : this.#stuck };
  }

  #search(names: Names, done: Uint8Array, count: number): boolean {
    const placed = Uint8Array.from(done);
    let total = count;
    // What changes nothing and fits here is placed at once: waiting longer could not help anybody.
    for (let more = true; more;) {
      more = false;
      for (const [index, operation] of this.#history.entries()) {
        if (placed[index] === 1 || changes(operation) || !this.#isReady(index, placed)) continue;
        if (step(names, operation) === null) continue;
        placed[index] = 1;
        total++;
        more = true;
      }
    }
    const open = [...this.#history.keys()].filter((index) => placed[index] === 0);
    const needed = open.filter((index) => !this.#mayBeLeft(index));
    if (needed.length === 0 && keyOf(names) === this.#end) return true;
    const key = `${keyOf(names)}|${Buffer.from(placed).toString('latin1')}`;
    if (this.#seen.has(key)) return false;
    this.#seen.add(key);
    if (--this.#left < 0) throw new Error(`no order found in ${SEARCH_MAX} steps`);
    if (total > this.#furthest) {
      this.#furthest = total;
      this.#stuck = needed.flatMap((index) => this.#history[index] ?? []);
    }
    for (const index of open) {
      const operation = this.#history[index];
      if (operation === undefined || !changes(operation) || !this.#isReady(index, placed)) continue;
      for (const after of this.#outcomes(names, operation)) {
        const next = Uint8Array.from(placed);
        next[index] = 1;
        if (this.#search(after, next, total + 1)) return true;
      }
    }
    return false;
  }

  /** An operation with an error may have had no effect. */
  #mayBeLeft(index: number): boolean {
    const operation = this.#history[index];
    return operation === undefined || failed(operation);
  }

  #outcomes(names: Names, operation: Operation): Names[] {
    if (!failed(operation)) {
      const after = step(names, operation);
      return after === null ? [] : [after];
    }
    // Which inode was made or linked is not known after an error: it is whatever is looked at later.
    const seen = new Set(
      this.#history.flatMap(({ kind, result }) => (kind === 'look' && typeof result === 'number' ? [result] : [])),
    );
    const results = ['create', 'link', 'replace'].includes(operation.kind) ? [...seen] : [null];
    return results.flatMap((result) => step(names, { ...operation, result }) ?? []);
  }

  #isReady(index: number, placed: Uint8Array): boolean {
    return this.#before[index]?.every((earlier) => placed[earlier] === 1) === true;
  }
}

function keyOf(names: Names): string {
  return [...names]
    .filter(([, ino]) => ino !== 0)
    .map(([name, ino]) => `${name}=${ino}`)
    .sort()
    .join(',');
}
