/**
 * What was written here to a live file (live-file.ts) beside what others have committed: the bytes to take over from them, whether the two meet, and
 * what it takes to give up one's own.
 *
 * Limits: what the kernel wrote is known by what differs from the base. A byte that was written and is the same is not seen, so differences count by
 * page, which is also what a mapping writes.
 */
import { blockCount, HASH_BLOCK_BYTES } from './block-hashes.ts';
import type { BlockHashes } from './block-hashes.ts';
import { readUpTo } from './descriptors.ts';
import type { Overlay } from './overlay.ts';
import { blocksOf, contentKey, sameBytes } from './whole-record.ts';
import type { FileContent, WholeRecord } from './whole-record.ts';

const PAGE_BYTES = 4096;

/** The live file. */
export interface Merged {
  readonly record: WholeRecord;
  overlay(from: number, target: Buffer): void;
  store(offset: number, data: Uint8Array): void;
  read(content: FileContent, from: number, target: Buffer): void | Promise<void>;
}

/** What was written here since the base. */
export interface Written {
  readonly size: number;
  /** In whole blocks. */
  readonly overlay: Overlay;
  /** The file was cut meanwhile. */
  readonly cut: boolean;
  /** From here on it was appended: that goes behind what others have committed. */
  readonly appendedFrom: number;
}

/** Where the two meet: the first such block; -1: one of them has cut the file. */
export type Meeting = number;

/** Writes each run of bytes that changed there and not here. */
function takeOver(file: Merged, start: number, was: Buffer, theirs: Buffer): void {
  const ours = Buffer.alloc(theirs.length);
  file.overlay(start, ours);
  let from = -1;
  for (let at = 0; at <= theirs.length; at++) {
    const takes = at < theirs.length && was[at] !== theirs[at] && ours[at] === was[at];
    if (takes && from < 0) from = at;
    if (takes || from < 0) continue;
    file.store(start + from, theirs.subarray(from, at));
    from = -1;
  }
}

/** What the base has from the block on. Throws where that was written over here, and what the base refers to is gone: gc may have removed it. */
async function baseBytes(file: Merged, block: number, end: number): Promise<Buffer> {
  const { content, hashes } = file.record;
  const start = block * HASH_BLOCK_BYTES;
  const bytes = Buffer.alloc(end - start);
  const inBase = Math.max(0, Math.min(HASH_BLOCK_BYTES, content.size - start));
  file.overlay(start, bytes);
  if (inBase <= bytes.length && hashes.isOf(block, bytes.subarray(0, inBase))) bytes.fill(0, inBase);
  else await file.read(content, start, bytes);
  return bytes;
}

function asideBytes(aside: number, start: number, end: number): Buffer {
  const bytes = Buffer.alloc(end - start);
  return bytes.fill(0, readUpTo(aside, bytes, start));
}

/** Takes over what others have committed since the base. Returns the hashes of what is committed. */
export async function mergeCommitted(file: Merged, committed: FileContent): Promise<BlockHashes> {
  const { content: base, hashes: old } = file.record;
  const hashes = old.resized(committed.size);
  for (const block of blocksOf(base, committed)) {
    const start = block * HASH_BLOCK_BYTES;
    const end = Math.min(start + HASH_BLOCK_BYTES, committed.size);
    const sameEnd = Math.min(start + HASH_BLOCK_BYTES, base.size) === end;
    if (sameEnd && sameBytes(base, committed, start, end)) continue;
    const theirs = Buffer.alloc(end - start);
    await file.read(committed, start, theirs);
    takeOver(file, start, await baseBytes(file, block, end), theirs);
    hashes.put(block, theirs);
  }
  return hashes;
}

/**
 * Where what was written here meets what others have committed since; undefined: nowhere. `known`: the last commit of this node, where the base may be
 * older than that.
 */
export async function findMeeting(
  file: Merged,
  written: Written,
  committed: FileContent,
  known: FileContent | null,
): Promise<Meeting | undefined> {
  const { content: base } = file.record;
  const { size, overlay, cut, appendedFrom } = written;
  const key = contentKey(committed);
  if (key === contentKey(base) || (known !== null && key === contentKey(known))) return undefined;
  if (cut || size < base.size) return -1;
  for (const range of overlay.within(0, Math.min(size, appendedFrom))) {
    for (let block = Math.floor(range.start / HASH_BLOCK_BYTES); block < blockCount(range.end); block++) {
      const from = block * HASH_BLOCK_BYTES;
      const to = Math.min(from + HASH_BLOCK_BYTES, range.end);
      if ([base, known].some((content) => content !== null && sameBytes(content, committed, from, to))) continue;
      if (await meetsWithin(file, from, to, committed)) return block;
    }
  }
  return undefined;
}

async function meetsWithin(file: Merged, from: number, to: number, committed: FileContent): Promise<boolean> {
  const [ours, theirs, was] = [Buffer.alloc(to - from), Buffer.alloc(to - from), Buffer.alloc(to - from)];
  await file.read(committed, from, theirs);
  file.overlay(from, ours);
  if (ours.equals(theirs)) return false;
  try {
    await file.read(file.record.content, from, was);
  } catch {
    return true; // gc may have removed it.
  }
  for (let start = 0; start < ours.length; start += PAGE_BYTES) {
    const page = (bytes: Buffer): Buffer => bytes.subarray(start, start + PAGE_BYTES);
    if (page(ours).equals(page(was)) || page(theirs).equals(page(was))) continue;
    if (!page(ours).equals(page(theirs))) return true;
  }
  return false;
}

/**
 * Writes what is committed in place of what was written here, which is kept in the file of the descriptor `aside`, at its offsets; what was written
 * since stays. The block where the two meet comes last, behind `beforeLast`: killed before, the next worker finds that they meet, and keeps aside
 * what is left. Returns the hashes of what is committed.
 */
export async function giveUp(
  file: Merged,
  { size, overlay }: Written,
  committed: FileContent,
  aside: number,
  meeting: Meeting,
  beforeLast: () => Promise<void>,
): Promise<BlockHashes> {
  const { content: base, hashes: old } = file.record;
  const hashes = old.resized(committed.size);
  const ours = new Set<number>();
  for (const { start, end } of overlay.ranges)
    for (let at = start; at < end; at += HASH_BLOCK_BYTES) ours.add(at / HASH_BLOCK_BYTES);
  const blocks = new Set([...blocksOf(base, committed), ...ours]);
  if (blocks.delete(meeting)) blocks.add(meeting);
  for (const block of blocks) {
    const start = block * HASH_BLOCK_BYTES;
    const end = Math.min(start + HASH_BLOCK_BYTES, Math.max(committed.size, size));
    if (!ours.has(block) && end <= committed.size && sameBytes(base, committed, start, end)) continue;
    const theirs = Buffer.alloc(end - start);
    await file.read(committed, start, theirs);
    const was = ours.has(block) ? asideBytes(aside, start, end) : await baseBytes(file, block, end);
    if (block === meeting) await beforeLast();
    takeOver(file, start, was, theirs);
    if (start < committed.size) hashes.put(block, theirs.subarray(0, committed.size - start));
  }
  return hashes;
}
