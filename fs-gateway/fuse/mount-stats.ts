/** What `penstock fs stats MOUNTPOINT` answers: the supervisor of itself, and within it its worker. Counters begin anew with each worker. */
import type { MetricsSnapshot } from './metrics.ts';
import type { NotifierStats } from './notifier.ts';

/** Of the volume, by what it is mounted with: bytes (`cachedBytes`), counts (`liveFiles`), words (`passthrough`). */
export type VolumeStats = Readonly<Record<string, string | number>>;

export interface WorkerStats {
  readonly pid: number;
  /** Requests that wait for their answer. */
  readonly inFlight: number;
  readonly memoryBytes: number;
  readonly operations: MetricsSnapshot;
  readonly notifications: NotifierStats;
  readonly volume?: VolumeStats | undefined;
}

/** A type, not an interface: it is a record of JSON too. */
export type MountStats = {
  readonly mountpoint: string;
  readonly state: 'starting' | 'serving' | 'restarting' | 'upgrading' | 'unmounting' | 'ended';
  readonly supervisorPid: number;
  readonly workerPid: number | null;
  readonly generation: number;
  readonly restarts: number;
  readonly uptimeMs: number;
  /** The kernel agreed to it. */
  readonly passthrough: boolean;
  /** Absent while none serves. */
  readonly worker?: WorkerStats | { readonly error: string } | undefined;
};
