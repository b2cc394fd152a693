/** What compacting a group is expected to take, from what the dataset's earlier compactions took. */
import type { PipelineConfig } from '../../lib/config/pipeline.ts';
import { priceOf } from '../../lib/lake/cost-periods.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { compactionCosts } from '../cost/cost.ts';
import { hourName } from '../parquet-object.ts';
import type { Group } from './plan.ts';
import { isTaken } from './selection.ts';

/** Until there is a record of an earlier run: input bytes per second of one core. */
const BYTES_PER_SECOND_GUESS = 15_000_000;
const RATE_SPAN_MS = 30 * 86_400_000;
/** A manifest, the manifest list and the metadata. */
const PUTS_A_COMMIT = 3;
/** Reading the table and its manifests, twice. */
const GETS_A_COMMIT = 6;

export interface PlannedGroup {
  readonly dataset: string;
  readonly hour: string;
  readonly files: number;
  readonly bytes: number;
  readonly rows: number;
  /** Why files are rewritten, with how many for each reason. */
  readonly reason: string;
  /** Files that stay as they are and are read, because they may hold the same readings; and those that are not looked at. */
  readonly compared: number;
  readonly left: number;
  readonly expectedSeconds: number;
  readonly expectedCpuSeconds: number;
  /** In `prices.currency`; absent without prices. */
  readonly expectedCost?: number;
}

export interface Rates {
  /** Input bytes. */
  readonly bytesPerSecond: number;
  readonly bytesPerCpuSecond: number;
  /** Memory that a CPU second needs, for as long. */
  readonly gbPerCpuSecond: number;
}

export async function measuredRates(lake: LakeContext, dataset: string): Promise<Rates> {
  const nowMs = lake.clock.nowMs();
  const past = await compactionCosts(lake, dataset, { fromMs: nowMs - RATE_SPAN_MS, toMs: nowMs + 1 });
  const rate = (seconds: number): number =>
    seconds > 0 && past.bytesRead > 0 ? past.bytesRead / seconds : BYTES_PER_SECOND_GUESS;
  return {
    bytesPerSecond: rate(past.seconds),
    bytesPerCpuSecond: rate(past.cpuSeconds),
    gbPerCpuSecond: past.cpuSeconds > 0 ? past.gbSeconds / past.cpuSeconds : 0,
  };
}

function reasonOf({ choices }: Group): string {
  const reasons = Map.groupBy(choices.filter(isTaken), ({ verdict }) => verdict);
  return [...reasons]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([verdict, { length }]) => `${length} ${verdict.replace('rewrite: ', '')}`)
    .join(', ');
}

export function expectation(
  group: Group,
  rates: Rates,
  targetBytes: number,
  prices: PipelineConfig['prices'],
): PlannedGroup {
  const cpuSeconds = group.bytes / rates.bytesPerCpuSecond;
  const requests = {
    gets: group.files.length + group.compared.length + GETS_A_COMMIT,
    puts: Math.ceil(group.bytes / targetBytes) + PUTS_A_COMMIT,
  };
  return {
    dataset: group.dataset,
    hour: hourName(group.hour),
    files: group.files.length,
    bytes: group.bytes,
    rows: group.rows,
    reason: reasonOf(group),
    compared: group.compared.length,
    left: group.choices.length - group.files.length - group.compared.length,
    expectedSeconds: Math.ceil(group.bytes / rates.bytesPerSecond),
    expectedCpuSeconds: Number(cpuSeconds.toFixed(3)),
    ...(prices === undefined
      ? {}
      : {
          expectedCost: Number(
            priceOf({ cpuSeconds, gbSeconds: cpuSeconds * rates.gbPerCpuSecond, ...requests }, prices).toFixed(6),
          ),
        }),
  };
}
