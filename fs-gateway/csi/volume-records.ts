/**
 * What the CSI controller knows of the volumes that it made: one record each, beside the volumes in the same engine.
 *
 *   bucket         field          value
 *   {+csi}volumes  volume name    JSON, `recordSchema` below
 *
 * No volume can have the hash tag `{+csi}`: a name begins with a letter or digit.
 *
 * Invariants: a record is made before its volume and removed after it, so that none is forgotten; it changes by compare and write only, so two
 * controllers at once never both win.
 */
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine, Version } from '../../lib/meta/engine.ts';
import { scanBucket } from '../../lib/volume/references.ts';

const BUCKET = '{+csi}volumes';

const recordSchema = z.strictObject({
  version: z.literal(1),
  /** What the request called it. */
  name: z.string(),
  volume: z.string(),
  /** Of the volume's format: a volume of the same name that somebody else made has another. */
  id: z.uuid(),
  state: z.enum(['creating', 'ready', 'deleting']),
  store: z.string(),
  /** 0: no limit. */
  capacityBytes: z.number().int().min(0),
  /** Of the format, as the storage class has them. */
  options: z.record(z.string(), z.string()),
  /** Handed to the node service with the volume. */
  context: z.record(z.string(), z.string()),
  createdMs: z.number(),
});

export type VolumeRecord = z.infer<typeof recordSchema>;

export interface StoredRecord {
  readonly record: VolumeRecord;
  readonly version: Version;
}

export class VolumeRecords {
  readonly #engine: MetaEngine;

  constructor(engine: MetaEngine) {
    this.#engine = engine;
  }

  async read(volume: string): Promise<StoredRecord | null> {
    const [stored] = await this.#engine.read([{ bucket: BUCKET, field: volume }]);
    return stored === null || stored === undefined
      ? null
      : { record: parse(stored.value, volume), version: stored.version };
  }

  /** The new version; null when somebody else was faster. `version` null: there must be none yet. */
  async write(record: VolumeRecord, version: Version | null): Promise<Version | null> {
    const key = { bucket: BUCKET, field: record.volume };
    const value = Buffer.from(JSON.stringify(record));
    const result = await this.#engine.commit({ compare: [{ key, version }], write: [{ key, value }] });
    return result.ok ? result.version : null;
  }

  /** False when it has changed meanwhile. */
  async remove(volume: string, version: Version): Promise<boolean> {
    const key = { bucket: BUCKET, field: volume };
    const { ok } = await this.#engine.commit({ compare: [{ key, version }], write: [{ key, value: null }] });
    return ok;
  }

  /** All of them, in order of their volumes' names. */
  async all(): Promise<VolumeRecord[]> {
    const records = new Map<string, VolumeRecord>();
    for await (const [field, value] of scanBucket(this.#engine, BUCKET)) records.set(field, parse(value, field));
    return [...records].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, record]) => record);
  }
}

function parse(value: Buffer, volume: string): VolumeRecord {
  try {
    return recordSchema.parse(JSON.parse(value.toString()));
  } catch (error) {
    throw new PenstockError('corrupt', `the CSI record of volume '${volume}' is damaged`, { cause: error });
  }
}
