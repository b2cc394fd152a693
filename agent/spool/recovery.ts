/**
 * Finding out, at the start, what a spool's folder holds: after a clean end, a kill, a power cut, or damage to the disk.
 *
 * Invariants
 * - The last group of the last segment counts only when it is there whole: its readings and its checkpoints stand or fall together,
 *   so a source that starts at its checkpoint neither repeats nor skips.
 * - A group before that was acknowledged (the next one is written only after the sync), so its intact frames all count, and what is
 *   missing between them is a gap that a reader sees by the sequences.
 * Failure
 * - A torn tail (an append that never ended) is cut.
 * - The last group may be in the page cache only: of a process that was killed before its sync, or whose sync failed. After a failed sync Linux
 *   takes the pages for clean: a further sync, even of the same bytes written again (ext4), succeeds and leaves them nowhere. So the last segment
 *   is written anew as another file, and synced, before anything counts on it; where that fails, the spool does not open. On a full disk it
 *   is synced in its place.
 * - A last group that is there by length but damaged is not taken, and a copy is set aside as `*.corrupt-<n>`. Whether it was
 *   acknowledged cannot be known; a sequence that is given out again is never mistaken for the lost reading's repeat (identity.ts).
 * - A segment without an intact head is set aside whole, by renaming.
 */
import { open, readdir, rename, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { fromSystemError, isCode } from '../../lib/errors.ts';
import { syncDirectory } from '../../lib/durable-files.ts';
import { freeCorruptName, keepEvidence } from '../set-aside.ts';
import { FRAME_HEAD, FRAME_READINGS, FRAME_STATE, type StoredFrame } from './frame.ts';
import { rewriteSegment } from './segment-rewrite.ts';
import { scanSegment, type ScannedFrame } from './segment-scan.ts';
import { parseDelta, parseHead, SpoolState, type SegmentHead } from './spool-state.ts';

export interface Segment {
  readonly number: number;
  readonly path: string;
  /** Whose readings they are: a backlog keeps the identity it was stored under. */
  readonly agent: string;
  readonly incarnation: string;
  /** Where the frames behind the head begin. */
  readonly dataStart: number;
  /** By topic id: the first sequence that can be in this segment. Topics that are not named start at 1. */
  readonly startSeqs: ReadonlyMap<number, number>;
  /** Durable bytes. */
  bytes: number;
}

export interface RecoveredSpool {
  /** Ascending; all are sealed: the opened spool begins a new one. */
  readonly segments: Segment[];
  readonly state: SpoolState;
  readonly lastNumber: number;
  /** Names of the files that were set aside now. */
  readonly setAside: readonly string[];
}

const SEGMENT_NAME = /^(\d{12})\.seg$/;

export function segmentPath(dir: string, number: number): string {
  return join(dir, `${String(number).padStart(12, '0')}.seg`);
}

export function startSeqsOf(head: SegmentHead): ReadonlyMap<number, number> {
  return new Map(head.topics.map(([id, , nextSeq]) => [id, nextSeq]));
}

/** Throws `denied`, `io` and the like when the folder cannot be read; damage is repaired, not thrown. */
export async function recoverSpool(dir: string): Promise<RecoveredSpool> {
  try {
    return await recover(dir);
  } catch (error) {
    throw fromSystemError(error, `cannot open the spool in ${dir}`);
  }
}

async function recover(dir: string): Promise<RecoveredSpool> {
  const names = (await readdir(dir)).sort();
  for (const name of names) if (name.endsWith('.seg.tmp')) await rm(join(dir, name));
  const setAside: string[] = [];
  const segments: Segment[] = [];
  const orphans: string[] = [];
  let lastHead: SegmentHead | undefined;
  let lastNumber = 0;
  for (const name of names) {
    const number = Number(SEGMENT_NAME.exec(name)?.[1] ?? NaN);
    if (Number.isNaN(number)) continue;
    lastNumber = number;
    const path = join(dir, name);
    const found = await readHead(path, number);
    if (found === undefined) {
      const aside = await freeCorruptName(path);
      await rename(path, aside);
      orphans.push(aside);
      setAside.push(aside);
    } else {
      segments.push(found.segment);
      lastHead = found.head;
    }
  }
  const state = new SpoolState();
  const last = segments.at(-1);
  if (last !== undefined && lastHead !== undefined) {
    state.apply(lastHead);
    state.eras.restore(lastHead.eras.length > 0 ? lastHead.eras : erasOf(segments));
    const replayed = await replay(last, state);
    if (replayed !== undefined) setAside.push(replayed);
  }
  for (const path of orphans) await raiseSequences(path, state);
  if (orphans.length > 0) await syncDirectory(dir);
  return { segments, state, lastNumber, setAside };
}

/** Of a version that did not keep them: what the heads of the segments say. */
function erasOf(segments: readonly Segment[]): SegmentHead['eras'] {
  const eras: SegmentHead['eras'] = [];
  for (const { agent, incarnation, startSeqs } of segments) {
    const last = eras.at(-1);
    if (last?.[0] !== agent || last[1] !== incarnation) eras.push([agent, incarnation, [...startSeqs]]);
  }
  return eras;
}

async function readHead(path: string, number: number): Promise<{ segment: Segment; head: SegmentHead } | undefined> {
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    for await (const item of scanSegment(handle, 0, size, (frame) => frame.type === FRAME_HEAD)) {
      if (item.kind === 'damage' || item.payload === null) return undefined;
      const head = parseHead(item.payload);
      if (head?.segment !== number) return undefined;
      const { agent, incarnation } = head;
      const startSeqs = startSeqsOf(head);
      return { head, segment: { number, path, agent, incarnation, dataStart: item.end, startSeqs, bytes: size } };
    }
    return undefined;
  } finally {
    await handle.close();
  }
}

