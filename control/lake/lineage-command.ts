/** `penstock lineage`: the records of lineage.ts without a server, and the question that needs the table: who saw this file. */
import { randomUUID } from 'node:crypto';
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import { PenstockError } from '../../lib/errors.ts';
import { selectDatasets } from '../../lib/config/dataset-selection.ts';
import { withLake } from '../../lib/lake/ports.ts';
import { liveFilesOf } from '../../lib/table/live-files.ts';
import { snapshotOfId } from '../../lib/table/metadata.ts';
import { loadTable } from '../../lib/table/table.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { findLineage, lineageNameSchema, recordLineage, snapshotUsed } from './lineage.ts';
import type { LineageRecord } from './lineage.ts';

export interface LineageUse {
  readonly dataset: string;
  /** Default: the current one. */
  readonly snapshotId?: string | undefined;
  readonly job: string;
  readonly model?: string | undefined;
}

export interface LineageQuestion {
  readonly dataset?: string | undefined;
  readonly model?: string | undefined;
  readonly snapshotId?: string | undefined;
  /** A path of a mount or a name; the first says the dataset too. */
  readonly file?: string | undefined;
}

export interface LineageAnswer {
  readonly uses: readonly LineageRecord[];
  /** Snapshots whose list of files is gone, so that nobody can say whether they had the file. */
  readonly unknown: readonly string[];
}

/** Throws `usage` for a dataset that the configuration does not have and for an empty name, `not-found` for a snapshot. */
export async function recordUse(config: PipelineConfig, baseDir: string, use: LineageUse): Promise<LineageRecord> {
  const { dataset, job, model = null } = use;
  selectDatasets(config, dataset);
  for (const [what, name] of Object.entries({ job, model })) {
    if (name === null || lineageNameSchema.safeParse(name).success) continue;
    throw new PenstockError('usage', `'${name}' is no name of a ${what}: expected 1 to 200 characters`);
  }
  return withLake(config, baseDir, 'tool', async (lake) => {
    const snapshotId = snapshotUsed(dataset, await loadTable(lake, dataset), use.snapshotId);
    const record = { id: randomUUID(), dataset, snapshotId, job, model, recordedBy: 'command line' };
    return recordLineage(lake.engine, lake.volume, lake.clock, record);
  });
}

/** Newest first. Throws `usage` when neither a model nor a dataset is known, and for a file that is of another dataset. */
export async function askLineage(
  config: PipelineConfig,
  baseDir: string,
  question: LineageQuestion,
): Promise<LineageAnswer> {
  const { model, snapshotId, file } = question;
  const ofFile = file === undefined ? undefined : datasetOf(config, file);
  const dataset = question.dataset ?? ofFile;
  if (dataset !== undefined) selectDatasets(config, dataset);
  if (file !== undefined && dataset === undefined) {
    throw new PenstockError(
      'usage',
      `'${file}': say of which --dataset, or give its path in the mount (.../lake/DATASET/...)`,
    );
  }
  if (ofFile !== undefined && ofFile !== dataset) {
    throw new PenstockError('usage', `'${file}' is of the dataset ${ofFile}, not of ${dataset}`);
  }
  return withLake(config, baseDir, 'tool', async (lake) => {
    const uses = await findLineage(lake.engine, lake.volume, { dataset, model, snapshotId });
    if (file === undefined || dataset === undefined) return { uses, unknown: [] };
    return usesOfFile(lake, dataset, file.slice(file.lastIndexOf('/') + 1), uses);
  });
}

async function usesOfFile(
  lake: LakeContext,
  dataset: string,
  name: string,
  uses: readonly LineageRecord[],
): Promise<LineageAnswer> {
  const table = await loadTable(lake, dataset);
  const had = new Map<string, boolean>();
  const unknown: string[] = [];
  for (const id of new Set(uses.map(({ snapshotId }) => snapshotId))) {
    const snapshot = table === null ? undefined : snapshotOfId(table.metadata, id);
    if (table === null || snapshot === undefined) {
      unknown.push(id);
      continue;
    }
    had.set(id, false);
    for await (const { location } of liveFilesOf(lake.store, table.metadata, snapshot)) {
      if (!location.endsWith(`/${name}`)) continue;
      had.set(id, true);
      break;
    }
  }
  return { uses: uses.filter(({ snapshotId }) => had.get(snapshotId) === true), unknown };
}

/** `.../lake/DATASET/...` in a path of any mount, wherever that is: /lake/lake/DATASET, too. */
function datasetOf(config: PipelineConfig, path: string): string | undefined {
  const names = path.split('/');
  const isDataset = (name: string): boolean => config.datasets.some((dataset) => dataset.name === name);
  const at = names.findLastIndex(
    (name, index) => index < names.length - 1 && names[index - 1] === 'lake' && isDataset(name),
  );
  return names[at];
}
