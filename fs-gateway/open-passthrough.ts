/** Puts together what passthrough needs: whole files, who fills them, and the policy. A mount in mode `off` has it too: for what an earlier one left. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { removeAbandoned } from './data/abandoned.ts';
import type { BlockCache } from './data/block-cache.ts';
import type { FileHolder } from './data/file-holder.ts';
import { FileHasher } from './data/file-hasher.ts';
import type { Staging } from './data/staging.ts';
import { WHOLE_FOLDER, WholeFiles } from './data/whole-files.ts';
import type { FileContent } from './data/whole-record.ts';
import type { Context } from './vfs/context.ts';
import { Filler } from './vfs/filler.ts';
import type { KernelBacking, Result } from './vfs/operations.ts';
import { Passthrough } from './vfs/passthrough.ts';
import type { PassthroughMode } from './vfs/passthrough.ts';
import type { RemovedFiles } from './vfs/removed-files.ts';

/** Of the cache's bytes; the rest is for blocks of files that are not whole. */
const WHOLE_SHARE = 0.9;

export interface WholeFilesRequest {
  /** The volume's folder in the cache directory, and the mount's in it. */
  readonly base: string;
  readonly stagingDir: string;
  readonly cacheBytes: number;
  readonly freeBytesMin: number;
  readonly staging: Staging;
  readonly cache: BlockCache;
  readonly holder: FileHolder | undefined;
  report(message: string): void;
}

export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}

export async function openWholeFiles(request: WholeFilesRequest): Promise<WholeFiles> {
  const { base, stagingDir, cacheBytes, staging, cache } = request;
  await removeAbandoned(base, stagingDir);
  const whole = new WholeFiles({
    dir: join(stagingDir, WHOLE_FOLDER),
    bytesMax: cacheBytes * WHOLE_SHARE,
    freeBytesMin: request.freeBytesMin,
    bootId: bootId(),
    isInUse: (ino) => staging.opens.backingOf(ino) !== undefined,
    holder: request.holder,
    report: (message) => request.report(message),
  });
  cache.share('whole files', whole.bytes);
  return whole;
}

export interface PassthroughRequest {
  readonly context: Context;
  readonly cache: BlockCache;
  readonly mode: PassthroughMode;
  readonly kernel: KernelBacking | undefined;
  readonly removed: RemovedFiles;
  flush(ino: number): Result<void>;
  commit(ino: number): Result<void>;
  letGo(ino: number): void;
}

export interface OpenPassthrough {
  readonly passthrough: Passthrough;
  close(): Promise<void>;
}

export function openPassthrough(request: PassthroughRequest): OpenPassthrough {
  const { context, cache, mode, kernel } = request;
  const { reader, whole } = context;
  const hasher = new FileHasher();
  const read = (content: FileContent, from: number, target: Buffer): void | Promise<void> => {
    if (content.inline === null) return reader.read(content.extents, from, target);
    const copied = from < content.inline.length ? content.inline.copy(target, 0, from) : 0;
    target.fill(0, copied);
  };
  const filler = new Filler({
    context,
    whole,
    hasher,
    bootId: bootId(),
    holes: (fd) => kernel?.holes(fd) ?? [],
    read,
    onFilled(content) {
      reader.forget(content.extents, content.size);
      cache.share('whole files', whole.bytes);
    },
  });
  const passthrough = new Passthrough({
    context,
    kernel,
    removed: request.removed,
    mode,
    whole,
    filler,
    hasher,
    bootId: bootId(),
    read,
    flush: (ino) => request.flush(ino),
    commit: (ino) => request.commit(ino),
    letGo: (ino) => request.letGo(ino),
  });
  return {
    passthrough,
    async close() {
      await passthrough.close();
      await hasher.close();
      whole.close();
    },
  };
}
