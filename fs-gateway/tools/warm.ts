/**
 * Reads the files of a tree through the mount, so that its node's cache has them when a job begins. A cache that is smaller than the tree
 * keeps what was read last.
 *
 * Limits: `parallel` files at a time, READ_BYTES of memory each.
 */
import { statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { walkTree, Failures } from './tree.ts';
import type { TreeEntry } from './tree.ts';
import type { Progress } from './tool.ts';

/** What one FUSE request asks for at most. */
const READ_BYTES = 2 ** 20;

export interface WarmReport {
  readonly files: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly failed: number;
  /** The first of what could not be read, and why. */
  readonly failures: readonly string[];
}

export interface WarmOptions {
  readonly path: string;
  readonly parallel: number;
  readonly progress?: Progress;
  readonly signal?: AbortSignal;
}

/** A file, or all files below a directory. What cannot be read is reported, and the rest is read. */
export async function warmTree({ path, parallel, progress, signal }: WarmOptions): Promise<WarmReport> {
  const root = Buffer.from(resolve(path));
  const failures = new Failures();
  const startMs = performance.now();
  let files = 0;
  let bytes = 0;
  const entries = isFile(root) ? only(root) : walkTree(root, failures);
  // The walk is shared: each reader takes the next file when it is done with its own.
  const reader = async (): Promise<void> => {
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (let next = await entries.next(); next.done !== true; next = await entries.next()) {
      if (signal?.aborted === true) return;
      if (next.value.kind !== 'file') continue;
      try {
        const read = await readWhole(next.value.path, buffer);
        bytes += read;
        files++;
        progress?.('files read', files);
      } catch (error) {
        failures.add(next.value.path, error);
      }
    }
  };
  await Promise.all(Array.from({ length: parallel }, reader));
  const seconds = Math.round(performance.now() - startMs) / 1000;
  return { files, bytes, seconds, failed: failures.count, failures: failures.shown };
}

function isFile(path: Buffer): boolean {
  return statSync(path).isFile();
}

async function* only(path: Buffer): AsyncGenerator<TreeEntry> {
  await Promise.resolve();
  yield { path, kind: 'file' };
}

async function readWhole(path: Buffer, buffer: Buffer): Promise<number> {
  const file = await open(path, 'r');
  try {
    let at = 0;
    for (let read = -1; read !== 0; at += read) read = (await file.read(buffer, 0, buffer.length, at)).bytesRead;
    return at;
  } finally {
    await file.close();
  }
}
