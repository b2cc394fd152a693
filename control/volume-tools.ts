/**
 * What is done to the volume of the pipeline: by the tools of the file system, which is another program, so whoever starts this one brings them.
 *
 * Invariants: a tool killed at any point leaves a volume that its next run, or `fs gc`, puts in order. Limits: one at a time, so that two of them do not slow down
 * all mounts; a few wait.
 */
import { Turns } from './share.ts';

const WAITING_MAX = 8;

export interface Quota {
  readonly path: string;
  readonly inode: number;
  readonly bytes: number;
  readonly bytesMax: number | null;
  readonly inodes: number;
  readonly inodesMax: number | null;
  readonly counting: boolean;
}

export interface Copied {
  readonly path: string;
  readonly files: number;
  readonly directories: number;
  readonly bytes: number;
  readonly consistent: boolean;
}

export interface VolumeSnapshot {
  readonly name: string;
  readonly path: string;
  readonly created: string;
}

export interface Trashed {
  readonly id: number;
  readonly path: string | null;
  readonly kind: string;
  readonly bytes: number;
  readonly removed: string;
}

export interface Restored {
  readonly restored: number;
  readonly failed: number;
  readonly failures: readonly string[];
}

/** Paths are of the volume. What each throws: fs-gateway/tools/. */
export interface VolumeTools {
  /** On the store of the pipeline, with the options of `fs format`. */
  format(options: Readonly<Record<string, string>>): Promise<void>;
  quotas(): Promise<readonly Quota[]>;
  /** null: no limit; undefined: as it is. */
  setQuota(
    path: string,
    limits: { readonly bytesMax?: number | null; readonly inodesMax?: number | null },
  ): Promise<Quota>;
  snapshots(): Promise<readonly VolumeSnapshot[]>;
  createSnapshot(name: string): Promise<Copied>;
  deleteSnapshot(name: string): Promise<void>;
  clone(from: string, to: string): Promise<Copied>;
  trash(): Promise<readonly Trashed[]>;
  restore(wanted: readonly string[], to?: string): Promise<Restored>;
  emptyTrash(olderThanMs: number): Promise<{ readonly removed: number }>;
}

/** The tools, one after the other. */
export class VolumeWork {
  readonly #tools: VolumeTools;
  readonly #turns = new Turns({ total: 1, parties: 1 }, WAITING_MAX);

  constructor(tools: VolumeTools) {
    this.#tools = tools;
  }

  /** Throws `unavailable` when too many wait, and what `work` throws. */
  run<T>(work: (tools: VolumeTools) => Promise<T>): Promise<T> {
    return this.#turns.run(null, () => work(this.#tools));
  }
}
