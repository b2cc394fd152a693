/**
 * The metadata engine follows a foreign catalog: what belongs to a commit of ours (landed offsets, counters, references to dead letters)
 * and the volume's directories become true in the engine after the commit is true in the catalog.
 *
 *   table property `penstock.redo`        { id, previous, write: [[bucket, field, base64 or null]], add: [[bucket, field, amount]] } as
 *                                         JSON: what the last commit of ours changes in the engine; `id` is its snapshot, `previous` that of the
 *                                         commit before
 *   table property `penstock.offsets`     { partition: record } as JSON: all that ever landed, see lib/lake/offsets.ts
 *   {VOLUME}followed / DATASET            { uuid, sequence, updatedMs, snapshotId, redo } as JSON: the state of the table that the engine
 *                                         shows
 *
 * Invariants
 * - The redo is set by the very commit that it belongs to. It is applied once: the minitransaction that applies it writes its id to the
 *   record `followed` and compares what that was.
 * - Whoever loads the table follows first, and a commit of ours is made only on top of a state that was loaded; so no redo is
 *   overwritten before it was applied.
 * - A redo changes records of its own dataset only: whoever may set properties of a table in the catalog must not reach the rest of the
 *   engine.
 * - Never backwards: a state that is older than the one that the engine shows changes nothing.
 * Failure: killed between the catalog's commit and the engine's, the next process that loads the table follows. An engine that lost
 * commits (a failover, a backup that was loaded) gets all offsets from the catalog, so that nothing lands twice; what the lost commits
 * had added to counters and to the quarantine stays lost.
 * Limits: HOURS_A_FLIP hours of directories in one commit; more are flipped in several, the last one with the redo.
 */
import { deadLettersInTable } from '../keys.ts';
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { PenstockError } from '../../errors.ts';
import { offsetsBucket } from '../../lake/offsets.ts';
import { quarantineBucket } from '../../lake/quarantine.ts';
import type { Key, MetaEngine, Patch, Version, Write } from '../../meta/engine.ts';
import { type HourChange, prepareListing } from '../../volume/lake-listing.ts';
import { listedHours } from '../../volume/listed-hours.ts';
import { currentSnapshot, type TableMetadata } from '../metadata.ts';
import { changedHours } from '../rest/snapshot-files.ts';
import type { CommitParts, LakeContext } from '../table.ts';

const REDO = 'penstock.redo';
const OFFSETS = 'penstock.offsets';
const HOURS_A_FLIP = 200;
/** Every lost race is somebody who followed. */
const ATTEMPTS_MAX = 32;

const redoSchema = z.object({
  id: z.string(),
  previous: z.string().nullable(),
  write: z.array(z.tuple([z.string(), z.string(), z.base64().nullable()])),
  add: z.array(z.tuple([z.string(), z.string(), z.string().regex(/^-?\d+$/)])),
});
const offsetsSchema = z.record(z.string(), z.string());
const followedSchema = z.object({
  uuid: z.string(),
  sequence: z.string().regex(/^\d+$/),
  updatedMs: z.number(),
  snapshotId: z.string().nullable(),
  redo: z.string().nullable(),
});
type Redo = z.output<typeof redoSchema>;
type Followed = z.output<typeof followedSchema>;

/** `metadata` with the engine's part of the commit of its current snapshot. */
export function withRedo(lake: LakeContext, name: string, metadata: TableMetadata, extra: CommitParts): TableMetadata {
  const snapshot = currentSnapshot(metadata);
  const redo: Redo = {
    id: String(snapshot?.['snapshot-id'] ?? ''),
    previous: property(metadata, REDO, redoSchema)?.id ?? null,
    write: (extra.write ?? []).map(({ key, value }) => [
      key.bucket,
      key.field,
      value === null ? null : Buffer.from(value).toString('base64'),
    ]),
    add: (extra.patch ?? []).map((patch) => {
      if (!('add' in patch)) throw new TypeError('a commit adds to numbers, and nothing else');
      return [patch.number.bucket, patch.number.field, patch.add.toString()];
    }),
  };
  if (redo.write.length + redo.add.length === 0) return metadata;
  const offsets = { ...property(metadata, OFFSETS, offsetsSchema) };
  for (const { key, value } of extra.write ?? []) {
    if (key.bucket !== offsetsBucket(lake.volume, name) || value === null) continue;
    offsets[key.field] = Buffer.from(value).toString('utf8');
  }
  const own = { [REDO]: JSON.stringify(redo), [OFFSETS]: JSON.stringify(offsets) };
  return { ...metadata, properties: { ...metadata.properties, ...own } };
}

