/**
 * What a run uses, counted and recorded (lib/lake/cost-records.ts).
 *
 * Limits: memory is looked at with each request to the store and at the end, that of a child process once for each piece of its work; RECORDS_MAX records a dataset; the oldest go first (a year of hourly runs and their landers).
 */
import { randomBytes } from 'node:crypto';
import { sumRuns, type CostSums } from '../../lib/lake/cost-periods.ts';
import { costBucket, readCosts, type CostRecord, type NewCostRecord } from '../../lib/lake/cost-records.ts';
import type { Key } from '../../lib/meta/engine.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import type { LakeContext } from '../../lib/table/table.ts';

const RECORDS_MAX = 20_000;
const SCAN_PAGE = 500;
/** Records written between two looks at how many there are. */
const PRUNE_EVERY = 500;

export type Usage = Omit<CostRecord, 'kind' | 'rows' | 'landed'>;

/** What kind of machine this is: nothing that every cloud and cluster would tell a container. */
const NODE: Pick<CostRecord, 'node' | 'isSpot'> = {
  ...(process.env['PENSTOCK_NODE_TYPE'] && { node: process.env['PENSTOCK_NODE_TYPE'] }),
  ...(process.env['PENSTOCK_NODE_SPOT'] && { isSpot: process.env['PENSTOCK_NODE_SPOT'] === 'true' }),
};

/** Counts what a run uses. Work with its `lake` instead of the caller's. */
export class CostMeter {
  readonly lake: LakeContext;
  readonly #inner: LakeContext;
  #startedMs: number;
  #start: number;
  #cpuStart = process.cpuUsage();
  #childCpuSeconds = 0;
  #gbSeconds = 0;
  #lookedMs: number;
  #bytesRead = 0;
  #bytesWritten = 0;
  #gets = 0;
  #puts = 0;

  constructor(lake: LakeContext) {
    this.#inner = lake;
    this.#startedMs = lake.clock.nowMs();
    this.#start = this.#lookedMs = lake.clock.monotonicMs();
    this.lake = { ...lake, store: this.#metered(lake.store) };
  }

  /** Counts from zero again. */
  restart(): void {
    this.#startedMs = this.#inner.clock.nowMs();
    this.#start = this.#lookedMs = this.#inner.clock.monotonicMs();
    this.#gbSeconds = 0;
    this.#cpuStart = process.cpuUsage();
    this.#childCpuSeconds = 0;
    this.#bytesRead = 0;
    this.#bytesWritten = 0;
    this.#gets = 0;
    this.#puts = 0;
  }

  /** `rssBytes`: what it held for `seconds`. */
  addChild(used: { readonly cpuSeconds: number; readonly rssBytes: number; readonly seconds: number }): void {
    this.#childCpuSeconds += used.cpuSeconds;
    this.#gbSeconds += (used.rssBytes / 1e9) * used.seconds;
  }

  /** Bytes that were read from the store without it (a local file). */
  addRead(bytes: number): void {
    this.#gets++;
    this.#bytesRead += bytes;
  }

  /** `share` of all so far. */
  usage(share: number): Usage {
    const cpu = process.cpuUsage(this.#cpuStart);
    const cpuSeconds = (cpu.user + cpu.system) / 1e6 + this.#childCpuSeconds;
    this.#look();
    const seconds = (this.#lookedMs - this.#start) / 1000;
    return {
      ...NODE,
      startedMs: this.#startedMs,
      seconds: round3(seconds),
      nodeSeconds: round3(seconds * share),
      gbSeconds: round3(this.#gbSeconds * share),
      cpuSeconds: round3(cpuSeconds * share),
      bytesRead: Math.round(this.#bytesRead * share),
      bytesWritten: Math.round(this.#bytesWritten * share),
      gets: Math.round(this.#gets * share),
      puts: Math.round(this.#puts * share),
    };
  }

  #look(): void {
    const nowMs = this.#inner.clock.monotonicMs();
    this.#gbSeconds += (process.memoryUsage.rss() / 1e9) * ((nowMs - this.#lookedMs) / 1000);
    this.#lookedMs = nowMs;
  }

  #metered(store: ObjectStore): ObjectStore {
    const got = (bytes: number): void => {
      this.#look();
      this.#gets++;
      this.#bytesRead += bytes;
    };
    const written = (bytes: number): void => {
      this.#look();
      this.#puts++;
      this.#bytesWritten += bytes;
    };
    return {
      url: store.url,
      put: async (key, body, options) => {
        const info = await store.put(key, body, options);
        written(info.bytes);
        return info;
      },
      putFile: async (key, path, options) => {
        const info = await store.putFile(key, path, options);
        written(info.bytes);
        return info;
      },
      get: async (key, options) => {
        const bytes = await store.get(key, options);
        got(bytes.length);
        return bytes;
      },
      getFile: async (key, path, options) => {
        const info = await store.getFile(key, path, options);
        got(info.bytes);
        return info;
      },
      head: (key, options) => store.head(key, options),
      list: (prefix, options) => store.list(prefix, options),
      delete: (keys, options) => store.delete(keys, options),
      location: (key) => store.location(key),
      keyOf: (location) => store.keyOf(location),
      localPath: (key) => store.localPath(key),
      close: () => store.close(),
    };
  }
}

const round3 = (value: number): number => Math.round(value * 1000) / 1000;

export async function writeCost(lake: LakeContext, dataset: string, record: NewCostRecord): Promise<void> {
  const bucket = costBucket(lake.volume, dataset);
  const field = `${new Date(record.startedMs).toISOString()}-${randomBytes(4).toString('hex')}`;
  await lake.engine.commit({ write: [{ key: { bucket, field }, value: Buffer.from(JSON.stringify(record)) }] });
  const count = await lake.engine.count(bucket);
  if (count > RECORDS_MAX + PRUNE_EVERY) await prune(lake, dataset, count - RECORDS_MAX);
}

async function prune(lake: LakeContext, dataset: string, excess: number): Promise<void> {
  const bucket = costBucket(lake.volume, dataset);
  const keys: Key[] = [];
  for await (const [field] of readCosts(lake.engine, lake.volume, dataset)) keys.push({ bucket, field });
  // Fields begin with the time, so their order is the age.
  const oldest = keys.sort((a, b) => (a.field < b.field ? -1 : 1)).slice(0, excess);
  for (let at = 0; at < oldest.length; at += SCAN_PAGE) {
    await lake.engine.commit({ write: oldest.slice(at, at + SCAN_PAGE).map((key) => ({ key, value: null })) });
  }
}

/** What the compactions of a dataset took that started in [fromMs, toMs). */
export async function compactionCosts(
  lake: LakeContext,
  dataset: string,
  { fromMs, toMs }: { readonly fromMs: number; readonly toMs: number },
): Promise<CostSums> {
  const runs: CostRecord[] = [];
  for await (const [, record] of readCosts(lake.engine, lake.volume, dataset)) {
    if (record.kind === 'compact' && record.startedMs >= fromMs && record.startedMs < toMs) runs.push(record);
  }
  return sumRuns(runs);
}
