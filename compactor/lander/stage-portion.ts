/** Moves one fetched portion of a partition into the staging area, making new columns on the way. */
import assert from 'node:assert';
import { isUtf8 } from 'node:buffer';
import { RecordBatchReader } from '../../lib/log/batch-reader.ts';
import { inferFields, SAMPLE_RECORDS_MAX } from './infer.ts';
import type { RoundTraces } from './landing-traces.ts';
import type { Staging } from './staging.ts';
import type { PartitionCursor } from './topic-source.ts';

export interface StagePlace {
  readonly topic: string;
  readonly topicId: string;
}

export interface StagePortion {
  readonly cursor: Pick<PartitionCursor, 'partition' | 'target'> & { next: number };
  readonly batches: readonly Buffer[];
}

/**
 * Stages the records from `cursor.next` on and moves it. False: an hour did not fit, or the values have a new schema; the commit is due
 * and the rest waits for the next one. Throws `corrupt` or `unsupported` for a batch that cannot be read, `cursor.next` then stands on
 * what was not staged; and, when nothing is staged that could be committed before, what `ValueDecoder.prepare` throws.
 */
export async function stagePortion(
  staging: Staging,
  portion: StagePortion,
  place: StagePlace,
  nextFieldId: () => number,
  traces?: RoundTraces,
): Promise<boolean> {
  const { cursor, batches } = portion;
  const where = `${place.topic}/${cursor.partition}`;
  const recordPlace = { ...place, partition: cursor.partition };
  const reader = new RecordBatchReader();
  for (const [index, batch] of batches.entries()) {
    const header = reader.open(batch, where);
    const base = Number(header.baseOffset);
    while (reader.next()) {
      const offset = base + reader.offsetDelta;
      if (offset < cursor.next) continue;
      if (offset >= cursor.target) return true;
      let outcome = staging.stage(reader, recordPlace, offset);
      if (outcome === 'evolve') {
        await addFields(staging, sampleOf(batches.slice(index), where, offset), nextFieldId);
        outcome = staging.stage(reader, recordPlace, offset);
        assert(outcome !== 'evolve', `${where}: offset ${offset} has fields that cannot become columns`);
      }
      if (outcome === 'schema') await prepare(staging, reader.value());
      if (outcome === 'full' || outcome === 'schema') return false;
      traces?.staged(reader, cursor.partition, offset, staging.lastHour);
      cursor.next = offset + 1;
    }
    // Offsets of a compacted topic or of transaction markers may be missing at the end.
    cursor.next = Math.max(cursor.next, Math.min(base + header.lastOffsetDelta + 1, cursor.target));
  }
  return true;
}

/** What is staged lands before a registry that is away is waited for. */
async function prepare(staging: Staging, value: Buffer | null): Promise<void> {
  try {
    await staging.decoder?.prepare(value);
  } catch (error) {
    if (staging.records === 0) throw error;
  }
}

async function addFields(
  staging: Staging,
  sample: readonly Readonly<Record<string, unknown>>[],
  nextFieldId: () => number,
): Promise<void> {
  const fields = inferFields(sample, staging.fields, 0).map((field) => ({ ...field, id: nextFieldId() }));
  await staging.addFields(fields);
}

/** The records from `offset` on, the first one included; what cannot be parsed is left out. */
function sampleOf(batches: readonly Buffer[], where: string, offset: number): Record<string, unknown>[] {
  const sample: Record<string, unknown>[] = [];
  const reader = new RecordBatchReader();
  for (const batch of batches) {
    let base: number;
    try {
      base = Number(reader.open(batch, where).baseOffset);
      while (reader.next() && sample.length < SAMPLE_RECORDS_MAX) {
        if (base + reader.offsetDelta < offset) continue;
        const parsed = parseRecord(reader.value());
        if (parsed !== null) sample.push(parsed);
      }
    } catch {
      // A damaged batch ends the sample; it is reported when its turn to be staged comes.
      return sample;
    }
    if (sample.length >= SAMPLE_RECORDS_MAX) return sample;
  }
  return sample;
}

function parseRecord(value: Buffer | null): Record<string, unknown> | null {
  if (value === null || !isUtf8(value)) return null;
  try {
    const parsed: unknown = JSON.parse(value.toString('utf8'));
    // An object that is no array has string keys.
    return typeof parsed === 'object' && !Array.isArray(parsed) ? (parsed as Record<string, unknown> | null) : null;
  } catch {
    return null;
  }
}

/** Whether anything was read since the last commit, also when it was no record. */
export const hasRead = (cursor: PartitionCursor): boolean => cursor.next !== cursor.start;

/** Whether there is something to commit: what was read, the loss of what is gone, or an offset that was taken back. */
export const hasMoved = (cursor: PartitionCursor): boolean => hasRead(cursor) || cursor.lost > 0 || cursor.wasCut;
