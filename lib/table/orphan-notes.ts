/**
 * Since when objects of a table have been orphans, while there are backups of the volume's metadata (lib/volume/backups.ts): a backup that
 * began before an object lost its last reference may have that reference, in a table pointer or a directory. So what is found without one
 * is noted, and deleted by a run that finds only younger backups.
 *
 *   orphans/DATASET/<store's time, ms, 15 digits>-<n>:  a JSON array of keys
 *
 * Invariants: the time of a note is asked behind the look at the table. An orphan gains no reference any more, so a note stays true; a load of
 * a backup, which brings references back, removes all notes.
 * Failure: a note that cannot be read is void; its objects are noted anew, and wait once more.
 * Limits: KEYS_MAX keys in a note; those of all notes of a dataset in memory.
 */
import type { ObjectStore } from '../store/store.ts';

export const ORPHAN_NOTES = 'orphans/';
const KEYS_MAX = 10_000;
const TIME_DIGITS = 15;
const NOTE = /^orphans\/[^/]+\/\d{15}-\d+$/;

/** Whatever else somebody put there is not ours. */
export function isOrphanNote(key: string): boolean {
  return NOTE.test(key);
}

export class OrphanNotes {
  readonly #store: ObjectStore;
  readonly #prefix: string;
  /** When each was noted first. */
  readonly #since = new Map<string, number>();
  readonly #notes: { readonly key: string; readonly orphans: readonly string[] }[] = [];
  readonly #waiting = new Set<string>();

  private constructor(store: ObjectStore, prefix: string) {
    this.#store = store;
    this.#prefix = prefix;
  }

  static async read(store: ObjectStore, dataset: string): Promise<OrphanNotes> {
    const notes = new OrphanNotes(store, `${ORPHAN_NOTES}${dataset}/`);
    for await (const { key } of store.list(notes.#prefix)) if (isOrphanNote(key)) await notes.#read(key);
    return notes;
  }

  async #read(key: string): Promise<void> {
    const orphans = parse(await this.#store.get(key));
    this.#notes.push({ key, orphans });
    const time = Number(key.slice(this.#prefix.length).split('-')[0]);
    for (const orphan of orphans) this.#since.set(orphan, Math.min(time, this.#since.get(orphan) ?? time));
  }

  /** Whether the orphan may go: it was one before `oldestMs`. One that may not is noted by `finish`. */
  mayGo(orphan: string, oldestMs: number): boolean {
    if ((this.#since.get(orphan) ?? Infinity) < oldestMs) return true;
    this.#waiting.add(orphan);
    return false;
  }

  /** When all orphans were asked for; `now` is the store's time. */
  async finish(now: () => Promise<number>): Promise<void> {
    const fresh = [...this.#waiting].filter((orphan) => !this.#since.has(orphan));
    const time = fresh.length === 0 ? '' : String(Math.floor(await now())).padStart(TIME_DIGITS, '0');
    for (let at = 0; at < fresh.length; at += KEYS_MAX) {
      const portion = JSON.stringify(fresh.slice(at, at + KEYS_MAX));
      await this.#store.put(`${this.#prefix}${time}-${at / KEYS_MAX}`, Buffer.from(portion));
    }
    const done = this.#notes.filter(({ orphans }) => !orphans.some((orphan) => this.#waiting.has(orphan)));
    await this.#store.delete(done.map(({ key }) => key));
  }
}

function parse(bytes: Buffer): readonly string[] {
  try {
    const value: unknown = JSON.parse(bytes.toString());
    return Array.isArray(value) ? value.filter((key) => typeof key === 'string') : [];
  } catch {
    return [];
  }
}
