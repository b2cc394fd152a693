/**
 * Which data trained which model: one record for each use of a dataset's snapshot by a job, kept under the dataset and, where there is
 * one, under the model, so that both questions are one scan.
 *
 *   {VOLUME}lineage:d:<dataset> / <id>            LineageRecord as JSON
 *   {VOLUME}lineage:m:<model, percent-encoded> / <id>     the same
 *
 * Invariants: both copies are one minitransaction. Limits: EDGES_MAX records a dataset.
 */
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { Clock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import { scanJson } from '../../lib/lake/scan.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';

const EDGES_MAX = 100_000;

export const lineageSchema = z.object({
  id: z.string(),
  dataset: z.string(),
  /** Decimal text: 64 bits. */
  snapshotId: z.string(),
  job: z.string(),
  model: z.string().nullable(),
  recordedMs: z.number(),
  recordedBy: z.string(),
});
export type LineageRecord = z.output<typeof lineageSchema>;

const datasetBucket = (volume: string, dataset: string): string => `{${volume}}lineage:d:${dataset}`;
const modelBucket = (volume: string, model: string): string => `{${volume}}lineage:m:${encodeURIComponent(model)}`;

export async function recordLineage(
  engine: MetaEngine,
  volume: string,
  clock: Clock,
  use: Omit<LineageRecord, 'id' | 'recordedMs'>,
): Promise<LineageRecord> {
  if ((await engine.count(datasetBucket(volume, use.dataset))) >= EDGES_MAX) {
    throw new PenstockError('full', `there are ${EDGES_MAX} lineage records of ${use.dataset}`);
  }
  const record = { id: randomUUID(), recordedMs: clock.nowMs(), ...use };
  const value = Buffer.from(JSON.stringify(record));
  const buckets = [datasetBucket(volume, use.dataset), ...(use.model === null ? [] : [modelBucket(volume, use.model)])];
  await engine.commit({
    write: buckets.map((bucket) => ({ key: { bucket, field: record.id }, value })),
    operation: record.id,
  });
  return record;
}

/** Newest first; of a model, of a dataset, or both. */
export async function findLineage(
  engine: MetaEngine,
  volume: string,
  by: {
    readonly dataset?: string | undefined;
    readonly model?: string | undefined;
    readonly snapshotId?: string | undefined;
  },
): Promise<LineageRecord[]> {
  const bucket =
    by.model !== undefined
      ? modelBucket(volume, by.model)
      : by.dataset !== undefined
        ? datasetBucket(volume, by.dataset)
        : undefined;
  if (bucket === undefined) throw new PenstockError('usage', 'lineage is asked for a model or a dataset');
  const found: LineageRecord[] = [];
  for await (const [, record] of scanJson(engine, bucket, lineageSchema)) {
    if (by.dataset !== undefined && record.dataset !== by.dataset) continue;
    if (by.snapshotId !== undefined && record.snapshotId !== by.snapshotId) continue;
    found.push(record);
  }
  return found.sort((a, b) => b.recordedMs - a.recordedMs || (a.id < b.id ? -1 : 1));
}
