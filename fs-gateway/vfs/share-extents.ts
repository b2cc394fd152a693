/**
 * copy_file_range without copying: the target's extents refer to the source's objects.
 *
 * Invariants: the commit compares the source's inode, so the objects are referred to at that moment; it notes each of them as moved
 * (references.ts), so that a gc whose walk has passed the target already does not take them for garbage when the source goes.
 * Limits: files whose extents are in their inodes, before and after. Files of the lake themselves are copied.
 */
import { INODE_IMMUTABLE, INODE_INLINE, INODE_PAGED } from '../../lib/volume/inode.ts';
import { extentsWithin } from '../../lib/volume/extents.ts';
import { referenceNotes } from '../../lib/volume/references.ts';
import { mergeExtents } from '../data/merge-extents.ts';
import { nodeOrThrow } from './context.ts';
import type { Context } from './context.ts';
import { EXTENTS_INLINE } from './flusher.ts';
import type { FileWrite } from './files.ts';
import type { Flushes } from './flushes.ts';
import type { Result } from './operations.ts';

/** Below, copying the bytes is cheaper than one more reference to an object. */
const SHARED_BYTES_MIN = 65_536;
const COPY_STEP_BYTES = 2 ** 20;
const COPY_CALL_MAX = 32 * COPY_STEP_BYTES;

export interface CopyEnd {
  readonly ino: number;
  readonly offset: number;
}

/** How bytes are copied that cannot be shared. */
export interface CopyPath {
  read(ino: number, handle: bigint, offset: number, size: number): Result<Buffer>;
  write(ino: number, write: FileWrite): Result<number>;
}

/** copy_file_range: shares the source's objects where it can, else copies through this daemon; may copy less than asked. */
export async function copyRange(
  context: Context,
  path: CopyPath,
  flushes: Flushes,
  source: CopyEnd,
  target: CopyEnd,
  length: number,
): Promise<number> {
  if (length >= SHARED_BYTES_MIN) {
    await flushes.flush(source.ino);
    await flushes.flush(target.ino);
    const shared = await shareExtents(context, source, target, length);
    if (shared !== null) return shared;
  }
  let copied = 0;
  const wanted = Math.min(length, COPY_CALL_MAX);
  while (copied < wanted) {
    const size = Math.min(COPY_STEP_BYTES, wanted - copied);
    const data = await path.read(source.ino, 0n, source.offset + copied, size);
    if (data.length === 0) break;
    copied += await path.write(target.ino, { offset: target.offset + copied, data, killSuidGid: false });
  }
  return copied;
}

/** The bytes now shared, or null where they have to be copied. Nothing of either file may be staged. */
async function shareExtents(
  context: Context,
  source: CopyEnd,
  target: CopyEnd,
  length: number,
): Promise<number | null> {
  const { view, staging, time } = context;
  if (source.ino === target.ino) return null;
  const { value } = await view.change(undefined, async (change): Promise<number | null> => {
    const from = await nodeOrThrow(view, source.ino);
    const to = await nodeOrThrow(view, target.ino);
    const bytes = Math.min(length, from.inode.size - source.offset);
    const unfit = (from.inode.flags | to.inode.flags) & (INODE_INLINE | INODE_PAGED | INODE_IMMUTABLE);
    const staged = staging.get(source.ino) ?? staging.get(target.ino);
    if (unfit !== 0 || staged !== undefined || bytes < SHARED_BYTES_MIN) return null;
    const taken = extentsWithin(from.inode.extents, source.offset, source.offset + bytes);
    const shared = taken.map((e) => ({ ...e, fileOffset: e.fileOffset - source.offset + target.offset }));
    const end = target.offset + bytes;
    const size = Math.max(to.inode.size, end);
    const range = { start: target.offset, end, kind: 'data' } as const;
    const extents = mergeExtents(to.inode.extents, [range], shared, size);
    if (extents.length > EXTENTS_INLINE) return null;
    for (const { key, value } of referenceNotes(view.keys, shared)) change.write(key, value);
    const nowNs = time.nowNs();
    change.expectNode(from);
    change.updateNode(to, { ...to.inode, size, extents, mtimeNs: nowNs, ctimeNs: nowNs });
    change.count(0, size - to.inode.size, await view.quotas.account(to.inode.quota));
    return bytes;
  });
  return value ?? null;
}