interface Group {
  readonly number: number;
  readonly start: number;
  readonly frames: StoredFrame[];
  readonly states: Buffer[];
  complete: boolean;
  damaged: boolean;
  end: number;
}

/** Brings the state up to the last durable group and cuts what is behind it; returns where a copy was set aside. */
async function replay(segment: Segment, state: SpoolState): Promise<string | undefined> {
  const handle = await open(segment.path, 'r');
  let held: Group | undefined;
  let damagedBefore: number | undefined;
  let damagedFrames: StoredFrame[] = [];
  let tornTail = false;
  try {
    for await (const item of scanSegment(handle, segment.dataStart, segment.bytes, () => true)) {
      if (item.kind === 'damage') {
        damagedBefore ??= item.start;
        if (item.frame !== null) damagedFrames.push(item.frame);
        tornTail = item.torn;
        continue;
      }
      if (held === undefined || held.complete || held.number !== item.frame.group) {
        if (held !== undefined) applyGroup(held, state);
        held = newGroup(item, damagedBefore);
        if (damagedBefore !== undefined) held.frames.push(...damagedFrames);
      } else if (damagedBefore !== undefined) {
        held.damaged = true;
        held.frames.push(...damagedFrames);
      }
      damagedBefore = undefined;
      damagedFrames = [];
      held.end = item.end;
      held.complete = item.frame.last;
      if (item.frame.type === FRAME_STATE && item.payload !== null) held.states.push(item.payload);
      else held.frames.push(item.frame);
    }
  } finally {
    await handle.close();
  }
  const heldIsWhole = held !== undefined && held.complete && !held.damaged;
  if (held !== undefined && heldIsWhole) applyGroup(held, state);
  const keep = held === undefined ? (damagedBefore ?? segment.bytes) : heldIsWhole ? held.end : held.start;
  const isCut = keep < segment.bytes;
  // Without damage the group merely ends too early: the write was cut off between two frames.
  const torn = (held === undefined || heldIsWhole || !held.damaged) && (damagedBefore === undefined || tornTail);
  let aside: string | undefined;
  if (isCut && !torn) {
    aside = await freeCorruptName(segment.path);
    await keepEvidence(segment.path, aside);
    for (const frame of [...(heldIsWhole ? [] : (held?.frames ?? [])), ...damagedFrames]) raise(frame, state);
  }
  segment.bytes = keep;
  await secure(segment);
  return aside;
}

/** Makes sure that the segment is on the disk as it was read, up to its `bytes`. */
async function secure(segment: Segment): Promise<void> {
  try {
    await rewriteSegment(segment, () => true);
  } catch (error) {
    if (!isCode(error, 'full')) throw error;
    await truncate(segment.path, segment.bytes);
    const handle = await open(segment.path, 'r+');
    await handle.sync().finally(() => handle.close());
  }
}

function newGroup(first: ScannedFrame, damagedBefore: number | undefined): Group {
  const start = damagedBefore ?? first.start;
  const damaged = damagedBefore !== undefined;
  return { number: first.frame.group, start, frames: [], states: [], complete: false, damaged, end: first.end };
}

function applyGroup(group: Group, state: SpoolState): void {
  for (const payload of group.states) {
    const delta = parseDelta(payload);
    if (delta !== undefined) state.apply(delta);
  }
  for (const frame of group.frames) raise(frame, state);
}

function raise(frame: StoredFrame, state: SpoolState): void {
  if (frame.type !== FRAME_READINGS) return;
  const topic = state.topicById(frame.topicId);
  if (topic !== undefined) topic.nextSeq = Math.max(topic.nextSeq, frame.baseSeq + frame.count);
}

/** The sequences in a segment that is set aside were given out: they must not be given out again. */
async function raiseSequences(path: string, state: SpoolState): Promise<void> {
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    for await (const item of scanSegment(handle, 0, size, () => false)) {
      if (item.frame !== null) raise(item.frame, state);
    }
  } finally {
    await handle.close();
  }
}
