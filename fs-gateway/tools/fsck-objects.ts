/**
 * The objects that extents need, and whether the store has them: the volume's own by one listing, those of the lake and published ones by a
 * HEAD each.
 *
 * Limits: 4 bytes per object id, in pages; CHECKS objects of the lake at a time, PARALLEL requests.
 */
import type { ObjectStore } from '../../lib/store/store.ts';
import type { Extent } from '../../lib/volume/extents.ts';
import { blocksPrefix, objectKey } from '../data/pieces.ts';
import type { Progress } from './tool.ts';

const PAGE = 4096;
const CHECKS = 1024;
const PARALLEL = 16;

export interface BadObject {
  readonly key: string;
  /** Null: it is missing. */
  readonly bytes: number | null;
  readonly needed: number;
  /** It is another version than the one that was published. */
  readonly changed: boolean;
  /** The volume's own; null: an object of the lake. */
  readonly id: number | null;
  /** A file that needs it, where it is known already. */
  readonly ino: number | null;
}

export class ObjectNeeds {
  readonly #store: ObjectStore;
  readonly #volumeId: string;
  /** Bytes that extents need of each own object. */
  readonly #own = new Map<number, Uint32Array>();
  readonly #lake = new Map<
    string,
    { readonly needed: number; readonly etag: string | undefined; readonly ino: number }
  >();
  readonly #bad: BadObject[] = [];
  #objects = 0;
  #lakeObjects = 0;
  #highestId = 0;

  constructor(store: ObjectStore, volumeId: string) {
    this.#store = store;
    this.#volumeId = volumeId;
  }

  /** Objects that something refers to. One of the lake counts again where it was seen again much later. */
  get objects(): number {
    return this.#objects + this.#lakeObjects;
  }

  get highestId(): number {
    return this.#highestId;
  }

  async need(ino: number, extents: readonly Extent[]): Promise<void> {
    for (const { source } of extents) {
      if (source.kind === 'own') this.#needOwn(source.objectId, source.pieceOffset + source.storedBytes);
      else this.#lake.set(source.key, { needed: source.objectBytes, etag: source.etag, ino });
    }
    if (this.#lake.size >= CHECKS) await this.#checkLake();
  }

  #needOwn(id: number, bytes: number): void {
    this.#highestId = Math.max(this.#highestId, id);
    const number = Math.floor(id / PAGE);
    let page = this.#own.get(number);
    if (page === undefined) this.#own.set(number, (page = new Uint32Array(PAGE)));
    const before = page[id % PAGE] ?? 0;
    if (before === 0) this.#objects++;
    page[id % PAGE] = Math.max(before, bytes);
  }

  async #checkLake(): Promise<void> {
    const wanted = [...this.#lake];
    this.#lake.clear();
    this.#lakeObjects += wanted.length;
    for (let at = 0; at < wanted.length; at += PARALLEL) {
      await Promise.all(
        wanted.slice(at, at + PARALLEL).map(async ([key, { needed, etag, ino }]) => {
          const found = await this.#store.head(key);
          const bytes = found?.bytes ?? null;
          const changed = found !== null && etag !== undefined && found.etag !== etag;
          if (bytes === null || bytes < needed || changed)
            this.#bad.push({ key, bytes, needed, changed, id: null, ino });
        }),
      );
    }
  }

  /** Call once, at the end. */
  async check(progress: Progress): Promise<readonly BadObject[]> {
    await this.#checkLake();
    let listed = 0;
    for await (const { key, bytes } of this.#store.list(blocksPrefix(this.#volumeId))) {
      progress('objects listed', ++listed);
      const id = Number(key.slice(key.lastIndexOf('/') + 1));
      if (!Number.isSafeInteger(id) || id < 0 || objectKey(this.#volumeId, id) !== key) continue;
      this.#highestId = Math.max(this.#highestId, id);
      const page = this.#own.get(Math.floor(id / PAGE));
      const needed = page?.[id % PAGE] ?? 0;
      if (page === undefined || needed === 0) continue;
      if (bytes < needed) this.#bad.push({ key, bytes, needed, changed: false, id, ino: null });
      page[id % PAGE] = 0;
    }
    for (const [number, page] of this.#own) {
      for (let n = 0; n < PAGE; n++) {
        const needed = page[n] ?? 0;
        if (needed === 0) continue;
        const id = number * PAGE + n;
        const key = objectKey(this.#volumeId, id);
        // It may have been uploaded after its place in the listing had passed.
        const bytes = (await this.#store.head(key))?.bytes ?? null;
        if (bytes === null || bytes < needed) this.#bad.push({ key, bytes, needed, changed: false, id, ino: null });
      }
    }
    return this.#bad;
  }
}
