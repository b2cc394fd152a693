/**
 * Replays the dead letters of one quarantine object: what fits now becomes rows, the rest a smaller quarantine object.
 *
 * Invariants
 * - Rows, the removal of the old object's record and the record of what is left change in ONE minitransaction, which compares the
 *   old record's version: killed anywhere, or run twice at once, a letter is never lost and never lands twice.
 * - Letters keep partition, offset, headers and time, so a row is the one that it would have been at first.
 * - landed stays what it was; quarantined goes down by the rows.
 * Failure: before the commit there are objects that nothing refers to (see land-files.ts); after it the old object is one, too.
 * Limits: OPEN_HOURS_MAX event hours a commit: the letters of more go to the object of what is left, which is replayed next.
 */
import assert from 'node:assert';
import { addToCounters } from '../../lib/lake/counters.ts';
import { quarantineKey, quarantineWrite } from '../../lib/lake/quarantine.ts';
import { RecordBatchReader } from '../../lib/log/batch-reader.ts';
import { isCode, PenstockError } from '../../lib/errors.ts';
import type { DatasetConfig } from '../../lib/config/pipeline.ts';
import type { DuckDb } from '../../lib/sql/duckdb.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { commitRows, ensureTable } from '../lander/commit-rows.ts';
import { type OffsetRange, writeDeadLetters, writeHours } from '../lander/land-files.ts';
import { type OpenStaging, openStaging } from '../lander/open-staging.ts';
import { type StagePlace, stagePortion } from '../lander/stage-portion.ts';
import type { ValueDecoder } from '../values/value-decoder.ts';
import { watchClock } from '../steady-clock.ts';
import { type DeadLetter, type LetterObject, openLetters } from './dead-letter-reader.ts';
import { letterBatch } from './letter-batch.ts';

/** The schema may move under a replay as it does under a lander; each loss of the race is somebody else's progress. */
const TRIES_MAX = 10;
const PORTION_BYTES_MAX = 8 << 20;

export interface ReplayScope {
  readonly lake: LakeContext;
  readonly dataset: DatasetConfig;
  /** null: the values are JSON. */
  readonly decoder: ValueDecoder | null;
  readonly db: DuckDb;
  /** Another connection to the same database. */
  readonly reader: DuckDb;
  readonly scratchDir: string;
  readonly dryRun: boolean;
}

export interface ObjectReplay {
  readonly rows: number;
  readonly files: number;
  /** What did not fit again, by the kind of its reason. */
  readonly reasons: Readonly<Record<string, number>>;
}

interface Replayed extends ObjectReplay {
  /** The object of what is left, when some of it was not tried. */
  readonly next: string | null;
}

/** null: nothing refers to the object any more. Throws `conflict` when others were faster TRIES_MAX times. */
export async function replayObject(
  scope: ReplayScope,
  object: { readonly key: string; readonly committedMs: number },
): Promise<ObjectReplay | null> {
  let sum = { rows: 0, files: 0, reasons: {} as ObjectReplay['reasons'] };
  let key = object.key;
  for (let attempt = 1; ;) {
    let replayed: Replayed | null;
    try {
      replayed = await replayOnce(scope, { ...object, key });
    } catch (error) {
      if (attempt++ === TRIES_MAX || !isCode(error, 'conflict')) throw error;
      continue;
    }
    if (replayed === null) return key === object.key ? null : sum;
    const { rows, files, reasons, next } = replayed;
    sum = { rows: sum.rows + rows, files: sum.files + files, reasons };
    if (next === null) return sum;
    key = next;
  }
}

async function replayOnce(
  scope: ReplayScope,
  object: { readonly key: string; readonly committedMs: number },
): Promise<Replayed | null> {
  const { lake, dataset, reader: db, scratchDir } = scope;
  const letters = await openLetters(lake, dataset.name, object.key, { db, scratchDir });
  if (letters === null) return null;
  try {
    return await replayLetters(scope, letters, object.committedMs);
  } finally {
    await letters.close();
  }
}

