/**
 * Since when objects have been garbage: each gc writes the ids that it found without a reference for the first time as objects of the
 * store, named by the time, and deletes them when that is longer ago than the grace period. So an object stays that long after its last
 * reference is gone, and not only after it was written. The time is asked behind the walk: a backup that began during it may have read a
 * reference that was gone when the walk came there.
 *
 *   <volume id>/gc/<store's time, ms, 15 digits>-<n>:  u8 format (1), varint count, varint differences of the ascending ids, u32 CRC32C
 *
 * Invariants: an id is on a list only when its object was older than the grace period, so it is not of an upload under way and gains no
 * reference any more.
 * Failure: a list that cannot be read is void; its ids are written anew, and wait once more.
 * Limits: IDS_MAX ids in a list, a few bytes each.
 */
import type { ObjectStore } from '../../lib/store/store.ts';
import { ByteReader, ByteWriter } from '../../lib/volume/bytes.ts';
import { isCode } from '../../lib/errors.ts';
import { IdSet } from './id-set.ts';

const FORMAT = 1;
const IDS_MAX = 1_000_000;
const TIME_DIGITS = 15;

export function listsPrefix(volumeId: string): string {
  return `${volumeId}/gc/`;
}

export class GarbageLists {
  readonly #store: ObjectStore;
  readonly #prefix: string;
  readonly #known = new IdSet();
  readonly #ripe = new IdSet();
  readonly #finished: string[] = [];

  private constructor(store: ObjectStore, volumeId: string) {
    this.#store = store;
    this.#prefix = listsPrefix(volumeId);
  }

  /** Those written until `limitMs` are ripe. */
  static async read(store: ObjectStore, volumeId: string, limitMs: number): Promise<GarbageLists> {
    const lists = new GarbageLists(store, volumeId);
    for await (const { key } of store.list(lists.#prefix)) await lists.#read(key, limitMs);
    return lists;
  }

  async #read(key: string, limitMs: number): Promise<void> {
    const ripe = Number(key.slice(this.#prefix.length).split('-')[0]) <= limitMs;
    try {
      const reader = new ByteReader(await this.#store.get(key), key);
      if (reader.u8() !== FORMAT) throw reader.damaged('unknown format');
      let id = 0;
      for (let left = reader.varint(); left > 0; left--) {
        id += reader.varint();
        this.#known.add(id);
        if (ripe) this.#ripe.add(id);
      }
      reader.end();
      if (ripe) this.#finished.push(key);
    } catch (error) {
      if (!isCode(error, 'corrupt')) throw error;
      this.#finished.push(key);
    }
  }

  isKnown(id: number): boolean {
    return this.#known.has(id);
  }

  isRipe(id: number): boolean {
    return this.#ripe.has(id);
  }

  async write(ids: IdSet, nowMs: number): Promise<void> {
    const time = String(Math.floor(nowMs)).padStart(TIME_DIGITS, '0');
    let portion: number[] = [];
    let number = 0;
    for (const id of ids.ascending()) {
      portion.push(id);
      if (portion.length < IDS_MAX) continue;
      await this.#store.put(`${this.#prefix}${time}-${number++}`, encode(portion));
      portion = [];
    }
    if (portion.length > 0) await this.#store.put(`${this.#prefix}${time}-${number}`, encode(portion));
  }

  /** When all that is ripe is deleted, or was not garbage. */
  async finish(): Promise<void> {
    await this.#store.delete(this.#finished);
  }
}

function encode(ids: readonly number[]): Buffer {
  const writer = new ByteWriter().u8(FORMAT).varint(ids.length);
  let before = 0;
  for (const id of ids) {
    writer.varint(id - before);
    before = id;
  }
  return writer.finish();
}
