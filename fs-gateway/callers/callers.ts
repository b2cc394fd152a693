/**
 * Who asks how much of a mount: counts by workload (workload.ts), exact for every request that comes to the daemon.
 *
 * The header of a request has the id of the thread that made it. The first request of an id gets counts of its own and is answered like any other;
 * meanwhile its process is looked up in /proc, and from then on all of a workload count into one object, its own with what was counted before.
 * So a request costs one look into a map and additions, and what a process does before it is known is not lost.
 *
 * Invariants
 * - Every request is counted once, with its workload or with those that are merged.
 * - Ids are used again by the kernel: one that goes on is checked by its start time every SWEEP_MS, one that rests is forgotten.
 * Failure: a process that ended before it was looked up is `ended`; id 0 (requests of the kernel itself, and all of other pid namespaces) is `unseen`.
 * Limits: CALLERS_MAX ids at a time and WORKLOADS_MAX workloads, the idle and small ones are merged into `other`; LOOKUPS_MAX at a time. Nothing
 *   runs while nobody asks.
 */
import { Caller } from './caller.ts';
import type { Group } from './caller.ts';
import { DiskIo } from './disk-io.ts';
import { HotFiles } from './hot-files.ts';
import { IoCounts } from './io-counts.ts';
import { PassedThrough } from './passed-through.ts';
import type { PassedThroughOptions } from './passed-through.ts';
import { statOf, textOf } from './process-files.ts';
import { diskCgroup, workloadOf } from './workload.ts';
import type { Workload } from './workload.ts';

const SWEEP_MS = 5000;
/** Threads, not processes: one training job has hundreds. */
const CALLERS_MAX = 4096;
const WORKLOADS_MAX = 128;
const LOOKUPS_MAX = 4;

const UNSEEN: Workload = { kind: 'none', id: 'unseen' };
const ENDED: Workload = { kind: 'none', id: 'ended' };
const OTHER: Workload = { kind: 'none', id: 'other' };

export interface WorkloadCounts {
  readonly workload: Workload;
  readonly counts: IoCounts;
  /** Of all disks and all files of its cgroup, since it was first seen; null where that is not counted. */
  readonly disk: { readonly readBytes: number; readonly writtenBytes: number } | null;
}

export class Callers {
  readonly files = new HotFiles();
  readonly #byPid = new Map<number, Caller>();
  readonly #groups = new Map<string, Group>();
  readonly #passed: PassedThrough;
  readonly #queue: Caller[] = [];
  #lookups = 0;
  #timer: NodeJS.Timeout | undefined;
  #sweeping: Promise<void> | undefined;

  constructor(options: PassedThroughOptions) {
    this.#passed = new PassedThrough(options, this.files);
  }

  /** Whoever made a request, known or not. */
  of(pid: number): Caller {
    const known = this.#byPid.get(pid) ?? this.#meet(pid);
    known.active = true;
    return known;
  }

  #meet(pid: number): Caller {
    this.#timer ??= setInterval(() => void this.#sweep(), SWEEP_MS).unref();
    if (pid === 0) return this.#fixed(pid, UNSEEN);
    if (this.#byPid.size >= CALLERS_MAX) return this.#fixed(-1, OTHER);
    const caller = new Caller(pid);
    this.#byPid.set(pid, caller);
    this.#look(caller);
    return caller;
  }

