/** What a volume or a snapshot is copied from. */
import { isDeepStrictEqual } from 'node:util';
import { FORMAT_DEFAULTS } from '../../lib/volume/format.ts';
import { parseOptions } from '../main.ts';
import { describeCapacity, wantedCapacity } from './capabilities.ts';
import type { CapacityRange, StringMap } from './protocol.ts';
import type {
  Edit,
  HomeRecord,
  RecordTable,
  Records,
  SnapshotRecord,
  Stored,
  VolumeRecord,
  VolumeSource,
} from './records.ts';
import { CsiError, invalid, Status } from './status.ts';
import { parseSnapshotId, parseVolumeId, recordNameOf } from './volume-id.ts';
import type { Place } from './volume-id.ts';

export interface Source {
  readonly folder: string;
  readonly capacityBytes: number;
  readonly home: Stored<HomeRecord>;
  /** Holds while its removal has not begun. */
  readonly unchanged: Edit['compare'];
}

/** Throws NOT_FOUND, and ABORTED for one that is being made. */
export async function findSource(records: Records, { kind, id }: VolumeSource): Promise<Source> {
  const place = kind === 'volume' ? parseVolumeId(id) : parseSnapshotId(id);
  const found =
    kind === 'volume' ? await findMember(records.volumes, place) : await findMember(records.snapshots, place);
  const home = found === null ? null : await records.homes.read(found.stored.record.home);
  if (found === null || home === null || found.stored.record.state === 'deleting') {
    throw new CsiError(Status.NOT_FOUND, `there is no ${kind} '${id}'`);
  }
  const { folder, capacityBytes, state } = found.stored.record;
  if (state === 'creating') throw new CsiError(Status.ABORTED, `${kind} '${id}' is being made`);
  return { folder, capacityBytes, home, unchanged: found.unchanged };
}

interface Member<T> {
  readonly name: string;
  readonly stored: Stored<T>;
  readonly unchanged: Edit['compare'];
}

/** Its record; null when there is none, or it is that of another one of the same name. */
export async function findMember<T extends VolumeRecord | SnapshotRecord>(
  table: RecordTable<T>,
  place: Place | undefined,
): Promise<Member<T> | null> {
  const { volume, folder } = place ?? {};
  const name = folder === undefined ? undefined : recordNameOf(folder);
  const stored = name === undefined ? null : await table.read(name);
  if (name === undefined || stored === null) return null;
  if (stored.record.folder !== folder || stored.record.home !== volume) return null;
  return { name, stored, unchanged: table.edit(name, stored, null).compare };
}

/** What a copy is given: at least what its source has. Throws OUT_OF_RANGE. */
export function copyCapacity(sourceBytes: number, range: CapacityRange | null): number {
  const wanted = wantedCapacity(range);
  const limit = range?.limitBytes ?? 0;
  const refused = (asked: number): CsiError => {
    const text = `its source has ${describeCapacity(sourceBytes)}: ${describeCapacity(asked)} is too little`;
    return new CsiError(Status.OUT_OF_RANGE, text);
  };
  if (sourceBytes === 0) return wanted;
  if (limit !== 0 && limit < sourceBytes) throw refused(limit);
  if (wanted !== 0 && wanted < sourceBytes) throw refused(wanted);
  return wanted === 0 ? sourceBytes : wanted;
}

/** A copy is in the Penstock volume of its source. Throws INVALID_ARGUMENT when it is to have other options. */
export function assertOptionsOf(home: HomeRecord, options: StringMap): void {
  const has = parseOptions(home.options);
  for (const [key, value] of Object.entries(parseOptions(options))) {
    if (isDeepStrictEqual(Reflect.get({ ...FORMAT_DEFAULTS, ...has }, key), value)) continue;
    throw invalid(`parameters: a copy has the options of its source (${JSON.stringify(home.options)})`);
  }
}
