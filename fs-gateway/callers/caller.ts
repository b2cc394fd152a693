/** One thread that makes requests, and the workload that it belongs to. */
import type { DiskIo } from './disk-io.ts';
import { IoCounts } from './io-counts.ts';
import type { Workload } from './workload.ts';

export interface Group {
  readonly workload: Workload;
  readonly counts: IoCounts;
  /** In the last sweep. */
  active: boolean;
  /** Undefined where its cgroup counts no block I/O. */
  readonly disk: DiskIo | undefined;
}

export class Caller {
  readonly pid: number;
  /** Its own until it is looked up, then its workload's. */
  counts = new IoCounts();
  startTicks: string | undefined;
  group: Group | undefined;
  active = true;
  /** Since the last sweep: nobody can have its id yet. */
  isNew = true;

  constructor(pid: number) {
    this.pid = pid;
  }
}
