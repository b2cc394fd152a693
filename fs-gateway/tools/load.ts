/**
 * Loads a dump (dump-file.ts) into an engine where the volume does not exist.
 *
 * Invariants
 * - The file is checked as a whole before anything is written. The format record comes last, so a volume that is half loaded cannot be
 *   mounted; a marker ({v}meta load) tells the next load that it may clear away what an interrupted one left.
 * - Ids are given out from well above everything that the dump or the store has: nodes may have cached blocks, and staged files, of ids
 *   that were given out after the dump was taken.
 * - A volume that mounts still have (`held`) is refused: who opened his session before the marker was there, and goes on with it, may have read the format that
 *   there was, and goes on with what he knows. Who opens it later finds no format, or the new one.
 * - Each load begins another life of the volume (lib/volume/format.ts): mounts that were away meanwhile write nothing of theirs into it.
 * Failure: killed at any point, the same load again clears and finishes.
 * Limits: PORTION records or PORTION_BYTES in a commit.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, Patch, Write } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { isOrphanNote, ORPHAN_NOTES } from '../../lib/table/orphan-notes.ts';
import { parseFormat } from '../../lib/volume/format.ts';
import type { VolumeFormat } from '../../lib/volume/format.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';
import { allInodes, scanBucket } from '../../lib/volume/references.ts';
import { blocksPrefix } from '../data/pieces.ts';
import { holdsNumbers } from './dump-buckets.ts';
import { listsPrefix } from './gc-lists.ts';
import { readDump, verifyDump } from './dump-file.ts';
import type { DumpLine } from './dump-file.ts';
import { mountNames } from './tool.ts';
import type { Progress } from './tool.ts';

const PORTION = 400;
/** A lease, and a little: of a mount that was killed, or that looks now and then whether its volume is there again. */
const MOUNTS_GO_MS = 6000;
const MOUNTS_LOOK_MS = 200;
const PORTION_BYTES = 4 * 2 ** 20;
const MISSING_SHOWN = 20;
/** More ids than a volume gives out in the life of a dump, and far from the end of 53 bits. */
const ID_GAP = 2 ** 24;

export interface LoadReport {
  readonly volume: string;
  readonly records: number;
  /** When the dump was taken. */
  readonly takenMs: number;
  /** False: the dump was taken of a volume that did not rest; run fsck --repair. */
  readonly consistent: boolean;
  readonly store: string;
  /** Objects of the lake that files of the volume need and the store has not: an erasure removed them, or the dump is older than the clean-ups allow. */
  readonly missingLakeObjects: number;
  /** The first of them. */
  readonly missing: readonly string[];
}

export interface LoadOptions {
  readonly volume: string;
  readonly engine: MetaEngine;
  readonly path: string;
  openStore(url: string): Promise<ObjectStore>;
  readonly progress?: Progress;
}

/** Throws `exists` when the volume has records, `held` when mounts still have it, `corrupt` and `unsupported` as `verifyDump`. */
export async function loadVolume(options: LoadOptions): Promise<LoadReport> {
  const { end } = await verifyDump(options.path);
  const load = new Load(options);
  await load.begin();
  const format = await load.records();
  const store = await options.openStore(format.store);
  let missing: readonly string[];
  try {
    await load.raiseIds(format, store);
    missing = await load.missingLakeObjects(store);
  } finally {
    await store.close();
  }
  await load.finish(format);
  const { consistent, takenMs } = end;
  return {
    volume: options.volume,
    records: load.count,
    takenMs,
    consistent,
    store: format.store,
    missingLakeObjects: missing.length,
    missing: missing.slice(0, MISSING_SHOWN),
  };
}

