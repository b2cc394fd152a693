/**
 * Which landers live, as each of them sees it: one record for each in the metadata engine (lib/lake/landers.ts), rewritten at every beat.
 *
 * A lander is taken for dead when its record has not changed for the time of a lease while we were watching. No wall clock and no time of another
 * machine is compared; while the engine was away, or we ourselves stood still, nobody was watched. A killed process of this
 * machine is dead at once.
 * Invariants: only work is saved by this. Two landers that disagree about who lives may take a partition from each other; what lands is decided
 * by the compares of the commit.
 * Failure: a lander that was taken for dead and goes on (SIGSTOP, a long pause) is a member again with its next beat.
 * Limits: one write and one scan a beat and process, however many datasets it has.
 */
import { createHash } from 'node:crypto';
import { hostname } from 'node:os';
import type { Key, Version } from '../../lib/meta/engine.ts';
import { type LanderRecord, landersBucket, parseLander } from '../../lib/lake/landers.ts';
import { isGone, thisProcess } from '../../lib/process-identity.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { commitSurely } from '../commit-surely.ts';

/** Five beats: a busy engine or a long portion is no death, and a dead lander's partitions wait no longer than this. */
const LEASE_MS = 10_000;
const BEATS_A_LEASE = 5;
const PAGE = 500;

interface Seen {
  readonly record: LanderRecord;
  readonly version: Version;
  readonly silentMs: number;
}

export class Membership {
  readonly id: string;
  readonly beatMs: number;
  readonly #lake: LakeContext;
  readonly #leaseMs: number;
  readonly #startedMs: number;
  readonly #datasets: Set<string>;
  #seen: ReadonlyMap<string, Seen> = new Map();
  #lastLookMs: number;
  #looking: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #beating: Promise<void> = Promise.resolve();
  /** Grows with every beat after which the others were looked at. */
  beats = 0;

  private constructor(lake: LakeContext, id: string, datasets: readonly string[], leaseMs: number) {
    this.id = id;
    this.beatMs = leaseMs / BEATS_A_LEASE;
    this.#lake = lake;
    this.#leaseMs = leaseMs;
    this.#startedMs = lake.clock.nowMs();
    this.#datasets = new Set(datasets);
    this.#lastLookMs = lake.clock.monotonicMs();
  }

  static async join(
    lake: LakeContext,
    id: string,
    datasets: readonly string[],
    leaseMs = LEASE_MS,
  ): Promise<Membership> {
    const membership = new Membership(lake, id, datasets, leaseMs);
    await membership.#tell();
    membership.#timer = setInterval(() => {
      membership.#beating = membership.#beating.then(() => membership.#beat());
    }, membership.beatMs).unref();
    return membership;
  }

  /** The landers that take a share of a dataset, in an order that is the same for each of them, and another one for each dataset. */
  members(dataset: string): readonly string[] {
    const ids = [...this.#seen].flatMap(([id, { record, silentMs }]) =>
      id !== this.id && silentMs < this.#leaseMs && record.datasets.includes(dataset) ? [id] : [],
    );
    if (this.#datasets.has(dataset)) ids.push(this.id);
    const rank = (id: string): string => createHash('sha1').update(`${dataset}/${id}`).digest('hex');
    return ids.sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
  }

  /** For messages. */
  describe(id: string | undefined): string {
    const record = id === undefined ? undefined : this.#seen.get(id)?.record;
    return record === undefined ? 'no lander' : `the lander that is process ${record.pid} on ${record.host}`;
  }

  /** Whether it takes a share of a dataset; told to the others at once. */
  async take(dataset: string, takes: boolean): Promise<void> {
    if (takes) this.#datasets.add(dataset);
    else this.#datasets.delete(dataset);
    await this.#tell();
  }

  /** Looks at all records that are there when it is called. */
  look(): Promise<void> {
    const look = this.#looking.catch(() => undefined).then(() => this.#scan());
    this.#looking = look;
    return look;
  }

  /** What it held is free with that. Best effort: else its lease runs out. */
  async leave(): Promise<void> {
    clearInterval(this.#timer);
    await this.#beating;
    await commitSurely(this.#lake.engine, { write: [{ key: this.#key(this.id), value: null }] }).catch(() => undefined);
  }

  #key(id: string): Key {
    return { bucket: landersBucket(this.#lake.volume), field: id };
  }

  async #beat(): Promise<void> {
    try {
      await this.#tell();
      await this.look();
      this.beats++;
    } catch {
      // The next beat, or what the rounds of landing meet, will tell.
    }
  }

  async #tell(): Promise<void> {
    const record: LanderRecord = {
      host: hostname(),
      ...thisProcess,
      datasets: [...this.#datasets],
      startedMs: this.#startedMs,
    };
    const value = Buffer.from(JSON.stringify(record));
    await commitSurely(this.#lake.engine, { write: [{ key: this.#key(this.id), value }] });
  }

  async #scan(): Promise<void> {
    const { engine, clock, volume } = this.#lake;
    const before = this.#seen;
    const found = new Map<string, Seen>();
    const dead: { readonly key: Key; readonly version: Version }[] = [];
    const nowMs = clock.monotonicMs();
    // Of a longer time we do not know that anybody was watched.
    const watchedMs = Math.min(nowMs - this.#lastLookMs, 2 * this.beatMs);
    this.#lastLookMs = nowMs;
    for (let cursor: string | null = ''; cursor !== null;) {
      const page = await engine.scan(landersBucket(volume), cursor, PAGE);
      for (const [id, { value, version }] of page.entries) {
        const record = parseLander(value);
        if (record === null || found.has(id)) continue;
        const known = before.get(id);
        const silentMs = known?.version === version ? known.silentMs + watchedMs : 0;
        if (id !== this.id && (silentMs >= this.#leaseMs || isGone(record))) dead.push({ key: this.#key(id), version });
        else found.set(id, { record, version, silentMs });
      }
      cursor = page.cursor;
    }
    this.#seen = found;
    // One that comes back writes its record again.
    for (const one of dead) await engine.commit({ compare: [one], write: [{ key: one.key, value: null }] });
  }
}
