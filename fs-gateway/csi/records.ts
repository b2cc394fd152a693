/**
 * What the CSI controller knows of what it made, in the same engine as that:
 *
 *   bucket           field            value
 *   {+csi}homes      Penstock volume  JSON, `homeSchema`: a volume whose folders (tools/volume-folders.ts) are CSI volumes and snapshots
 *   {+csi}volumes    volume           JSON, `volumeSchema`
 *   {+csi}snapshots  snapshot         JSON, `snapshotSchema`
 *
 * No volume can have the hash tag `{+csi}`: a name begins with a letter or digit.
 *
 * Invariants
 * - A record is made before what it is of and removed after it, so that none is forgotten; it changes by compare and write only, so two controllers at
 *   once never both win.
 * - A home counts its members in the commits that make and remove their records. Its last one closes it: nobody joins it any more.
 */
import { z } from 'zod';
import { PenstockError } from '../../lib/errors.ts';
import type { Key, MetaEngine, Version } from '../../lib/meta/engine.ts';
import { scanBucket } from '../../lib/volume/references.ts';

const stateSchema = z.enum(['creating', 'ready', 'deleting']);

const homeSchema = z.strictObject({
  version: z.literal(1),
  name: z.string(),
  /** Of the volume's format: a volume of the same name that somebody else made has another. */
  id: z.uuid(),
  store: z.string(),
  /** Of the format, as the storage class has them. */
  options: z.record(z.string(), z.string()),
  /** Volumes and snapshots. */
  members: z.number().int().min(1),
  closing: z.boolean(),
  createdMs: z.number(),
});

const memberFields = {
  version: z.literal(1),
  /** What the request called it. */
  name: z.string(),
  home: z.string(),
  folder: z.string(),
  state: stateSchema,
  /** Of a snapshot: of its volume, and what a volume that is made of it needs. 0: no limit. */
  capacityBytes: z.number().int().min(0),
};

const volumeSchema = z.strictObject({
  ...memberFields,
  options: z.record(z.string(), z.string()),
  /** Handed to the node service with the volume. */
  context: z.record(z.string(), z.string()),
  /** What it is a copy of. */
  source: z.strictObject({ kind: z.enum(['volume', 'snapshot']), id: z.string() }).nullable(),
});

const snapshotSchema = z.strictObject({
  ...memberFields,
  /** Id of the volume that it is of. */
  source: z.string(),
  createdMs: z.number(),
});

export type HomeRecord = z.infer<typeof homeSchema>;
export type VolumeRecord = z.infer<typeof volumeSchema>;
export type SnapshotRecord = z.infer<typeof snapshotSchema>;
export type VolumeSource = NonNullable<VolumeRecord['source']>;

export interface Stored<T> {
  readonly record: T;
  readonly version: Version;
}

/** A record as it is and as it will be; null: there is none. */
export interface Edit {
  readonly compare: { readonly key: Key; readonly version: Version | null };
  readonly write: { readonly key: Key; readonly value: Buffer | null };
}

export class RecordTable<T> {
  readonly #engine: MetaEngine;
  readonly #bucket: string;
  readonly #schema: z.ZodType<T>;

  constructor(engine: MetaEngine, bucket: string, schema: z.ZodType<T>) {
    this.#engine = engine;
    this.#bucket = bucket;
    this.#schema = schema;
  }

  async read(field: string): Promise<Stored<T> | null> {
    const [stored] = await this.#engine.read([{ bucket: this.#bucket, field }]);
    if (stored === null || stored === undefined) return null;
    return { record: this.#parse(stored.value, field), version: stored.version };
  }

  /** For a commit of several records. */
  edit(field: string, before: Stored<T> | null, after: T | null): Edit {
    const key = { bucket: this.#bucket, field };
    return {
      compare: { key, version: before?.version ?? null },
      write: { key, value: after === null ? null : Buffer.from(JSON.stringify(after)) },
    };
  }

  /** All of them by their fields, in order. */
  async all(): Promise<Map<string, T>> {
    const records = new Map<string, T>();
    for await (const [field, value] of scanBucket(this.#engine, this.#bucket)) {
      records.set(field, this.#parse(value, field));
    }
    return new Map([...records].sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  #parse(value: Buffer, field: string): T {
    try {
      return this.#schema.parse(JSON.parse(value.toString()));
    } catch (error) {
      throw new PenstockError('corrupt', `the record '${field}' in ${this.#bucket} is damaged`, { cause: error });
    }
  }
}

export class Records {
  readonly #engine: MetaEngine;
  readonly homes: RecordTable<HomeRecord>;
  readonly volumes: RecordTable<VolumeRecord>;
  readonly snapshots: RecordTable<SnapshotRecord>;

  constructor(engine: MetaEngine) {
    this.#engine = engine;
    this.homes = new RecordTable(engine, '{+csi}homes', homeSchema);
    this.volumes = new RecordTable(engine, '{+csi}volumes', volumeSchema);
    this.snapshots = new RecordTable(engine, '{+csi}snapshots', snapshotSchema);
  }

  /** The version of what was written; null when one of them has changed meanwhile. `unchanged` are compared only. */
  async commit(edits: readonly Edit[], unchanged: readonly Edit['compare'][] = []): Promise<Version | null> {
    const result = await this.#engine.commit({
      compare: [...edits.map(({ compare }) => compare), ...unchanged],
      write: edits.map(({ write }) => write),
    });
    return result.ok ? result.version : null;
  }

  /** One more member, by `joining`. */
  join(home: Stored<HomeRecord>, joining: Edit): Promise<Version | null> {
    const { record } = home;
    return this.commit([joining, this.homes.edit(record.name, home, { ...record, members: record.members + 1 })]);
  }

  /** One member less, by `leaving`; the last one takes the record of the home with it. */
  leave(home: Stored<HomeRecord>, leaving: Edit): Promise<Version | null> {
    const { record } = home;
    const after = record.members === 1 ? null : { ...record, members: record.members - 1 };
    return this.commit([leaving, this.homes.edit(record.name, home, after)]);
  }
}
