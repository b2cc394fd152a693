/**
 * The format record: what a volume is, written once by `penstock fs format`, as JSON at `{v}meta format` (keys.ts).
 *
 * Invariants: a volume is formatted once (`exists` otherwise); its id names its objects in the store, so that two volumes in one
 * store never share a key; a record of a newer version than ours is refused by name, never half understood.
 *   version 1   pieces are stored as they are
 *   version 2   pieces may be stored in zstd (extents.ts): clients that know only 1 must not touch it
 * A volume gets the lowest version that says what it is, so that older clients use what they can.
 * Failure: the record and the root directory are one commit.
 */
import { z } from 'zod';
import { describeIssue, ISSUES } from '../config/issues.ts';
import { PenstockError, describeError } from '../errors.ts';
import type { MetaEngine } from '../meta/engine.ts';
import { encodeInode, newInode, S_IFDIR } from './inode.ts';
import { isVolumeName, ROOT_INO, VolumeKeys } from './keys.ts';

/** The lowest version that may have pieces in zstd. */
export const COMPRESSED_VERSION = 2;
const FORMAT_VERSION = 2;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

const recordSchema = z.strictObject({
  version: z.int().min(1).max(FORMAT_VERSION),
  /** Part of every object key of the volume. */
  id: z.uuid(),
  volume: z.string(),
  /** Absolute, without credentials. */
  store: z.string(),
  /** The largest piece of a file that is one object, bytes. */
  blockSize: z.number().int().min(65_536).max(67_108_864),
  /** In what new pieces are stored, where it makes them smaller. */
  compression: z.enum(['none', 'zstd']),
  /** Files up to this size are kept in the metadata. */
  inlineBytes: z.number().int().min(0).max(262_144),
  /** How long deleted files stay in the trash; 0: not at all. */
  trashMs: z.number().int().min(0),
  /** How long an object stays in the store after the last reference to it is gone, and a replaced lake file stays openable. */
  graceMs: z.number().int().min(0),
  /** What an fsync waits for beside the store: `commit` the engine's answer, `flush` the engine's own durability (fsync, WAIT, WAITAOF). */
  durability: z.enum(['commit', 'flush']),
  /** How often the metadata is backed up into the store by whoever has the volume mounted; 0: never. */
  backupMs: z.number().int().min(0).default(HOUR_MS),
  /** How long a backup is kept, and with it every object that it needs. */
  backupKeepMs: z.number().int().min(0).default(DAY_MS),
  /** How often the mounts collect garbage; 0: never. */
  gcMs: z.number().int().min(0).default(DAY_MS),
  createdMs: z.number(),
  /** Which load of a dump the volume is of: each has an id of its own. */
  loaded: z.uuid().optional(),
});

const formatSchema = recordSchema.refine(
  ({ version, compression }) => version >= COMPRESSED_VERSION || compression === 'none',
  {
    error: `compression needs format version ${COMPRESSED_VERSION}`,
  },
);

export type VolumeFormat = z.infer<typeof formatSchema>;

export const FORMAT_DEFAULTS = {
  // What the peers use is 4 MiB; with 8 the requests to S3, and the extents in memory, are half as many.
  blockSize: 8 * 2 ** 20,
  compression: 'none',
  // A file of one metadata record needs no request to the store at all; larger ones would make the engine's memory dear.
  inlineBytes: 16 * 1024,
  trashMs: 0,
  graceMs: 24 * 3600e3,
  durability: 'flush',
  backupMs: HOUR_MS,
  // As long as objects stay anyway: these backups cost no space in the store but their own.
  backupKeepMs: DAY_MS,
  gcMs: DAY_MS,
} as const satisfies Partial<VolumeFormat>;

/** Null when the volume was never formatted. Throws `corrupt`, and `unsupported` for a newer version. */
export async function readFormat(engine: MetaEngine, volume: string): Promise<VolumeFormat | null> {
  const [stored] = await engine.read([new VolumeKeys(volume).formatKey]);
  return stored === null || stored === undefined ? null : parseFormat(stored.value, volume);
}

/**
 * Names the volume as it has been since it was formatted, or since a dump of it was loaded: after a load it is the same volume (its objects have the same keys), but an
 * inode number may be another file's, and what is cached, open or staged of it anywhere is of the life before. A name for folders, too.
 */
export function lifeOf({ id, loaded }: Pick<VolumeFormat, 'id' | 'loaded'>): string {
  return loaded === undefined ? id : `${id}.${loaded}`;
}

/** The id of the volume that has or had this life. */
export function idOfLife(life: string): string {
  return life.replace(/\..*/, '');
}

