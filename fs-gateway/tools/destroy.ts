/**
 * Removes a volume: its format first, so that nobody can mount it any more, then its records, then its objects.
 *
 * Invariants
 * - A volume that is mounted is refused (`held`), also one that is being mounted while we look: a mount opens its session before it reads the
 *   format, so sessions are looked at again after the format is gone, and it is put back when there is one. One that has lost its session and comes
 *   back does the same, and serves no more (meta/volume-identity.ts).
 * - One that a clone is made in, or a snapshot is removed from, is refused too (`conflict`): they begin only while there is a format.
 * - A marker ({v}meta destroy) holds the format until the end. Every commit compares it: of two that destroy a volume at once, one ends the
 *   other by removing it, and neither can touch a volume that was made anew under the name.
 * - Objects go after the records that refer to them, and after the backups of these.
 * - The lake's own objects (tables, quarantine) stay: they are the tables', also where the volume shows them.
 * Failure: killed at any point, the next call goes on from the marker.
 * Limits: PORTION records in a commit.
 */
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, Patch, Version, Write } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { treesIn } from '../../lib/volume/building.ts';
import { parseFormat } from '../../lib/volume/format.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { backupsOf } from '../../lib/volume/backups.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { scanBucket } from '../../lib/volume/references.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';
import { holdsNumbers } from './dump-buckets.ts';
import { mountNames } from './tool.ts';
import type { Progress } from './tool.ts';

const PORTION = 400;
/** Of a delete request to the store. */
const OBJECTS_PORTION = 1000;

export interface DestroyOptions {
  readonly engine: MetaEngine;
  readonly volume: string;
  /** Only a volume of this id: another one of the name is left alone. */
  readonly id: string;
  openStore(url: string): Promise<ObjectStore>;
  readonly progress?: Progress;
}

/** False when there is no such volume (any more). Throws `held` when it is mounted, `conflict`. */
export async function destroyVolume(options: DestroyOptions): Promise<boolean> {
  const marked = await mark(options);
  if (marked === null) return false;
  await new Destruction(options, marked).run();
  return true;
}

interface Marked {
  readonly format: VolumeFormat;
  readonly version: Version;
}

function markerOf(keys: VolumeKeys): VolumeKeys['formatKey'] {
  return { bucket: keys.formatKey.bucket, field: 'destroy' };
}

async function mark({ engine, volume, id }: DestroyOptions): Promise<Marked | null> {
  const keys = new VolumeKeys(volume);
  const marker = markerOf(keys);
  const [format, marked] = await engine.read([keys.formatKey, marker]);
  if (marked !== null && marked !== undefined) {
    const found = parseFormat(marked.value, volume);
    return found.id === id ? { format: found, version: marked.version } : null;
  }
  if (format === null || format === undefined) return null;
  const parsed = parseFormat(format.value, volume);
  if (parsed.id !== id) return null;
  await refuseUsed(engine, keys);
  const taken = await engine.commit({
    compare: [
      { key: keys.formatKey, version: format.version },
      { key: marker, version: null },
    ],
    write: [
      { key: keys.formatKey, value: null },
      { key: marker, value: format.value },
    ],
  });
  if (!taken.ok) throw new PenstockError('conflict', `volume '${volume}' is being changed by another process`);
  try {
    await refuseUsed(engine, keys);
  } catch (error) {
    await engine.commit({
      compare: [{ key: marker, version: taken.version }],
      write: [
        { key: keys.formatKey, value: format.value },
        { key: marker, value: null },
      ],
    });
    throw error;
  }
  return { format: parsed, version: taken.version };
}

async function refuseUsed(engine: MetaEngine, keys: VolumeKeys): Promise<void> {
  const { volume } = keys;
  const { underWay } = await treesIn(engine, keys);
  if (underWay.length > 0) {
    throw new PenstockError('conflict', `a tree of volume '${volume}' is being copied or removed: try again`);
  }
  const mounts = await liveMounts(engine, volume);
  if (mounts.length > 0) {
    throw new PenstockError('held', `volume '${volume}' is mounted: ${mountNames(mounts)}`);
  }
}

class Destruction {
  readonly #options: DestroyOptions;
  readonly #marked: Marked;
  readonly #keys: VolumeKeys;
  #records = 0;

  constructor(options: DestroyOptions, marked: Marked) {
    this.#options = options;
    this.#marked = marked;
    this.#keys = new VolumeKeys(options.volume);
  }

  async run(): Promise<void> {
    const { engine, volume } = this.#options;
    const marker = markerOf(this.#keys);
    const tag = `{${volume}}`;
    for await (const bucket of engine.buckets(tag)) {
      if (bucket !== marker.bucket) await this.#clear(bucket, holdsNumbers(bucket.slice(tag.length)));
    }
    const store = await this.#options.openStore(this.#marked.format.store);
    try {
      await this.#deleteObjects(store, backupsOf(this.#marked.format));
      await this.#deleteObjects(store, `${this.#marked.format.id}/`);
    } finally {
      await store.close();
    }
    const others: Write[] = [];
    for await (const [field] of scanBucket(engine, marker.bucket)) {
      if (field !== marker.field) others.push({ key: { bucket: marker.bucket, field }, value: null });
    }
    await engine.clearInstants(tag);
    await this.#commit([...others, { key: marker, value: null }], []);
  }

  async #clear(bucket: string, numbers: boolean): Promise<void> {
    const { engine } = this.#options;
    if (numbers) {
      const fields = (await engine.numbers(bucket)).map(([field]) => field);
      for (let at = 0; at < fields.length; at += PORTION) {
        const portion = fields.slice(at, at + PORTION);
        await this.#commit(
          [],
          portion.map((field) => ({ number: { bucket, field }, remove: true }) as const),
        );
      }
      return;
    }
    let write: Write[] = [];
    for await (const [field] of scanBucket(engine, bucket)) {
      write.push({ key: { bucket, field }, value: null });
      if (write.length < PORTION) continue;
      await this.#commit(write, []);
      write = [];
    }
    if (write.length > 0) await this.#commit(write, []);
  }

  async #commit(write: readonly Write[], patch: readonly Patch[]): Promise<void> {
    const { engine, volume, progress } = this.#options;
    const compare = [{ key: markerOf(this.#keys), version: this.#marked.version }];
    const { ok } = await engine.commit({ compare, write, patch });
    if (!ok) throw new PenstockError('conflict', `volume '${volume}' is being removed by another process`);
    progress?.('records removed', (this.#records += write.length + patch.length));
  }

  async #deleteObjects(store: ObjectStore, prefix: string): Promise<void> {
    let keys: string[] = [];
    let deleted = 0;
    for await (const { key } of store.list(prefix)) {
      keys.push(key);
      if (keys.length < OBJECTS_PORTION) continue;
      this.#options.progress?.('objects deleted', (deleted += keys.length));
      await store.delete(keys);
      keys = [];
    }
    if (keys.length > 0) await store.delete(keys);
  }
}
