/**
 * Which files of an hour a compaction rewrites, which it only compares with, and which it leaves: see docs/decisions/0057.
 *
 * Invariants
 * - Whatever is not sorted is taken. No two finished files of ours have a reading in common, so a reading that came twice is left out if
 *   each finished file whose identities may meet those of a taken one is compared with it.
 * - The choice follows from the manifests and the limits alone: the same files give the same groups.
 * - Nothing is taken for its size that a rewrite would leave as it is: the next run has nothing to do.
 */
import type { DatasetConfig, PipelineConfig } from '../../lib/config/pipeline.ts';
import type { DeleteFile } from '../../lib/table/delete-manifest.ts';
import type { RowDeletes } from '../../lib/table/row-deletes.ts';
import { isConstant, mayShare, overlaps, type Range } from './ranges.ts';

export interface GroupFile {
  readonly location: string;
  readonly bytes: number;
  readonly rows: number;
  readonly hour: number;
  readonly sequenceNumber: bigint;
  readonly isSorted: boolean;
}

/** A file of an hour with what its manifest entry says about it. */
export interface Candidate extends GroupFile {
  /** Written by a compaction, which left out repeats. */
  readonly isCompacted: boolean;
  /** Rows with a whole identity, at most: others are never repeats. 0 where nothing is de-duplicated. */
  readonly keyedRows: number;
  /** How many files a rewrite would make of it. */
  readonly pieces: number;
}

/** The values that a file may have, by the statistics of its manifest entry. */
export interface FileRanges {
  /** Of the columns that make two rows the same reading. */
  readonly keys: readonly Range[];
  /** Of the first columns of the sort order. */
  readonly order: readonly Range[];
}

export interface SelectionLimits {
  readonly targetBytes: number;
  /** Shares of `targetBytes`: smaller files are merged, larger ones split. */
  readonly sizeMin: number;
  readonly sizeMax: number;
  /** Shares of a file's rows that may be deleted, or repeats, without its being rewritten. */
  readonly deleteRatio: number;
  readonly duplicateRatio: number;
  /** Taken files are merged with the finished ones that they overlap from this share of their bytes on. */
  readonly mergeRatio: number;
}

export function limitsOf({ compactor }: PipelineConfig, { compaction }: DatasetConfig): SelectionLimits {
  return { ...compaction, targetBytes: compaction.targetBytes ?? compactor.targetBytes };
}

export type Verdict =
  | 'rewrite: asked for'
  | 'rewrite: unsorted'
  | 'rewrite: deleted rows'
  | 'rewrite: possible repeats'
  | 'rewrite: too large'
  | 'rewrite: too small'
  | 'rewrite: overlaps'
  | 'compare: may hold the same readings'
  | 'leave: in the size window'
  | 'leave: the only small file';

export interface Choice {
  readonly file: Candidate;
  readonly verdict: Verdict;
}

export const isTaken = ({ verdict }: Choice): boolean => verdict.startsWith('rewrite');
export const isCompared = ({ verdict }: Choice): boolean => verdict.startsWith('compare');

/** What each file needs by itself, in their order. Nothing is taken: the hour has nothing to do. Else `select` must settle what is left. */
export function judge(
  files: readonly Candidate[],
  deletes: RowDeletes,
  limits: SelectionLimits,
  everything = false,
): Choice[] {
  if (everything) return files.map((file) => ({ file, verdict: 'rewrite: asked for' }));
  const verdicts = files.map((file) => verdictOf(file, deletes.of(file), limits));
  const small = verdicts.filter((verdict) => verdict === 'rewrite: too small').length;
  const isDue = small > 1 || verdicts.some((verdict) => verdict !== 'rewrite: too small' && isTakenAs(verdict));
  return files.map((file, index): Choice => {
    const verdict = verdicts[index] ?? 'leave: in the size window';
    // The last file of an hour is small by nature: one is no reason, but cheap to take along.
    return { file, verdict: !isDue && verdict === 'rewrite: too small' ? 'leave: the only small file' : verdict };
  });
}

/** Some are taken and some are not: how these lie to each other matters. */
export const isMixed = (choices: readonly Choice[]): boolean => choices.some(isTaken) && !choices.every(isTaken);

/** What becomes of the files that need nothing by themselves, beside those that are taken. */
export function select(
  choices: readonly Choice[],
  rangesOf: (file: Candidate) => FileRanges,
  limits: SelectionLimits,
): Choice[] {
  return compareWith(mergeOverlapping(choices, rangesOf, limits), rangesOf);
}

/** Of a group of which some files cannot be read. */
export interface Readable {
  /** Whether the others are rewritten now, for what they are by themselves: else each run would write them again until those are mended. */
  readonly isDue: boolean;
  /** Whether every finished file that may have the same readings was compared with, or is rewritten, too. */
  readonly isChecked: boolean;
}

