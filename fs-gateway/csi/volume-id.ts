/**
 * Ids. An id holds no credentials and no address: those are in the secrets.
 *
 *   penstock:VOLUME         a whole Penstock volume, that somebody else made
 *   penstock:HOME/FOLDER    a CSI volume: FOLDER is its name, '.' and a number that no other volume of this name has
 *   penstock:HOME/@FOLDER   a snapshot of one
 *   ...#LABEL               the same volume, where two persistent volumes show it
 *
 * Limits: 128 bytes, as the specification asks.
 */
import { createHash, randomBytes } from 'node:crypto';
import { isVolumeName } from '../../lib/volume/keys.ts';

const PREFIX = 'penstock:';
const LABEL = /#[A-Za-z0-9._-]{1,32}$/;
const FOLDER = /^@?([A-Za-z0-9][A-Za-z0-9._-]*)\.[0-9a-f]{8}$/;
/** The specification's bound on ids and names. */
const NAME_BYTES_MAX = 128;
/** With the longest home and the number, 128 bytes. */
const FOLDER_NAME_MAX = 44;

/** What an id leads to: the mount of it is called `penstock:PLACE@...`. */
export interface Place {
  readonly volume: string;
  /** Undefined: the whole volume. */
  readonly folder: string | undefined;
}

export function volumeIdOf(place: Place): string {
  return PREFIX + placeName(place);
}

/** Of a volume or a snapshot, from its record. */
export function idOf({ home, folder }: { readonly home: string; readonly folder: string }): string {
  return volumeIdOf({ volume: home, folder });
}

/** Undefined for an id that this driver never gave. */
export function parseVolumeId(id: string): Place | undefined {
  const place = parse(id);
  return place?.folder?.startsWith('@') === true ? undefined : place;
}

/** Undefined for an id that this driver never gave. */
export function parseSnapshotId(id: string): Place | undefined {
  const place = parse(id);
  return place?.folder?.startsWith('@') === true ? place : undefined;
}

function parse(id: string): Place | undefined {
  if (!id.startsWith(PREFIX)) return undefined;
  const [volume = '', folder, ...more] = id.slice(PREFIX.length).replace(LABEL, '').split('/');
  if (!isVolumeName(volume) || more.length > 0) return undefined;
  return folder === undefined || FOLDER.test(folder) ? { volume, folder } : undefined;
}

/** The name under which the record of a folder is. Undefined for what no folder is called. */
export function recordNameOf(folder: string): string | undefined {
  return FOLDER.exec(folder)?.[1];
}

export function placeName({ volume, folder }: Place): string {
  return folder === undefined ? volume : `${volume}/${folder}`;
}

/** For a new one of this name. */
export function newFolder(name: string, kind: 'volume' | 'snapshot'): string {
  return `${kind === 'snapshot' ? '@' : ''}${name}.${randomBytes(4).toString('hex')}`;
}

/** The name of a record, and of a home, for the name of a request: the same each time, readable where the name is one. */
export function recordNameFor(requestName: string): string {
  if (isVolumeName(requestName) && requestName.length <= FOLDER_NAME_MAX) return requestName;
  return `csi-${createHash('sha256').update(requestName).digest('hex').slice(0, 40)}`;
}

export function isRequestName(name: string): boolean {
  return name !== '' && Buffer.byteLength(name) <= NAME_BYTES_MAX;
}