  #fixed(pid: number, workload: Workload): Caller {
    let caller = this.#byPid.get(pid);
    if (caller === undefined) this.#byPid.set(pid, (caller = new Caller(pid)));
    this.#join(caller, workload);
    return caller;
  }

  /** Nobody asked for anything for a while, and nobody has a file open that the kernel serves by itself. */
  get isIdle(): boolean {
    return this.#timer === undefined;
  }

  /** It opened a file that the kernel serves by itself. */
  opensPassedThrough(caller: Caller): void {
    this.#passed.watch(caller);
  }

  #look(caller: Caller): void {
    if (this.#lookups >= LOOKUPS_MAX) {
      this.#queue.push(caller);
      return;
    }
    this.#lookups++;
    void this.#lookUp(caller).finally(() => {
      this.#lookups--;
      const next = this.#queue.shift();
      if (next !== undefined) this.#look(next);
    });
  }

  async #lookUp(caller: Caller): Promise<void> {
    const [stat, cgroups] = await Promise.all([statOf(caller.pid), textOf(caller.pid, 'cgroup')]);
    if (stat === null || cgroups === null) this.#join(caller, ENDED);
    else {
      caller.startTicks = stat.startTicks;
      this.#join(caller, workloadOf(cgroups, stat.command), cgroups);
    }
  }

  #join(caller: Caller, workload: Workload, cgroups?: string): void {
    const group = this.#groupOf(workload, cgroups);
    if (caller.group === group) return;
    // What a workload has counted stays with it, also when a process moves on to another.
    if (caller.group === undefined) group.counts.add(caller.counts);
    caller.group = group;
    caller.counts = group.counts;
    group.active = true;
  }

  #groupOf(workload: Workload, cgroups?: string): Group {
    const key = `${workload.kind}:${workload.id}`;
    const known = this.#groups.get(key);
    if (known !== undefined) return known;
    if (workload.kind !== 'none' && this.#groups.size >= WORKLOADS_MAX && !this.#makeRoom())
      return this.#groupOf(OTHER);
    const place = cgroups === undefined ? null : diskCgroup(cgroups);
    const disk = place === null ? undefined : new DiskIo(place);
    const group: Group = { workload, counts: new IoCounts(), active: true, disk };
    this.#groups.set(key, group);
    return group;
  }

  /** Merges the smallest of the idle ones into `other`. False: all are active. */
  #makeRoom(): boolean {
    let smallest: [string, Group] | undefined;
    for (const [key, group] of this.#groups) {
      if (group.active || group.workload.kind === 'none') continue;
      if (smallest === undefined || group.counts.bytes < smallest[1].counts.bytes) smallest = [key, group];
    }
    if (smallest === undefined) return false;
    this.#groups.delete(smallest[0]);
    this.#groupOf(OTHER).counts.add(smallest[1].counts);
    return true;
  }

  #sweep(): Promise<void> {
    this.#sweeping ??= this.#runSweep().finally(() => (this.#sweeping = undefined));
    return this.#sweeping;
  }

  async #runSweep(): Promise<void> {
    for (const group of this.#groups.values()) group.active = false;
    const isWatching = await this.#passed.sample();
    for (const [pid, caller] of [...this.#byPid]) {
      const { group } = caller;
      // One without a group is being looked up.
      if (group === undefined) continue;
      if (!caller.active) this.#byPid.delete(pid);
      else {
        group.active = true;
        if (!caller.isNew && caller.startTicks !== undefined) await this.#check(caller);
      }
      caller.active = caller.isNew = false;
    }
    for (const { group } of this.#passed.callers()) if (group !== undefined) group.active = true;
    for (const { disk, active } of this.#groups.values()) if (active) await disk?.sample();
    if (this.#byPid.size === 0 && !isWatching) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
  }

  /** Whether the id still is that process, and where it belongs now. */
  async #check(caller: Caller): Promise<void> {
    const stat = await statOf(caller.pid);
    if (stat?.startTicks !== caller.startTicks) this.#byPid.delete(caller.pid);
    else this.#look(caller);
  }

  /** By bytes moved, the most first. Looks at the estimates anew. */
  async snapshot(): Promise<WorkloadCounts[]> {
    await this.#sweeping;
    await this.#passed.sample();
    for (const { disk } of this.#groups.values()) await disk?.sample();
    const known = [...this.#groups.values()].map(({ workload, counts, disk }) => ({
      workload,
      counts,
      disk: disk?.counts ?? null,
    }));
    // Those that are being looked up.
    const unnamed = new IoCounts();
    for (const { group, counts } of this.#byPid.values()) if (group === undefined) unnamed.add(counts);
    if (unnamed.requests > 0) known.push({ workload: { kind: 'none', id: 'new' }, counts: unnamed, disk: null });
    return known.sort((a, b) => b.counts.bytes - a.counts.bytes || b.counts.requests - a.counts.requests);
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