/** Throws `corrupt`, and `unsupported` for a newer version. */
export function parseFormat(value: Buffer, volume: string): VolumeFormat {
  let json: unknown;
  try {
    json = JSON.parse(value.toString());
  } catch (error) {
    throw new PenstockError('corrupt', `format record of volume '${volume}' is damaged: ${describeError(error)}`);
  }
  const version = z.object({ version: z.number() }).safeParse(json);
  if (version.success && version.data.version > FORMAT_VERSION) {
    throw new PenstockError(
      'unsupported',
      `volume '${volume}' has format version ${version.data.version}; this Penstock knows versions up to ${FORMAT_VERSION}: upgrade it`,
    );
  }
  const parsed = formatSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new PenstockError(
    'corrupt',
    `format record of volume '${volume}' is damaged: ${z.prettifyError(parsed.error)}`,
  );
}

function checkFormat(format: VolumeFormat): VolumeFormat {
  const checked = formatSchema.safeParse(format, ISSUES);
  if (checked.success) return checked.data;
  const flaws = checked.error.issues.flatMap(describeIssue).map(({ key, message }) => `${key}: ${message}`);
  throw new PenstockError('config', `options of volume '${format.volume}': ${flaws.join('; ')}`);
}

/**
 * Writes the record and the root directory. Throws `exists` when the volume has a format, `config` for a value out of range.
 */
export async function writeFormat(engine: MetaEngine, format: Omit<VolumeFormat, 'version'>): Promise<VolumeFormat> {
  const keys = new VolumeKeys(format.volume);
  const version = format.compression === 'none' ? 1 : COMPRESSED_VERSION;
  const checked = checkFormat({ ...format, version });
  const record = { key: keys.formatKey, value: Buffer.from(JSON.stringify(checked)) };
  const absent = { key: keys.formatKey, version: null };
  const root = keys.inode(ROOT_INO);
  const rootValue = encodeInode(newInode(S_IFDIR | 0o755, 0, 0, BigInt(format.createdMs) * 1_000_000n, { parent: 0 }));
  const fresh = await engine.commit({
    compare: [absent, { key: root, version: null }],
    write: [record, { key: root, value: rootValue }],
    patch: [...initialCounters(keys)],
  });
  if (fresh.ok) return checked;
  // A lake may have made its root before the volume was formatted: keep that one.
  const overLake = fresh.mismatches.some((m) => m.index === 0)
    ? fresh
    : await engine.commit({ compare: [absent], write: [record] });
  if (overLake.ok) return checked;
  throw new PenstockError(
    'exists',
    `volume '${format.volume}' is already formatted: penstock fs status shows it, fs config changes it`,
  );
}

/** The names of all volumes of an engine, in order. Goes through the names of all its buckets. */
export async function formattedVolumes(engine: MetaEngine): Promise<readonly string[]> {
  const volumes = new Set<string>();
  for await (const bucket of engine.buckets('{')) {
    const volume = /^\{(.+)\}meta$/.exec(bucket)?.[1];
    if (volume === undefined || !isVolumeName(volume)) continue;
    const [format] = await engine.read([new VolumeKeys(volume).formatKey]);
    if (format !== null) volumes.add(volume);
  }
  return [...volumes].sort();
}

/** Changes the record of a formatted volume. Throws `not-found`, `config` for a value out of range, and `conflict` when another did at the same time. */
export async function changeFormat(
  engine: MetaEngine,
  volume: string,
  change: (format: VolumeFormat) => VolumeFormat,
): Promise<VolumeFormat> {
  const key = new VolumeKeys(volume).formatKey;
  const [stored] = await engine.read([key]);
  if (stored === null || stored === undefined) {
    throw new PenstockError('not-found', `volume '${volume}' is not formatted: run penstock fs format`);
  }
  const changed = checkFormat(change(parseFormat(stored.value, volume)));
  const written = await engine.commit({
    compare: [{ key, version: stored.version }],
    write: [{ key, value: Buffer.from(JSON.stringify(changed)) }],
  });
  if (written.ok) return changed;
  throw new PenstockError('conflict', `the format of volume '${volume}' was changed by another at the same time`);
}

/** The root's number is 1: the counter begins behind it. */
export function initialCounters(
  keys: VolumeKeys,
): { readonly number: ReturnType<VolumeKeys['counter']>; readonly add: bigint }[] {
  return [
    { number: keys.counter('ino'), add: BigInt(ROOT_INO) },
    { number: keys.counter('inodes'), add: 1n },
  ];
}
