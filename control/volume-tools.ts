/** What can be done to the volume of the pipeline: by the tools of the file system, which is another program, so whoever starts this one brings them. */
import type { Write } from '../lib/meta/engine.ts';
import type { Copied, Emptied, Quota, Restored, Trashed, VolumeSnapshot } from './volume-schemas.ts';

/** How a tool tells how far it is. What it throws ends the work. */
export type OnProgress = (phase: string, done: number) => void;

export interface CopyHooks {
  readonly onProgress: OnProgress;
  /** What becomes true in the same commit as the copy. */
  readonly alongside: (copied: Copied) => Write;
}

/**
 * Paths are of the volume. What each throws: fs-gateway/tools/. A tool that is killed at any point leaves a volume that its next run, or `fs gc`, puts in order; what `onProgress`
 * throws leaves no more than that.
 */
export interface VolumeTools {
  /** On the store of the pipeline, with the options of `fs format`. */
  format(options: Readonly<Record<string, string>>): Promise<void>;
  quotas(): Promise<readonly Quota[]>;
  /** null: no limit; undefined: as it is. */
  setQuota(
    path: string,
    limits: { readonly bytesMax?: number | null; readonly inodesMax?: number | null },
    onProgress: OnProgress,
  ): Promise<Quota>;
  snapshots(): Promise<readonly VolumeSnapshot[]>;
  createSnapshot(name: string, hooks: CopyHooks): Promise<Copied>;
  deleteSnapshot(name: string, onProgress: OnProgress): Promise<void>;
  clone(from: string, to: string, hooks: CopyHooks): Promise<Copied>;
  trash(): Promise<readonly Trashed[]>;
  restore(wanted: readonly string[], to: string | undefined, onProgress: OnProgress): Promise<Restored>;
  emptyTrash(olderThanMs: number, onProgress: OnProgress): Promise<Emptied>;
}
