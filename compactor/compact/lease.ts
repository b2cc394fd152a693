/**
 * Leases on groups, so that two compactors do not do the same work. Only work is saved by them: what is right is decided by the
 * compares of the commit, one of which is the lease's version.
 *
 *   {VOLUME}leases / compact:<dataset>:<hour>      { "session", "host", "pid", "space", "born", "untilMs" } as JSON
 *
 * Failure: the lease of a killed process is free at once for processes of its machine, else when it ends (LEASE_MS). One that ends
 * later than any can was written by a clock that is off, ours or the other one, and protects nobody: it would hold its hour up for years.
 */
import { hostname } from 'node:os';
import { z } from 'zod';
import { CLOCK_SKEW_MS_MAX } from '../../lib/clock.ts';
import type { Compare, Key, Stored, Version, Write } from '../../lib/meta/engine.ts';
import { isGone, thisProcess } from '../../lib/process-identity.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { commitSurely } from '../commit-surely.ts';
import { hourName } from '../parquet-object.ts';

const LEASE_MS = 60_000;
const RENEW_MS = 15_000;

const leaseSchema = z.object({
  session: z.int(),
  host: z.string(),
  pid: z.int(),
  /** Of an older version's lease nobody knows. */
  space: z.string().default(''),
  born: z.string().optional(),
  untilMs: z.number(),
});

export class GroupLease {
  readonly #lake: LakeContext;
  readonly #key: Key;
  #version: Version;
  readonly #timer: NodeJS.Timeout;
  #renewal: Promise<void> | undefined;

  private constructor(lake: LakeContext, key: Key, version: Version) {
    this.#lake = lake;
    this.#key = key;
    this.#version = version;
    this.#timer = setInterval(() => {
      // One at a time: each goes by the version that the one before gave, and `release` waits for the last one.
      this.#renewal ??= this.#renew().finally(() => (this.#renewal = undefined));
    }, RENEW_MS).unref();
  }

  /** The lease, or who has it. */
  static async take(
    lake: LakeContext,
    dataset: string,
    hour: number,
  ): Promise<GroupLease | { readonly holder: string }> {
    const key: Key = { bucket: `{${lake.volume}}leases`, field: `compact:${dataset}:${hourName(hour)}` };
    const [current] = await lake.engine.read([key]);
    const holder = holderOf(lake, current ?? null);
    if (holder !== null) return { holder };
    // A lost answer must not leave a lease that nobody knows to be theirs: the same operation is asked again.
    const result = await commitSurely(lake.engine, {
      compare: [{ key, version: current?.version ?? null }],
      write: [{ key, value: leaseValue(lake) }],
    });
    return result.ok ? new GroupLease(lake, key, result.version) : { holder: 'another compactor, this instant' };
  }

  /** Whether the record is still the one that we wrote. */
  async isOurs(): Promise<boolean> {
    const [current] = await this.#lake.engine.read([this.#key]);
    return current?.version === this.#version;
  }

  /** Ends renewing; then the parts that make a commit depend on the lease and end it. */
  async release(): Promise<{ readonly compare: Compare; readonly write: Write }> {
    await this.#stop();
    return {
      compare: { key: this.#key, version: this.#version },
      write: { key: this.#key, value: null },
    };
  }

  /** Gives it up without a commit; a no-op when it is not ours any more. */
  async abandon(): Promise<void> {
    const { compare, write } = await this.release();
    await commitSurely(this.#lake.engine, { compare: [compare], write: [write] });
  }

  async #stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#renewal;
  }

  async #renew(): Promise<void> {
    try {
      // With an answer lost, we would hold the lease under a version that we do not know, and take ourselves for another.
      const result = await commitSurely(this.#lake.engine, {
        compare: [{ key: this.#key, version: this.#version }],
        write: [{ key: this.#key, value: leaseValue(this.#lake) }],
      });
      if (result.ok) this.#version = result.version;
      // Else it was taken from us: the commit will fail on it.
    } catch {
      // The next renewal or the commit will tell.
    }
  }
}

function leaseValue(lake: LakeContext): Buffer {
  const untilMs = lake.clock.nowMs() + LEASE_MS;
  return Buffer.from(JSON.stringify({ session: lake.engine.sessionId, host: hostname(), ...thisProcess, untilMs }));
}

/** null: it is free. */
function holderOf(lake: LakeContext, stored: Stored | null): string | null {
  if (stored === null) return null;
  const parsed = leaseSchema.safeParse(parse(stored.value));
  // A record that nobody understands protects nobody.
  if (!parsed.success) return null;
  const leftMs = parsed.data.untilMs - lake.clock.nowMs();
  // Both clocks may be as far from the engine's, one before and one behind it.
  if (leftMs <= 0 || leftMs > LEASE_MS + 2 * CLOCK_SKEW_MS_MAX) return null;
  const { host, pid, untilMs } = parsed.data;
  if (isGone(parsed.data)) return null;
  return `process ${pid} on ${host} until ${new Date(untilMs).toISOString()}`;
}

function parse(value: Buffer): unknown {
  try {
    return JSON.parse(value.toString('utf8'));
  } catch {
    return undefined;
  }
}
