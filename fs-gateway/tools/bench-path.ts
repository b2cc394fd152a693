/**
 * Quick figures of a path: one thread, plain system calls, files of its own in a folder that it removes. For comparing two places on one
 * machine in one minute; bench/ has the comparisons with peers.
 *
 * The reads come after the writes of the same process: they show the caches on the node, not the store.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, rmSync, statSync, unlinkSync, writeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fromSystemError } from '../../lib/errors.ts';

const CHUNK_BYTES = 2 ** 20;
const SMALL_BYTES = 4096;
const RANDOM_READS = 2000;

export interface BenchReport {
  readonly path: string;
  readonly bytes: number;
  readonly files: number;
  /** MiB/s, with the fsync at the end. */
  readonly writeMiBs: number;
  readonly readMiBs: number;
  /** Reads of 4 KiB a second. */
  readonly randomReads: number;
  /** Files of 4 KiB a second: create, write and close; stat; unlink. */
  readonly creates: number;
  readonly stats: number;
  readonly unlinks: number;
}

export interface BenchOptions {
  readonly path: string;
  /** Of the large file. */
  readonly bytes: number;
  /** Small ones. */
  readonly files: number;
}

/** Throws `denied`, `full`, `io`. */
export function benchPath({ path, bytes, files }: BenchOptions): BenchReport {
  const folder = join(resolve(path), `.penstock-bench-${process.pid}`);
  try {
    mkdirSync(folder);
    const large = join(folder, 'large');
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (let at = 0; at + 4 <= chunk.length; at += 4) chunk.writeUInt32LE(Math.imul(at, 2_654_435_761) >>> 0, at);
    const chunks = Math.max(1, Math.ceil(bytes / CHUNK_BYTES));
    const mib = (seconds: number): number => round((chunks * CHUNK_BYTES) / 2 ** 20 / seconds);
    const rate = (count: number, seconds: number): number => Math.round(count / seconds);
    const writeSeconds = timed(() => {
      withFile(large, 'w', (fd) => {
        for (let n = 0; n < chunks; n++) writeSync(fd, chunk);
        fsyncSync(fd);
      });
    });
    const [readSeconds, randomSeconds] = withFile(large, 'r', (fd) => [
      timed(() => {
        for (let n = 0; n < chunks; n++) readSync(fd, chunk, 0, CHUNK_BYTES, n * CHUNK_BYTES);
      }),
      timed(() => {
        const blocks = (chunks * CHUNK_BYTES) / SMALL_BYTES;
        for (let n = 0; n < RANDOM_READS; n++) {
          readSync(fd, chunk, 0, SMALL_BYTES, ((Math.imul(n, 2_654_435_761) >>> 0) % blocks) * SMALL_BYTES);
        }
      }),
    ]);
    const names = Array.from({ length: files }, (_, n) => join(folder, `small-${n}`));
    const small = chunk.subarray(0, SMALL_BYTES);
    const each = (act: (name: string) => void): number =>
      rate(
        files,
        timed(() => names.forEach(act)),
      );
    return {
      path: resolve(path),
      bytes: chunks * CHUNK_BYTES,
      files,
      writeMiBs: mib(writeSeconds),
      readMiBs: mib(readSeconds),
      randomReads: rate(RANDOM_READS, randomSeconds),
      creates: each((name) => withFile(name, 'wx', (fd) => writeSync(fd, small))),
      stats: each((name) => statSync(name)),
      unlinks: each((name) => unlinkSync(name)),
    };
  } catch (error) {
    throw fromSystemError(error, `bench of ${path}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function withFile<T>(path: string, flags: string, work: (fd: number) => T): T {
  const fd = openSync(path, flags, 0o600);
  try {
    return work(fd);
  } finally {
    closeSync(fd);
  }
}

function timed(work: () => void): number {
  const startMs = performance.now();
  work();
  return (performance.now() - startMs) / 1000;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
