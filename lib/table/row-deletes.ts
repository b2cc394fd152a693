/**
 * Which delete files apply to which data files.
 *
 * Spec: https://iceberg.apache.org/spec/#scan-planning. Position deletes apply to data files of their partition whose data sequence
 * number is not above theirs (where they name one data file, to that alone); equality deletes to those whose number is below theirs,
 * in their partition, or in all when they were written under a spec without partitions.
 * Limits: the delete files that are asked for are held in memory, some 500 bytes each.
 */
import type { ObjectStore } from '../store/store.ts';
import type { LiveFile } from './data-file.ts';
import { type DeleteFile, readDeleteManifest } from './delete-manifest.ts';
import { fetchAhead, hasLive, type HourFilter, hoursOf, manifestsOf, mayHoldHours } from './live-files.ts';
import { DELETED } from './manifest.ts';
import type { Snapshot, TableMetadata } from './metadata.ts';

type DataFilePlace = Pick<LiveFile, 'location' | 'hour' | 'sequenceNumber'>;

export class RowDeletes {
  readonly #byHour = new Map<number, DeleteFile[]>();
  readonly #byDataFile = new Map<string, DeleteFile[]>();
  readonly #everywhere: DeleteFile[] = [];

  readonly files: readonly DeleteFile[];

  constructor(files: readonly DeleteFile[]) {
    this.files = files;
    for (const file of files) {
      if (file.dataFile !== null) push(this.#byDataFile, file.dataFile, file);
      else if (file.hour !== null) push(this.#byHour, file.hour, file);
      // Positions without a partition are about files without one, which hours do not have.
      else if (file.kind === 'equality' || file.problem !== null) this.#everywhere.push(file);
    }
  }

  /** The delete files that apply to a data file. */
  of(file: DataFilePlace): readonly DeleteFile[] {
    if (this.files.length === 0) return [];
    const candidates = [
      ...(this.#byHour.get(file.hour) ?? []),
      ...(this.#byDataFile.get(file.location) ?? []),
      ...this.#everywhere,
    ];
    return candidates.filter(({ kind, sequenceNumber }) =>
      kind === 'position' ? sequenceNumber >= file.sequenceNumber : sequenceNumber > file.sequenceNumber,
    );
  }

  /** The delete files that apply to any of these data files, each once. */
  ofAll(files: readonly DataFilePlace[]): readonly DeleteFile[] {
    return this.files.length === 0 ? [] : [...new Set(files.flatMap((file) => this.of(file)))];
  }
}

/** The live delete files of a snapshot; with a filter those that may be about files in these hours. */
export async function rowDeletesOf(
  store: ObjectStore,
  metadata: TableMetadata,
  snapshot: Snapshot | null,
  filter: HourFilter = {},
): Promise<RowDeletes> {
  const hours = hoursOf(filter);
  const manifests = (await manifestsOf(store, snapshot)).filter(
    (manifest) => manifest.content === 1 && hasLive(manifest) && mayHoldHours(manifest, metadata, hours),
  );
  const files: DeleteFile[] = [];
  for await (const { manifest, bytes } of fetchAhead(store, manifests)) {
    for (const { status, file } of readDeleteManifest(bytes, manifest, metadata)) {
      if (status !== DELETED && (hours === null || file.hour === null || hours.has(file.hour))) files.push(file);
    }
  }
  return new RowDeletes(files);
}

function push<K>(map: Map<K, DeleteFile[]>, key: K, file: DeleteFile): void {
  const files = map.get(key);
  if (files === undefined) map.set(key, [file]);
  else files.push(file);
}