export function judgeReadable(choices: readonly Choice[], readable: ReadonlySet<string>): Readable {
  const wanted = choices.filter((choice) => isTaken(choice) || isCompared(choice));
  const missing = wanted.filter(({ file }) => !readable.has(file.location));
  const isChecked = !missing.some(
    (choice) => choice.file.keyedRows > 0 && (choice.file.isCompacted || isCompared(choice)),
  );
  if (missing.length === 0) return { isDue: true, isChecked };
  const verdicts = wanted
    .filter((choice) => isTaken(choice) && readable.has(choice.file.location))
    .map(({ verdict }) => verdict);
  const own: readonly Verdict[] = [
    ...OWN_REASONS,
    // What was not compared with everything stays a possible repeat.
    ...(isChecked ? (['rewrite: possible repeats'] as const) : []),
  ];
  const small = verdicts.filter((verdict) => verdict === 'rewrite: too small').length;
  return { isDue: small > 1 || verdicts.some((verdict) => own.includes(verdict)), isChecked };
}

const OWN_REASONS: readonly Verdict[] = [
  'rewrite: asked for',
  'rewrite: unsorted',
  'rewrite: deleted rows',
  'rewrite: too large',
];

const isTakenAs = (verdict: Verdict): boolean => verdict.startsWith('rewrite');

function verdictOf(file: Candidate, deletes: readonly DeleteFile[], limits: SelectionLimits): Verdict {
  if (!file.isSorted) return 'rewrite: unsorted';
  if (deletes.length > 0 && deletedRowsMax(file, deletes) > limits.deleteRatio * file.rows) {
    return 'rewrite: deleted rows';
  }
  if (!file.isCompacted && file.keyedRows > limits.duplicateRatio * file.rows) return 'rewrite: possible repeats';
  if (file.bytes > limits.sizeMax * limits.targetBytes && file.pieces > 1) return 'rewrite: too large';
  if (file.bytes < limits.sizeMin * limits.targetBytes) return 'rewrite: too small';
  return 'leave: in the size window';
}

/** Positions are a row each. How many rows equal values take out, and what a file says that cannot be read, nobody knows before. */
function deletedRowsMax(file: Candidate, deletes: readonly DeleteFile[]): number {
  const rows = deletes.reduce(
    (sum, { kind, rows: positions, problem }) =>
      sum + (kind === 'position' && problem === null ? positions : file.rows + 1),
    0,
  );
  return Math.min(rows, file.rows + Number(deletes.some(({ problem }) => problem !== null)));
}

/** So that an hour with late data stays in order, at a bounded cost: a late byte rewrites at most 1 / mergeRatio others. */
function mergeOverlapping(
  choices: readonly Choice[],
  rangesOf: (file: Candidate) => FileRanges,
  { mergeRatio }: SelectionLimits,
): Choice[] {
  const taken = choices.filter(isTaken).map(({ file }) => file);
  const left = choices.filter((choice) => !isTaken(choice)).map(({ file }) => file);
  const at = orderColumn(choices.map(({ file }) => rangesOf(file)));
  const meets = (a: Candidate, b: Candidate): boolean =>
    overlaps(rangesOf(a).order[at] ?? 'any', rangesOf(b).order[at] ?? 'any');
  const overlapped = new Set(left.filter((file) => taken.some((other) => meets(file, other))));
  const late = taken.filter((file) => left.some((other) => meets(file, other)));
  const sum = (files: Iterable<Candidate>): number => [...files].reduce((total, { bytes }) => total + bytes, 0);
  if (sum(late) < mergeRatio * sum(overlapped)) return [...choices];
  return choices.map((choice) =>
    overlapped.has(choice.file) ? { file: choice.file, verdict: 'rewrite: overlaps' } : choice,
  );
}

/** The first column of the order in which the files differ. */
function orderColumn(files: readonly FileRanges[]): number {
  const columns = files[0]?.order.length ?? 0;
  for (let at = 0; at < columns; at++) if (!isConstant(files.map(({ order }) => order[at] ?? 'any'))) return at;
  return 0;
}

function compareWith(choices: readonly Choice[], rangesOf: (file: Candidate) => FileRanges): Choice[] {
  const taken = choices.filter(isTaken).map(({ file }) => file);
  // A file for all that were taken: an hour may have thousands.
  const isNew = taken.some(({ isCompacted }) => !isCompacted);
  return choices.map((choice) => {
    if (isTaken(choice) || choice.file.keyedRows === 0) return choice;
    if (!isNew && choice.file.isCompacted) return choice;
    const others = choice.file.isCompacted ? taken.filter(({ isCompacted }) => !isCompacted) : taken;
    const { keys } = rangesOf(choice.file);
    const isMet = others.some(
      (other) => other.keyedRows > 0 && keys.every((range, at) => mayShare(range, rangesOf(other).keys[at] ?? 'any')),
    );
    return isMet ? { file: choice.file, verdict: 'compare: may hold the same readings' } : choice;
  });
}
