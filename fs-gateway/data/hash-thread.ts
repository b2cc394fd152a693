/** The thread of a FileHasher: hashes whole files, one after the other, and answers each with its block hashes. Descriptors are the process's. */
import { fstatSync, readSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { describeError } from '../../lib/errors.ts';
import { BlockHashes, HASH_BLOCK_BYTES } from './block-hashes.ts';
import type { FileHashes, HashAnswer, HashRequest, Hole } from './file-hasher.ts';

const READ_BLOCKS = 16;
const buffer = Buffer.allocUnsafe(READ_BLOCKS * HASH_BLOCK_BYTES);

function hashFile(fd: number, holes: readonly Hole[]): FileHashes {
  const startedMs = performance.now();
  const bytes = fstatSync(fd).size;
  const hashes = new BlockHashes(bytes);
  let hole = 0;
  for (let at = 0; at < bytes;) {
    const wanted = Math.min(buffer.length, bytes - at);
    while ((holes[hole]?.end ?? bytes) < at + wanted) hole++;
    const { start, end } = holes[hole] ?? { start: bytes, end: bytes };
    if (start <= at) {
      // What is not put is zeros.
      at = end >= bytes ? bytes : at + Math.floor((end - at) / buffer.length) * buffer.length;
      continue;
    }
    const read = fill(fd, at, wanted);
    for (let from = 0; from < read; from += HASH_BLOCK_BYTES) {
      const end = Math.min(read, from + HASH_BLOCK_BYTES);
      hashes.put((at + from) / HASH_BLOCK_BYTES, buffer.subarray(from, end));
    }
    // Cut meanwhile: who cut it knows, and hashes again.
    if (read < wanted) break;
    at += read;
  }
  return { bytes, hashes, ms: performance.now() - startedMs };
}

function fill(fd: number, at: number, wanted: number): number {
  let read = 0;
  while (read < wanted) {
    const n = readSync(fd, buffer, read, wanted - read, at + read);
    if (n === 0) break;
    read += n;
  }
  return read;
}

parentPort?.on('message', ({ id, fd, holes }: HashRequest) => {
  let answer: HashAnswer;
  try {
    const { bytes, hashes, ms } = hashFile(fd, holes);
    answer = { id, bytes, chunks: hashes.chunks, ms };
  } catch (error) {
    answer = { id, error: describeError(error) };
  }
  parentPort?.postMessage(answer);
});
