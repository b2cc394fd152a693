/**
 * Checks a volume: every record can be read, every name leads to an inode, every inode is reached by as many names as it says, every
 * object that an extent refers to is in the store and long enough, and the counters are right (fsck-findings.ts has the list). With
 * `repair`, what can be made right without a guess is made right, and content is never deleted.
 *
 * Invariants
 * - On a volume in use a change under way can look like a flaw: a finding counts only when two walks in a row have it.
 * - Repairs are refused while a mount of the volume has a live session.
 * - Names are repaired before counts: after repairs the volume is walked again, so that counts are taken of what is now.
 * Failure: a repair is one commit; killed in between, the next run finds the rest.
 * Limits: memory as in fsck-table.ts and fsck-objects.ts; FINDINGS_MAX findings are kept, the rest are counted.
 */
import type { Clock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { VolumeKeys } from '../../lib/volume/keys.ts';
import { liveMounts } from '../../lib/volume/mounts.ts';
import { Check } from './fsck-check.ts';
import type { Finding } from './fsck-findings.ts';
import { Repair } from './fsck-repair.ts';
import { formatOf, mountNames } from './tool.ts';
import type { Progress } from './tool.ts';

const FINDINGS_MAX = 10_000;
/** Each walk repairs one layer: names, then what is found without a name, then counts. */
const WALKS_MAX = 6;

export interface FsckReport {
  readonly inodes: number;
  readonly directories: number;
  readonly objects: number;
  /** The volume is mounted somewhere. */
  readonly inUse: boolean;
  readonly findings: readonly Finding[];
  /** Findings beyond those listed. */
  readonly more: number;
}

export interface FsckOptions {
  readonly volume: string;
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly repair: boolean;
  readonly progress?: Progress;
}

/** Throws `held` when a repair is asked for and the volume is mounted. */
export async function checkVolume(options: FsckOptions): Promise<FsckReport> {
  const { engine, store, volume, clock, progress = () => undefined } = options;
  const { id } = await formatOf(engine, volume);
  const mounts = await liveMounts(engine, volume);
  if (options.repair && mounts.length > 0) {
    throw new PenstockError('held', `a repair needs the volume unmounted; it is mounted at ${mountNames(mounts)}`);
  }
  const keys = new VolumeKeys(volume);
  const repair = options.repair ? new Repair(engine, keys, clock.nowMs()) : undefined;
  const walk = (): Check => new Check({ engine, store, keys, volumeId: id, repair, nowMs: clock.nowMs(), progress });

  let last = walk();
  let findings = await last.run();
  if (repair === undefined && findings.length > 0 && mounts.length > 0) {
    last = walk();
    const seen = new Set(findings.map((finding) => finding.kind + finding.text));
    findings = (await last.run()).filter((finding) => seen.has(finding.kind + finding.text));
  }
  const repaired: Finding[] = [];
  for (let walks = 1; walks < WALKS_MAX && findings.some((finding) => finding.repaired); walks++) {
    repaired.push(...findings.filter((finding) => finding.repaired));
    last = walk();
    findings = await last.run();
  }
  const all = [...repaired, ...findings];
  return {
    ...last.counts(),
    inUse: mounts.length > 0,
    findings: all.slice(0, FINDINGS_MAX),
    more: Math.max(0, all.length - FINDINGS_MAX),
  };
}