async function replayLetters(scope: ReplayScope, letters: LetterObject, committedMs: number): Promise<Replayed> {
  const { lake, dataset, db, decoder, scratchDir, dryRun } = scope;
  if (decoder !== null) {
    for await (const portion of letters.letters()) {
      for (const { value } of portion) await decoder.prepare(value);
    }
  }
  const open = await openStaging(lake, dataset, db, decoder);
  const { staging } = open;
  try {
    const staged = await stageLetters(open, letters);
    const rows = staging.table.rows;
    const { reasons, count } = staging.deadLetters;
    assert(rows + count === staged.letters, `${rows} + ${count} of ${staged.letters} dead letters were staged`);
    if (rows === 0 || dryRun) return { rows, files: 0, reasons, next: null };
    const { place, ranges } = staged;
    const target = { lake, dataset, db, scratchDir, place };
    const assertSteady = watchClock(lake.clock);
    await ensureTable(target, staging.fields);
    const files = await writeHours(target, staging, ranges);
    const rest = await writeDeadLetters(target, staging, ranges);
    const oldRecord = quarantineKey(lake.volume, dataset.name, letters.key);
    const own = {
      compare: [{ key: oldRecord, version: letters.version }],
      write: [
        { key: oldRecord, value: null },
        ...(rest === null ? [] : [quarantineWrite(lake.volume, dataset.name, rest, committedMs)]),
      ],
      patch: addToCounters(lake.volume, dataset.name, {
        quarantined: -rows,
        files: files.length,
        bytes: files.reduce((sum, file) => sum + Number(file.dataFile.bytes), 0),
      }),
    };
    const assertCurrent = async (): Promise<void> => {
      assertSteady();
      const [now] = await lake.engine.read([oldRecord]);
      if (now?.version === letters.version) return;
      throw new PenstockError('conflict', `${letters.key} has been replayed by another process`);
    };
    await commitRows(target, { fields: staging.fields, files, ranges, own, assertCurrent });
    return { rows, files: files.length, reasons, next: staged.isFull ? (rest?.key ?? null) : null };
  } finally {
    await staging.drop();
  }
}

interface StagedLetters {
  readonly letters: number;
  readonly place: StagePlace;
  readonly ranges: readonly OffsetRange[];
  /** An hour did not fit: the letters from there on stay as they are. */
  readonly isFull: boolean;
}

async function stageLetters({ staging, nextFieldId }: OpenStaging, object: LetterObject): Promise<StagedLetters> {
  const ranges = new Map<number, OffsetRange>();
  let place: StagePlace = { topic: '', topicId: '' };
  let letters = 0;
  let isFull = false;
  for await (const rows of object.letters()) {
    for (const portion of portionsOf(rows)) {
      const [first] = portion;
      const last = portion.at(-1);
      if (first === undefined || last === undefined) continue;
      const { partition, topic, topic_id: topicId } = first;
      place = { topic, topicId };
      letters += portion.length;
      ranges.set(partition, { partition, first: ranges.get(partition)?.first ?? first.offset, last: last.offset });
      const cursor = { partition, next: first.offset, target: Infinity };
      const batches = portion.map(letterBatch);
      if (!isFull) isFull = !(await stagePortion(staging, { cursor, batches }, place, nextFieldId));
      if (isFull) {
        for (const [index, letter] of portion.entries()) {
          const batch = batches[index];
          if (batch === undefined || letter.offset < cursor.next) continue;
          const reader = new RecordBatchReader();
          reader.open(batch, object.key);
          reader.next();
          staging.deadLetters.add(reader, { ...place, partition }, letter.offset, letter.reason);
        }
      }
    }
  }
  return { letters, place, ranges: [...ranges.values()], isFull };
}

/** Runs of letters of one partition, in order. */
function* portionsOf(letters: readonly DeadLetter[]): Generator<readonly DeadLetter[]> {
  let portion: DeadLetter[] = [];
  let bytes = 0;
  for (const letter of letters) {
    const [first] = portion;
    const isElsewhere =
      first !== undefined && (first.partition !== letter.partition || first.topic_id !== letter.topic_id);
    if (isElsewhere || bytes > PORTION_BYTES_MAX) {
      yield portion;
      portion = [];
      bytes = 0;
    }
    portion.push(letter);
    bytes += letter.value?.length ?? 0;
  }
  if (portion.length > 0) yield portion;
}
