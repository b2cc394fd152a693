/**
 * Volume ids: `penstock:NAME`, NAME being the volume in its metadata engine. Where two engines have volumes of one name, `#LABEL` behind it
 * makes two handles. An id holds no credentials and no address: those are in the secrets.
 */
import { createHash } from 'node:crypto';
import { isVolumeName } from '../../lib/volume/keys.ts';

const PREFIX = 'penstock:';
const LABEL = /#[A-Za-z0-9._-]{1,32}$/;
/** The specification's bound on ids and names. */
const NAME_BYTES_MAX = 128;

export function volumeIdOf(volume: string): string {
  return PREFIX + volume;
}

/** Undefined for an id that this driver never gave. */
export function parseVolumeId(id: string): string | undefined {
  if (!id.startsWith(PREFIX)) return undefined;
  const volume = id.slice(PREFIX.length).replace(LABEL, '');
  return isVolumeName(volume) ? volume : undefined;
}

/** The volume of a request's name: the same each time, readable where the name is one. */
export function volumeNameFor(requestName: string): string {
  if (isVolumeName(requestName)) return requestName;
  return `csi-${createHash('sha256').update(requestName).digest('hex').slice(0, 40)}`;
}

export function isRequestName(name: string): boolean {
  return name !== '' && Buffer.byteLength(name) <= NAME_BYTES_MAX;
}
