/** `penstock quarantine list|show`: which objects hold the records that did not fit, and the records as they came. */
import { isUtf8 } from 'node:buffer';
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import { PenstockError } from '../../lib/errors.ts';
import { type QuarantineRecord, readQuarantine } from '../../lib/lake/quarantine.ts';
import { DuckDb } from '../../lib/sql/duckdb.ts';
import { defaultScratchRoot, makeScratch } from '../../lib/sql/scratch.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { selectDatasets } from '../../lib/config/dataset-selection.ts';
import { openLetters } from './dead-letter-reader.ts';

const MEMORY_BYTES = 512_000_000;
const SCRATCH_BYTES = 4_000_000_000;

export interface QuarantineEntry extends QuarantineRecord {
  readonly dataset: string;
  readonly object: string;
}

/** Newest first. */
export async function listQuarantine(
  config: PipelineConfig,
  lake: LakeContext,
  dataset: string | undefined,
): Promise<QuarantineEntry[]> {
  const entries: QuarantineEntry[] = [];
  for (const { name } of selectDatasets(config, dataset)) {
    for await (const [object, record] of readQuarantine(lake.engine, lake.volume, name)) {
      entries.push({ dataset: name, object, ...record });
    }
  }
  return entries.sort((a, b) => b.committedMs - a.committedMs || (a.object < b.object ? -1 : 1));
}

export interface ShownLetter {
  readonly reason: string;
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  readonly timestamp: string;
  /** UTF-8 as text, other bytes as `base64:…`. */
  readonly key: string | null;
  readonly value: string | null;
  readonly headers: Readonly<Record<string, string | null>>;
}

export interface ShowOptions {
  readonly dataset: string;
  readonly object?: string;
  /** Only letters whose reason holds this text. */
  readonly reason?: string;
  readonly limit: number;
  readonly scratchRoot?: string;
}

/** Up to `limit` letters, those of the newest objects first. */
export async function showQuarantine(
  config: PipelineConfig,
  lake: LakeContext,
  options: ShowOptions,
): Promise<ShownLetter[]> {
  const entries = (await listQuarantine(config, lake, options.dataset)).filter(
    ({ object }) => options.object === undefined || options.object === object,
  );
  if (options.object !== undefined && entries.length === 0) {
    throw new PenstockError('not-found', `${options.dataset} has no quarantine object ${options.object}`);
  }
  const scratch = await makeScratch(options.scratchRoot ?? defaultScratchRoot(), 'quarantine');
  let db: DuckDb | undefined;
  const shown: ShownLetter[] = [];
  try {
    db = await DuckDb.open({
      memoryBytes: MEMORY_BYTES,
      threads: 1,
      scratchDir: scratch.path,
      scratchBytes: SCRATCH_BYTES,
    });
    for (const { object } of entries) {
      if (shown.length >= options.limit) break;
      const letters = await openLetters(lake, options.dataset, object, { db, scratchDir: scratch.path });
      if (letters === null) continue;
      try {
        for await (const portion of letters.letters()) {
          for (const letter of portion) {
            if (shown.length >= options.limit) break;
            if (options.reason !== undefined && !letter.reason.includes(options.reason)) continue;
            const { reason, topic, partition, offset, timestampMs, key, value, headers } = letter;
            shown.push({
              reason,
              topic,
              partition,
              offset,
              timestamp: new Date(timestampMs).toISOString(),
              key: asText(key),
              value: asText(value),
              headers: Object.fromEntries(
                headers.map(([name, base64]) => [name, base64 === null ? null : asText(Buffer.from(base64, 'base64'))]),
              ),
            });
          }
        }
      } finally {
        await letters.close();
      }
    }
  } finally {
    db?.close();
    scratch.remove();
  }
  return shown;
}

function asText(bytes: Uint8Array | null): string | null {
  if (bytes === null) return null;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return isUtf8(buffer) ? buffer.toString('utf8') : `base64:${buffer.toString('base64')}`;
}
