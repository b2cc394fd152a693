/** lseek(2) with SEEK_DATA and SEEK_HOLE. */
import type { StagedFile } from '../data/staged-file.ts';
import type { Node } from '../meta/cache.ts';
import type { Flusher } from './flusher.ts';
import { Errno, PosixError } from './operations.ts';

const SEEK_DATA = 3;

export async function seekFile(
  flusher: Flusher,
  node: Node,
  staged: StagedFile | undefined,
  offset: bigint,
  whence: number,
): Promise<bigint> {
  const size = staged?.size ?? node.inode.size;
  if (offset < 0n || offset >= BigInt(size)) throw new PosixError(Errno.ENXIO, 'behind the end of the file');
  const from = Number(offset);
  // Where the holes of a live file are is not known: all of it is data, which POSIX allows.
  if (staged?.selfKept === true) return whence === SEEK_DATA ? offset : BigInt(size);
  const data = await flusher.dataRanges(node, staged, from, size);
  if (whence === SEEK_DATA) {
    const next = data.find((range) => range.end > from);
    if (next === undefined) throw new PosixError(Errno.ENXIO, 'no data behind this offset');
    return BigInt(Math.max(from, next.start));
  }
  let at = from;
  for (const range of data) {
    if (range.start > at) break;
    at = Math.max(at, range.end);
  }
  return BigInt(Math.min(at, size));
}
