/**
 * Makes volumes, for the controller: the steps, and what a repeat or a second controller finds half done.
 *
 * A volume is a folder of a Penstock volume, its home. A new one gets a home of its own; a copy of a volume or of a snapshot is in the home of that, so
 * that it shares the objects.
 *
 * Invariants
 * - Record `creating` -> format of the home -> folder with its quota -> record `ready`. Whoever repeats the call, here or in another controller, finds in the
 *   record what the volume is to be, and goes on.
 * - A copy is ready only if its source was still there when all of it was copied.
 * - A Penstock volume that this driver did not make is never taken over.
 * - Nothing is made before the object store was seen with these credentials.
 * Failure: killed between any two steps, the same call again finishes. A create that never comes again leaves a record, and at most a volume that
 * nobody has written to; `DeleteVolume` removes both.
 * Limits: ATTEMPTS rounds when others change the record meanwhile.
 */
import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '../../lib/clock.ts';
import { isCode } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { absoluteUrl } from '../../lib/registry.ts';
import { FORMAT_DEFAULTS, readFormat, writeFormat } from '../../lib/volume/format.ts';
import { parseOptions } from '../main.ts';
import { copyFolder, makeFolder, removeFolder } from '../tools/volume-folders.ts';
import { assertStore, withEngine } from './backend.ts';
import { describeCapacity, fitsRange, wantedCapacity } from './capabilities.ts';
import type { CapacityRange, StringMap } from './protocol.ts';
import { Records } from './records.ts';
import type { HomeRecord, Stored, VolumeRecord, VolumeSource } from './records.ts';
import { ATTEMPTS, beingChanged, leave } from './removal.ts';
import type { Secrets } from './secrets.ts';
import { assertOptionsOf, copyCapacity, findSource } from './source.ts';
import type { Source } from './source.ts';
import { CsiError, invalid, Status } from './status.ts';
import { newFolder } from './volume-id.ts';

export interface VolumeWish {
  readonly name: string;
  /** Of its record. */
  readonly volume: string;
  readonly capacityRange: CapacityRange | null;
  readonly options: StringMap;
  readonly context: StringMap;
  readonly source: VolumeSource | null;
}

/** Throws ALREADY_EXISTS when the name is taken by another volume, NOT_FOUND for the source, OUT_OF_RANGE when that does not fit. */
export async function createVolume(secrets: Secrets, wish: VolumeWish, clock: Clock): Promise<VolumeRecord> {
  // What is wrong with the options is said before anything is made.
  parseOptions(wish.options);
  return withEngine(secrets, async (engine) => {
    const creation = new Creation(engine, secrets, wish, clock);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const made = await creation.step();
      if (made !== null) return made;
    }
    throw beingChanged(wish.name);
  });
}

class Creation {
  readonly #engine: MetaEngine;
  readonly #records: Records;
  readonly #secrets: Secrets;
  readonly #wish: VolumeWish;
  readonly #clock: Clock;

  constructor(engine: MetaEngine, secrets: Secrets, wish: VolumeWish, clock: Clock) {
    this.#engine = engine;
    this.#records = new Records(engine);
    this.#secrets = secrets;
    this.#wish = wish;
    this.#clock = clock;
  }

