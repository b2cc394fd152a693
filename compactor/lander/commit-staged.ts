/**
 * Turns what is staged into files and makes them true: upload, then ONE minitransaction with the table's pointer, the directory
 * listings, the landed offsets, the counters and the reference to the dead letters.
 *
 * Invariants
 * - The offsets are compared with what this run began from: whoever lands the same records twice (a zombie, a second lander, a
 *   repeat after a lost answer) fails here as a whole, with `conflict`, and starts over from the true offsets.
 * Failure: a crash before the commit leaves objects that nothing refers to; `removeOrphans` finds those in the table's folder,
 * and dead letters that no record refers to are harmless.
 */
import { randomUUID } from 'node:crypto';
import { addToCounters } from '../../lib/lake/counters.ts';
import { moveOffsets, readOffsets } from '../../lib/lake/offsets.ts';
import { quarantineWrite } from '../../lib/lake/quarantine.ts';
import { PenstockError } from '../../lib/errors.ts';
import { watchClock } from '../steady-clock.ts';
import { commitRows, ensureTable, type OwnRecords } from './commit-rows.ts';
import {
  type CommitScope,
  type DeadLetterObject,
  type OffsetRange,
  writeDeadLetters,
  writeHours,
} from './land-files.ts';
import { hasMoved, hasRead } from './stage-portion.ts';
import type { Staging } from './staging.ts';
import type { PartitionCursor } from './topic-source.ts';

export interface LandTotals {
  readonly records: number;
  readonly rows: number;
  readonly quarantined: number;
  /** Gone from the log before they landed. */
  readonly lost: number;
  readonly files: number;
  readonly bytes: number;
}

/**
 * Throws `conflict` when others have landed from these offsets or changed the schema in another way, and when the clock was set forward
 * while the files were written.
 */
export async function commitStaged(
  scope: CommitScope,
  staging: Staging,
  cursors: readonly PartitionCursor[],
): Promise<LandTotals> {
  const moved = cursors.filter(hasMoved);
  const ranges: OffsetRange[] = moved.filter(hasRead).map(({ partition, start, next }) => ({
    partition,
    first: start,
    last: next - 1,
  }));
  const assertSteady = watchClock(scope.lake.clock);
  scope.traces?.writing();
  // In a foreign catalog every move of the offsets is a snapshot, which is what two landers are compared by.
  const isSnapshot = staging.table.rows > 0 || scope.lake.catalog !== undefined;
  if (isSnapshot) await ensureTable(scope, staging.fields);
  const files = await writeHours(scope, staging, ranges);
  const deadLetters = await writeDeadLetters(scope, staging, ranges);
  const totals = {
    records: staging.records,
    rows: staging.table.rows,
    quarantined: staging.deadLetters.count,
    lost: moved.reduce((sum, cursor) => sum + cursor.lost, 0),
    files: files.length,
    bytes: files.reduce((sum, file) => sum + Number(file.dataFile.bytes), 0),
  };
  const own = ownRecords(scope, moved, totals, deadLetters);
  const assertCurrent = async (): Promise<void> => {
    await assertOffsets(scope, moved);
    assertSteady();
  };
  scope.traces?.committing();
  if (isSnapshot) await commitRows(scope, { fields: staging.fields, files, ranges, own, assertCurrent });
  else {
    assertSteady();
    await commitWithoutRows(scope, own, assertCurrent);
  }
  return totals;
}

function ownRecords(
  { lake, dataset, place }: CommitScope,
  moved: readonly PartitionCursor[],
  totals: LandTotals,
  deadLetters: DeadLetterObject | null,
): OwnRecords {
  const offsets = moveOffsets(
    lake.volume,
    dataset.name,
    moved.map(({ from, next, leaderEpoch }) => {
      const lander = from.landed?.lander;
      return { from, to: { topicId: place.topicId, next, leaderEpoch, ...(lander !== undefined && { lander }) } };
    }),
  );
  const reference =
    deadLetters === null ? [] : [quarantineWrite(lake.volume, dataset.name, deadLetters, lake.clock.nowMs())];
  return {
    compare: offsets.compare,
    write: [...offsets.write, ...reference],
    patch: addToCounters(lake.volume, dataset.name, {
      landed: totals.records,
      quarantined: totals.quarantined,
      lost: totals.lost,
      files: totals.files,
      bytes: totals.bytes,
    }),
  };
}

/** Everything was quarantined, or there was nothing but markers: the table stays as it is. */
async function commitWithoutRows(
  scope: CommitScope,
  own: OwnRecords,
  assertCurrent: () => Promise<void>,
): Promise<void> {
  const result = await scope.lake.engine.commit({ ...own, operation: randomUUID() });
  if (result.ok) return;
  await assertCurrent();
  throw new PenstockError('conflict', `${scope.dataset.name}: the offsets were moved by another lander`);
}

async function assertOffsets(scope: CommitScope, moved: readonly PartitionCursor[]): Promise<void> {
  const { lake, dataset } = scope;
  const partitions = moved.map((cursor) => cursor.partition);
  const now = await readOffsets(lake.engine, lake.volume, dataset.name, partitions);
  const lost = now.find((stored, index) => stored.version !== moved[index]?.from.version);
  if (lost === undefined) return;
  throw new PenstockError(
    'conflict',
    `${dataset.name}: partition ${lost.partition} was taken by another lander, or landed by it up to offset ${lost.landed?.next ?? 0}`,
  );
}
