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
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import type { Clock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import { scanJson } from '../../lib/lake/scan.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { snapshotOfId } from '../../lib/table/metadata.ts';
import type { TableState } from '../../lib/table/table.ts';

const EDGES_MAX = 100_000;

/** Of a job or a model. */
export const lineageNameSchema = z
  .string()
  .min(1)
  .max(200)
  .refine((name) => name.isWellFormed(), 'expected text, without half of a character (a lone surrogate)');

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

/** A repeat (the same id) gets what was recorded first. Throws `conflict` when that says something else, `full`. */
export async function recordLineage(
  engine: MetaEngine,
  volume: string,
  clock: Clock,
  use: Omit<LineageRecord, 'recordedMs'>,
): Promise<LineageRecord> {
  if ((await engine.count(datasetBucket(volume, use.dataset))) >= EDGES_MAX) {
    throw new PenstockError('full', `there are ${EDGES_MAX} lineage records of ${use.dataset}`);
  }
  const record = { ...use, recordedMs: clock.nowMs() };
  const value = Buffer.from(JSON.stringify(record));
  const buckets = [datasetBucket(volume, use.dataset), ...(use.model === null ? [] : [modelBucket(volume, use.model)])];
  const keys = buckets.map((bucket) => ({ bucket, field: record.id }));
  const result = await engine.commit({
    compare: keys.slice(0, 1).map((key) => ({ key, version: null })),
    write: keys.map((key) => ({ key, value })),
    operation: randomUUID(),
  });
  if (result.ok) return record;
  const [stored] = await engine.read(keys.slice(0, 1));
  const first = lineageSchema.safeParse(JSON.parse(stored?.value.toString('utf8') ?? 'null')).data;
  if (first !== undefined && isDeepStrictEqual({ ...first, recordedMs: 0 }, { ...record, recordedMs: 0 })) return first;
  throw new PenstockError('conflict', 'Idempotency-Key: an earlier request with this key recorded something else', {
    retryable: false,
  });
}

/** The snapshot that a job says it has read, or the current one. Throws `not-found`. */
export function snapshotUsed(dataset: string, table: TableState | null, snapshotId?: string): string {
  const current = table?.currentSnapshot?.['snapshot-id'];
  const wanted = snapshotId ?? (current === undefined ? undefined : String(current));
  if (wanted === undefined) throw new PenstockError('not-found', `${dataset} has no snapshot yet`);
  if (table === null || snapshotOfId(table.metadata, wanted) === undefined)
    throw new PenstockError('not-found', `${dataset} has no snapshot ${wanted}, or it has expired`);
  return wanted;
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
