/** The thread of a FileHasher: hashes whole files, one after the other, and answers each with its block hashes. Descriptors are the process's. */
import { fstatSync, readSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { describeError } from '../../lib/errors.ts';
import { blockCount, HASH_BLOCK_BYTES, HASH_BYTES, putHash, putZeros } from './block-hashes.ts';
import type { FileHashes, HashAnswer, HashRequest, Hole } from './file-hasher.ts';

const READ_BLOCKS = 16;
const buffer = Buffer.allocUnsafe(READ_BLOCKS * HASH_BLOCK_BYTES);

function hashFile(fd: number, holes: readonly Hole[]): FileHashes {
  const startedMs = performance.now();
  const bytes = fstatSync(fd).size;
  const hashes = Buffer.alloc(blockCount(bytes) * HASH_BYTES);
  let hole = 0;
  for (let at = 0; at < bytes;) {
    const wanted = Math.min(buffer.length, bytes - at);
    while ((holes[hole]?.end ?? bytes) < at + wanted) hole++;
    if ((holes[hole]?.start ?? bytes) <= at) {
      for (let from = at; from < at + wanted; from += HASH_BLOCK_BYTES)
        putZeros(hashes, from / HASH_BLOCK_BYTES, Math.min(HASH_BLOCK_BYTES, at + wanted - from));
      at += wanted;
      continue;
    }
    const read = fill(fd, at, wanted);
    for (let from = 0; from < read; from += HASH_BLOCK_BYTES) {
      const end = Math.min(read, from + HASH_BLOCK_BYTES);
      putHash(hashes, (at + from) / HASH_BLOCK_BYTES, buffer.subarray(from, end));
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
    answer = { id, ...hashFile(fd, holes) };
  } catch (error) {
    answer = { id, error: describeError(error) };
  }
  parentPort?.postMessage(answer);
});