class Load {
  count = 0;
  readonly #options: LoadOptions;
  readonly #engine: MetaEngine;
  readonly #keys: VolumeKeys;
  readonly #tag: string;
  readonly #write = new Map<string, Write>();
  readonly #patch = new Map<string, Patch>();
  #bytes = 0;
  #format: VolumeFormat | undefined;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.#keys = new VolumeKeys(options.volume);
    this.#tag = `{${options.volume}}`;
  }

  get #marker(): { readonly bucket: string; readonly field: string } {
    return { bucket: this.#keys.formatKey.bucket, field: 'load' };
  }

  async begin(): Promise<void> {
    await this.#mark();
    await this.#refuseMounted();
  }

  async #mark(): Promise<void> {
    const [marker] = await this.#engine.read([this.#marker]);
    if (marker === null || marker === undefined) {
      for await (const bucket of this.#engine.buckets(this.#tag)) {
        throw new PenstockError(
          'exists',
          `volume '${this.#options.volume}' is there (it has records in ${bucket}): load under another --name, or into another database`,
        );
      }
      await this.#engine.commit({ write: [{ key: this.#marker, value: Buffer.from(String(this.#engine.sessionId)) }] });
      return;
    }
    for await (const bucket of this.#engine.buckets(this.#tag)) {
      if (bucket !== this.#marker.bucket) await this.#clear(bucket);
    }
  }

  async #refuseMounted(): Promise<void> {
    const { volume } = this.#options;
    const before = new Set((await liveMounts(this.#engine, volume)).map(({ id }) => id));
    for (let waitedMs = 0; before.size > 0; waitedMs += MOUNTS_LOOK_MS) {
      const left = (await liveMounts(this.#engine, volume)).filter(({ id }) => before.has(id));
      if (left.length === 0) return;
      if (waitedMs >= MOUNTS_GO_MS) {
        throw new PenstockError(
          'held',
          `volume '${volume}' is not there, and still mounted: ${mountNames(left)}. Unmount it with --force and load again`,
        );
      }
      await sleep(MOUNTS_LOOK_MS);
    }
  }

  async records(): Promise<VolumeFormat> {
    for await (const line of readDump(this.#options.path)) {
      this.count++;
      this.#options.progress?.('records', this.count);
      await this.#line(line);
      if (this.#write.size + this.#patch.size >= PORTION || this.#bytes >= PORTION_BYTES) await this.#flush();
    }
    await this.#flush();
    if (this.#format === undefined) {
      throw new PenstockError('corrupt', `${this.#options.path} has no format record: it is not of a formatted volume`);
    }
    return this.#format;
  }

  async #line(line: DumpLine): Promise<void> {
    const bucket = this.#tag + line[1];
    if (line[0] === 'c') {
      await this.#flush();
      if (bucket !== this.#marker.bucket) await this.#clear(bucket);
      return;
    }
    const [kind, name, field, text] = line;
    const key = { bucket, field };
    if (kind === 'v') {
      const value = text === null ? null : Buffer.from(text, 'base64');
      if (bucket === this.#keys.formatKey.bucket) {
        if (value !== null) this.#format = parseFormat(value, this.#options.volume);
        return;
      }
      this.#write.set(`${name}\n${field}`, { key, value });
      this.#bytes += value?.length ?? 0;
    } else if (kind === 'n') {
      // A number is said once, or again behind a `c` of its bucket.
      this.#patch.set(`${name}\n${field}`, { number: key, add: BigInt(text) });
    } else {
      await this.#flush();
      this.#patch.set(`${name}\n${field}`, { number: key, max: BigInt(text) });
    }
  }

  async #flush(): Promise<void> {
    if (this.#write.size + this.#patch.size > 0) {
      await this.#engine.commit({ write: [...this.#write.values()], patch: [...this.#patch.values()] });
    }
    this.#write.clear();
    this.#patch.clear();
    this.#bytes = 0;
  }

  async #clear(bucket: string): Promise<void> {
    const patch: Patch[] = [];
    const write: Write[] = [];
    if (holdsNumbers(bucket.slice(this.#tag.length))) {
      for (const [field] of await this.#engine.numbers(bucket)) patch.push({ number: { bucket, field }, remove: true });
    } else {
      for await (const [field] of scanBucket(this.#engine, bucket)) write.push({ key: { bucket, field }, value: null });
    }
    for (let at = 0; at < patch.length; at += PORTION)
      await this.#engine.commit({ patch: patch.slice(at, at + PORTION) });
    for (let at = 0; at < write.length; at += PORTION)
      await this.#engine.commit({ write: write.slice(at, at + PORTION) });
  }

  async raiseIds(format: VolumeFormat, store: ObjectStore): Promise<void> {
    const counters = (['ino', 'object'] as const).map((name) => this.#keys.counter(name));
    const [ino, object] = await this.#engine.readNumbers(counters);
    let highest = Number(object ?? 0n);
    for await (const { key } of store.list(blocksPrefix(format.id))) {
      const id = Number(key.slice(key.lastIndexOf('/') + 1));
      if (Number.isSafeInteger(id)) highest = Math.max(highest, id);
    }
    // What was garbage after the dump may be in use again: its grace period begins anew when it is garbage the next time.
    for await (const { key } of store.list(listsPrefix(format.id))) await store.delete([key]);
    for await (const { key } of store.list(ORPHAN_NOTES)) if (isOrphanNote(key)) await store.delete([key]);
    await this.#engine.commit({
      patch: [
        { number: this.#keys.counter('ino'), max: (ino ?? 0n) + BigInt(ID_GAP) },
        { number: this.#keys.counter('object'), max: BigInt(highest + ID_GAP) },
      ],
    });
  }

  /** Tables have a folder each, which is listed once. */
  async missingLakeObjects(store: ObjectStore): Promise<readonly string[]> {
    const folders = new Map<string, Set<string>>();
    for await (const { inode } of allInodes(this.#engine, this.#keys)) {
      if (inode instanceof Error) continue; // fsck says what that means.
      for (const { source } of inode.extents) {
        if (source.kind === 'own') continue;
        const folder = /^tables\/[^/]+\/[^/]+\//.exec(source.key)?.[0] ?? source.key;
        const keys = folders.get(folder);
        if (keys === undefined) folders.set(folder, new Set([source.key]));
        else keys.add(source.key);
      }
    }
    let looked = 0;
    for (const [folder, keys] of folders) {
      for await (const { key } of store.list(folder)) {
        keys.delete(key);
        this.#options.progress?.('lake objects', ++looked);
      }
    }
    return [...folders.values()].flatMap((keys) => [...keys]);
  }

  async finish(format: VolumeFormat): Promise<void> {
    const value = Buffer.from(JSON.stringify({ ...format, volume: this.#options.volume, loaded: randomUUID() }));
    await this.#engine.commit({
      write: [
        { key: this.#keys.formatKey, value },
        { key: this.#marker, value: null },
      ],
    });
    await this.#engine.flush();
  }
}