/** Throws `corrupt` for a redo that is none. */
export async function follow(lake: LakeContext, name: string, metadata: TableMetadata): Promise<void> {
  const { engine, volume } = lake;
  const key: Key = { bucket: `{${volume}}followed`, field: name };
  const redo = property(metadata, REDO, redoSchema);
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const [stored] = await engine.read([key]);
    const before = stored == null ? null : followedOf(stored.value, name);
    const next: Followed = {
      uuid: metadata['table-uuid'],
      sequence: metadata['last-sequence-number'].toString(),
      updatedMs: metadata['last-updated-ms'],
      snapshotId: currentSnapshot(metadata)?.['snapshot-id'].toString() ?? null,
      redo: redo?.id ?? null,
    };
    // A table that was dropped and made anew has nothing to do with the one that the engine shows.
    if (before?.uuid === next.uuid && (isOlder(next, before) || isSame(next, before))) return;
    const writes = redo === null || redo.id === before?.redo ? NO_RECORDS : recordsOf(lake, name, redo);
    // Offsets are absolute: where commits before this one are missing, too, all of them are known.
    const isBehind = redo !== null && redo.id !== before?.redo && redo.previous !== (before?.redo ?? null);
    const lost = isBehind ? offsetWrites(lake, name, metadata) : [];
    // The redo's own offsets are among them: a record is written once.
    const others = writes.write.filter(
      ({ key: own }) => lost.length === 0 || own.bucket !== offsetsBucket(volume, name),
    );
    const records = { write: [...lost, ...others], patch: writes.patch };
    if (await step(lake, name, metadata, { key, version: stored?.version ?? null, before, next, records })) return;
  }
  throw new PenstockError('conflict', `the directories of ${name} change too often`);
}

const isOlder = (a: Followed, b: Followed): boolean =>
  BigInt(a.sequence) < BigInt(b.sequence) || (a.sequence === b.sequence && a.updatedMs < b.updatedMs);
const isSame = (a: Followed, b: Followed): boolean => a.snapshotId === b.snapshotId && a.redo === b.redo;

interface Step {
  readonly key: Key;
  readonly version: Version | null;
  readonly before: Followed | null;
  readonly next: Followed;
  /** What the engine does not have yet. */
  readonly records: EngineRecords;
}

interface EngineRecords {
  readonly write: readonly Write[];
  readonly patch: readonly Patch[];
}
const NO_RECORDS: EngineRecords = { write: [], patch: [] };

/** False: somebody else was faster. */
async function step(
  lake: LakeContext,
  name: string,
  metadata: TableMetadata,
  { key, version, before, next, records }: Step,
): Promise<boolean> {
  const { engine, volume } = lake;
  const nowMs = lake.clock.nowMs();
  const changes = [...(await changesSince(lake, name, metadata, before?.snapshotId ?? null))];
  while (changes.length > HOURS_A_FLIP) {
    const parts = await prepareListing(engine, volume, name, changes.splice(0, HOURS_A_FLIP), nowMs);
    // As long as nobody has gone further.
    const compare = [...parts.compare, { key, version }];
    if (!(await engine.commit({ ...parts, compare, operation: randomUUID() })).ok) return false;
  }
  const listing = changes.length === 0 ? NOTHING : await prepareListing(engine, volume, name, changes, nowMs);
  const result = await engine.commit({
    compare: [{ key, version }, ...listing.compare],
    write: [{ key, value: Buffer.from(JSON.stringify(next)) }, ...records.write, ...listing.write],
    patch: [...records.patch, ...listing.patch],
    publish: listing.publish,
    operation: randomUUID(),
  });
  return result.ok;
}