  /** Null when something has changed meanwhile. */
  async step(): Promise<VolumeRecord | null> {
    const { volumes, homes } = this.#records;
    const stored = (await volumes.read(this.#wish.volume)) ?? (await this.#begin());
    if (stored === null) return null;
    const { record } = stored;
    assertSame(record, this.#wish);
    if (record.state === 'ready') return record;
    const home = await homes.read(record.home);
    if (record.state === 'deleting' || home === null || home.record.closing) {
      throw new CsiError(Status.ABORTED, `volume '${record.name}' is being removed`);
    }
    try {
      const source = await this.#make(record, home.record);
      const ready = { ...record, state: 'ready' as const };
      const edit = volumes.edit(this.#wish.volume, stored, ready);
      const done = await this.#records.commit([edit], source === null ? [] : [source.unchanged]);
      if (done !== null) return ready;
    } catch (error) {
      if (!isFinal(error)) throw error;
      await this.#giveUp(stored, home);
      throw error;
    }
    await this.#clearUp(record);
    return null;
  }

  async #begin(): Promise<Stored<VolumeRecord> | null> {
    const { name, volume, capacityRange, options, context, source } = this.#wish;
    const { volumes, homes } = this.#records;
    const record = {
      ...{ version: 1 as const, name, folder: newFolder(volume, 'volume'), state: 'creating' as const },
      ...{ options: { ...options }, context: { ...context }, source },
    };
    if (source === null) {
      const home = await this.#newHome((await homes.read(volume)) === null ? volume : undefined);
      const fresh = { ...record, home: home.name, capacityBytes: wantedCapacity(capacityRange) };
      const version = await this.#records.commit([
        volumes.edit(volume, null, fresh),
        homes.edit(home.name, null, home),
      ]);
      return version === null ? null : { record: fresh, version };
    }
    const found = await findSource(this.#records, source);
    assertOptionsOf(found.home.record, options);
    await assertStore(found.home.record.store, this.#secrets);
    const capacityBytes = copyCapacity(found.capacityBytes, capacityRange);
    const copy = { ...record, home: found.home.record.name, capacityBytes };
    const version = await this.#records.join(found.home, volumes.edit(volume, null, copy));
    return version === null ? null : { record: copy, version };
  }

  /** Under another name where the volume's own is the home of others, of which it was the first. */
  async #newHome(name: string = `csi-${randomUUID().replaceAll('-', '')}`): Promise<HomeRecord> {
    const { storeUrl } = this.#secrets;
    if (storeUrl === undefined) {
      throw invalid("secret 'store' is missing: the URL of the object store, as s3://bucket/prefix?region=R");
    }
    const store = absoluteUrl(storeUrl, '/');
    await assertStore(store, this.#secrets);
    return {
      ...{ version: 1, name, id: randomUUID(), store, options: { ...this.#wish.options } },
      ...{ members: 1, closing: false, createdMs: this.#clock.nowMs() },
    };
  }

  /** Returns what it was copied from. */
  async #make(record: VolumeRecord, home: HomeRecord): Promise<Source | null> {
    const { folder, capacityBytes, source } = record;
    const options = { engine: this.#engine, volume: home.name, clock: this.#clock };
    const bytesMax = capacityBytes === 0 ? null : capacityBytes;
    if (source === null) {
      await this.#format(home);
      await makeFolder(options, folder, bytesMax);
      return null;
    }
    const { folder: from } = await findSource(this.#records, source);
    try {
      await copyFolder(options, { from, to: folder, bytesMax, frozen: false });
    } catch (error) {
      if (!isCode(error, 'quota')) throw error;
      const text = `${source.kind} ${source.id} has more than ${describeCapacity(capacityBytes)}`;
      throw new CsiError(Status.OUT_OF_RANGE, text, { cause: error });
    }
    // Its removal begins after its record says so.
    return findSource(this.#records, source);
  }

  async #format({ name, id, store, options, createdMs }: HomeRecord): Promise<void> {
    try {
      await writeFormat(this.#engine, {
        ...FORMAT_DEFAULTS,
        ...parseOptions(options),
        ...{ id, volume: name, store, createdMs },
      });
    } catch (error) {
      if (!isCode(error, 'exists')) throw error;
      const found = await readFormat(this.#engine, name);
      if (found?.id === id) return;
      throw new CsiError(Status.ALREADY_EXISTS, `a volume '${name}' exists that this driver did not make`);
    }
  }

  /** No repeat would make it. */
  async #giveUp(stored: Stored<VolumeRecord>, home: Stored<HomeRecord>): Promise<void> {
    const { volumes } = this.#records;
    const context = { engine: this.#engine, records: this.#records, secrets: this.#secrets, clock: this.#clock };
    const leaving = volumes.edit(this.#wish.volume, stored, null);
    if (!(await leave(context, home, stored.record.folder, leaving))) throw beingChanged(stored.record.name);
  }

  /** What was made for a record that another controller has removed meanwhile. */
  async #clearUp({ home, folder }: VolumeRecord): Promise<void> {
    const now = await this.#records.volumes.read(this.#wish.volume);
    if (now?.record.folder === folder) return;
    const options = { engine: this.#engine, volume: home, clock: this.#clock };
    await removeFolder(options, folder).catch((error: unknown) => {
      if (!isCode(error, 'not-found')) throw error;
    });
  }
}

function isFinal(error: unknown): boolean {
  if (isCode(error, 'config')) return true;
  const codes = [Status.ALREADY_EXISTS, Status.OUT_OF_RANGE, Status.NOT_FOUND];
  return error instanceof CsiError && codes.includes(error.code);
}

function assertSame(record: VolumeRecord, wish: VolumeWish): void {
  const other = (what: string): CsiError =>
    new CsiError(Status.ALREADY_EXISTS, `volume '${record.name}' exists with ${what}`);
  if (record.name !== wish.name) throw other(`the name '${record.name}'`);
  if (!isDeepStrictEqual(record.source, wish.source)) throw other('another source');
  if (!fitsRange(record.capacityBytes, wish.capacityRange)) {
    throw other(`another capacity (${describeCapacity(record.capacityBytes)})`);
  }
  if (!isDeepStrictEqual(record.options, wish.options)) throw other('other parameters');
  if (!isDeepStrictEqual(record.context, wish.context)) throw other('other parameters');
}
