/**
 * What a start finds in the staging area: what the worker before it had staged and open, by its journal (recovery.ts) and its segments (found-segments.ts), and what of
 * that is lost.
 *
 * Invariants: what was open belongs to one life of a mount: in another one it is closed. Bytes of which nobody can tell whether they are committed are in no file: they
 * are kept aside (kept-aside.ts).
 * Failure: a damaged journal is no reason not to start; whoever has one of its files open hears of it (`losses`).
 */
import { join } from 'node:path';
import type { Journal } from './journal.ts';
import { ASIDE_FOLDER, keepDoubtful } from './kept-aside.ts';
import { replay } from './recovery.ts';
import type { Recovered } from './recovery.ts';
import type { Segments } from './segments.ts';
import { readLife } from './staging-life.ts';
import type { StagingLife } from './staging-life.ts';

export interface StagingStart {
  readonly dir: string;
  /** Of the mount that starts. */
  readonly life: StagingLife;
  readonly journal: Journal;
  readonly segments: Segments;
  /** Whether an earlier worker has committed a flush under this id. */
  readonly isCommitted: (ino: number, id: bigint) => boolean;
  readonly report: ((message: string) => void) | undefined;
}

/**
 * What was staged of an inode, and is lost with a frame of the journal, or doubtful because of that. `ino` undefined: it may be of any, also of one that was opened
 * meanwhile.
 */
export interface StagedLoss {
  readonly ino: number | undefined;
  readonly message: string;
}

export interface FoundStaging {
  readonly recovered: Recovered;
  readonly losses: readonly StagedLoss[];
  /** The journal is right as it stands: that of this life, in this boot, in the format of today. */
  readonly goesOn: boolean;
}

/** Throws Node's errors, and `unsupported` for the journal of a newer release. */
export function findStaged({ dir, life, journal, segments, isCommitted, report }: StagingStart): FoundStaging {
  const earlier = readLife(dir);
  const sameBoot = earlier?.bootId === life.bootId;
  const sameLife = earlier?.life === life.life;
  const frames = journal.read(sameBoot);
  const { damage } = journal;
  if (damage !== undefined) report?.(damage.message);
  const lost = damage?.lost ?? [];
  const isWhole = damage === undefined && earlier?.isCopy !== true;
  const recovered = replay(frames, lost, segments, { sameBoot, isWhole }, isCommitted);
  if (!sameLife) {
    recovered.open.clear();
    recovered.wrote.clear();
  }
  const isDamaged = damage !== undefined;
  const doubtful = segments.adopt(recovered.files, recovered.generations, { isDamaged, sameBoot });
  const doubt = keepDoubtful(join(dir, ASIDE_FOLDER), doubtful);
  if (doubtful.length > 0) report?.(doubt);
  const told = new Map<number | undefined, string>(doubtful.map(({ ino }) => [ino, doubt]));
  for (const { ino } of lost) told.set(ino, damage?.message ?? '');
  return { recovered, losses: lossesOf(told), goesOn: sameLife && sameBoot && !journal.isOlder };
}

/** Who hears of any file hears of each. */
function lossesOf(told: ReadonlyMap<number | undefined, string>): readonly StagedLoss[] {
  const ofAny = told.get(undefined);
  if (ofAny !== undefined) return [{ ino: undefined, message: ofAny }];
  return Array.from(told, ([ino, message]) => ({ ino, message }));
}