/** What the directories must show differently, as long as the snapshot that they show is known; else by what they list. */
async function changesSince(
  { engine, volume, store, clock }: LakeContext,
  name: string,
  metadata: TableMetadata,
  shown: string | null,
): Promise<readonly HourChange[]> {
  const [now, nowMs] = [currentSnapshot(metadata), clock.nowMs()];
  const old = metadata.snapshots.find((snapshot) => snapshot['snapshot-id'].toString() === shown) ?? null;
  const changes = await changedHours(store, old, now, nowMs);
  if (shown === null || old !== null) return changes;
  // It has expired: `changes` is all that is live, of which what is listed already stays as it is.
  const live = new Map(changes.map((change) => [change.hour, change]));
  const listed = await listedHours(engine, volume, name);
  return [...new Set([...live.keys(), ...listed.keys()])].map((hour) => {
    const add = live.get(hour)?.add ?? [];
    const names = new Set(add.map((file) => file.name));
    return { hour, add, remove: (listed.get(hour) ?? []).filter((one) => !names.has(one)) };
  });
}

const NOTHING = { compare: [], write: [], patch: [], publish: [] };

function recordsOf({ volume }: LakeContext, name: string, { write, add }: Redo): EngineRecords {
  for (const [bucket, field] of [...write, ...add]) {
    if (isOwn(volume, name, bucket, field)) continue;
    throw new PenstockError(
      'corrupt',
      `property ${REDO} of table ${name} names ${bucket} ${field}, which is not its dataset's`,
    );
  }
  return {
    write: write.map(([bucket, field, value]) => ({
      key: { bucket, field },
      value: value === null ? null : Buffer.from(value, 'base64'),
    })),
    patch: add.map(([bucket, field, amount]) => ({ number: { bucket, field }, add: BigInt(amount) })),
  };
}

function isOwn(volume: string, name: string, bucket: string, field: string): boolean {
  const own = ['offsets', 'stats', 'erase'].map((kind) => `{${volume}}${kind}:${name}`);
  if (own.includes(bucket)) return true;
  if (bucket === quarantineBucket(volume, name)) {
    // Those of before this version are beside the tables.
    return field.startsWith(deadLettersInTable(name)) || field.startsWith(`quarantine/${name}/`);
  }
  return bucket === `{${volume}}leases` && field.startsWith(`compact:${name}:`);
}

/** The landed offsets of every partition, as the catalog has them. */
function offsetWrites({ volume }: LakeContext, name: string, metadata: TableMetadata): Write[] {
  const bucket = offsetsBucket(volume, name);
  const offsets = Object.entries(property(metadata, OFFSETS, offsetsSchema) ?? {});
  return offsets.map(([field, value]) => ({ key: { bucket, field }, value: Buffer.from(value) }));
}

/** null: the table does not have it. */
function property<T>(metadata: TableMetadata, name: string, schema: z.ZodType<T>): T | null {
  const text = metadata.properties[name];
  if (text === undefined) return null;
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    throw new PenstockError('corrupt', `property ${name} of table ${metadata.location} is damaged`, { cause: error });
  }
}

function followedOf(value: Buffer, name: string): Followed {
  try {
    return followedSchema.parse(JSON.parse(value.toString('utf8')));
  } catch (error) {
    throw new PenstockError('corrupt', `the record of what the directories of ${name} show is damaged`, {
      cause: error,
    });
  }
}

/** Whether what a commit depends on in the engine still holds. What could change it afterwards changes the table, too. */
export async function holds(engine: MetaEngine, compare: NonNullable<CommitParts['compare']>): Promise<boolean> {
  const wanted = compare.map((one) => {
    if (!('version' in one)) throw new TypeError('a commit compares versions, and nothing else');
    return one;
  });
  const found = await engine.read(wanted.map(({ key }) => key));
  return wanted.every(({ version }, index) => (found[index]?.version ?? null) === version);
}
