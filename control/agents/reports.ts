/**
 * Agents as they report themselves.
 *
 *   {VOLUME}agents / <agent id>     Report as JSON
 *
 * Limits: AGENTS_MAX agents, of one tenant its share of them (kept-share.ts); a status of STATUS_BYTES_MAX. An agent that has not reported for LATE_MS is late. What another control plane was told is seen
 * within FRESH_MS.
 */
import { z } from 'zod';
import type { Clock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import { parseJson, scanJson } from '../../lib/lake/scan.ts';
import type { Compare, MetaEngine, Stored, Version, Write } from '../../lib/meta/engine.ts';
import type { Tenants } from '../auth/tenants.ts';
import type { Connections } from '../connections.ts';
import { KeptShare } from '../kept-share.ts';
import { SharedReading } from '../shared-reading.ts';

const AGENTS_MAX = 20_000;
const STATUS_BYTES_MAX = 32_768;
/** Every open page asks, and a thousand reports are a megabyte. */
const FRESH_MS = 2000;
/** Six heartbeats of ten seconds. */
export const LATE_MS = 60_000;

export const reportSchema = z.object({
  seenMs: z.number(),
  firstSeenMs: z.number(),
  address: z.string(),
  status: z.record(z.string(), z.unknown()),
});
export type Report = z.output<typeof reportSchema>;

const agentsBucket = (volume: string): string => `{${volume}}agents`;

interface Heartbeat {
  readonly id: string;
  readonly address: string;
  readonly status: Report['status'];
}

interface Reading {
  readonly reports: Map<string, Report>;
  /** Of the records that were read, by id: one that is the same is not parsed again. */
  readonly versions: Map<string, Version>;
}

/** What agents said last, kept for those who ask in the same moment. What is saved here is seen at once. */
export class Reports {
  readonly #connections: Pick<Connections, 'engine' | 'volume'>;
  readonly #clock: Clock;
  readonly #reading: SharedReading<Reading>;
  readonly #tenants: Tenants;
  readonly #room: KeptShare;
  #changes = 0;

  constructor(connections: Pick<Connections, 'engine' | 'volume'>, clock: Clock, tenants: Tenants) {
    this.#connections = connections;
    this.#clock = clock;
    this.#reading = new SharedReading(clock, FRESH_MS);
    this.#tenants = tenants;
    this.#room = new KeptShare({ what: 'agents', remedy: 'forget those that are gone', total: AGENTS_MAX, tenants });
  }

  /** Grows when `all` gives something else than before. */
  get changes(): number {
    return this.#changes;
  }

  /** Of every agent that ever reported, by id, in no promised order. */
  async all(): Promise<ReadonlyMap<string, Report>> {
    // Throws while the engine is down, whatever is known.
    const { engine, volume } = this.#connections;
    const before = this.#reading.kept;
    const reading = await this.#reading.get(async () => {
      const read = await readAll(engine, volume, await before?.catch(() => undefined));
      this.#changes++;
      return read;
    });
    return reading.reports;
  }

  /** Throws `too-large` for a status, `full`. */
  async save(said: Heartbeat): Promise<void> {
    const { engine, volume } = this.#connections;
    const report = await this.#write(engine, volume, said);
    // A reading that began before may not have met it.
    const kept = await this.#reading.kept?.catch(() => undefined);
    kept?.reports.set(said.id, report);
    // Another server may have been told something since: the next reading looks for itself.
    kept?.versions.delete(said.id);
    this.#changes++;
  }

  /** What takes the report away while it stays as it is. Throws `not-found`, and `conflict` while the agent reports. */
  async removalOfLate(id: string): Promise<{ readonly compare: readonly Compare[]; readonly write: readonly Write[] }> {
    const { engine, volume } = this.#connections;
    const key = { bucket: agentsBucket(volume), field: id };
    const [stored] = await engine.read([key]);
    if (stored == null) throw new PenstockError('not-found', `no agent ${id} has reported`);
    const silentMs = this.#clock.nowMs() - (reportOf(stored)?.seenMs ?? 0);
    if (silentMs <= LATE_MS) {
      throw new PenstockError(
        'conflict',
        `agent ${id} still reports: stop it, or take its token away, and wait until it is late`,
      );
    }
    return { compare: [{ key, version: stored.version }], write: [{ key, value: null }] };
  }

  /** A report was removed. */
  forget(): void {
    this.#reading.forget();
    this.#changes++;
  }

  async #write(engine: MetaEngine, volume: string, { id, address, status }: Heartbeat): Promise<Report> {
    const bytes = Buffer.byteLength(JSON.stringify(status));
    if (bytes > STATUS_BYTES_MAX)
      throw new PenstockError('too-large', `a status of ${bytes} bytes: at most ${STATUS_BYTES_MAX}`);
    const key = { bucket: agentsBucket(volume), field: id };
    const [stored] = await engine.read([key]);
    if (stored == null) await this.#room.assertRoom(engine, key.bucket, this.#tenants.ownerOf(id));
    const seenMs = this.#clock.nowMs();
    const record = { seenMs, firstSeenMs: reportOf(stored)?.firstSeenMs ?? seenMs, address, status };
    await engine.commit({ write: [{ key, value: Buffer.from(JSON.stringify(record)) }] });
    return record;
  }
}

/** undefined also of a record that is damaged: the next heartbeat mends it. */
function reportOf(stored: Stored | null | undefined): Report | undefined {
  return stored == null ? undefined : reportSchema.safeParse(parseJson(stored.value)).data;
}

/** What every agent that ever reported said last, by id. */
export async function readReports(engine: MetaEngine, volume: string): Promise<ReadonlyMap<string, Report>> {
  return (await readAll(engine, volume, undefined)).reports;
}

async function readAll(engine: MetaEngine, volume: string, before: Reading | undefined): Promise<Reading> {
  const reports = new Map<string, Report>();
  const versions = new Map<string, Version>();
  const known = (id: string, version: Version): Report | undefined => {
    versions.set(id, version);
    return before?.versions.get(id) === version ? before.reports.get(id) : undefined;
  };
  for await (const [id, report] of scanJson(engine, agentsBucket(volume), reportSchema, known)) reports.set(id, report);
  return { reports, versions };
}
