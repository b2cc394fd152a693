/**
 * What follows from the forecasts: the day the disk of a `dir:` store is full, and datasets that cost much and that nobody is known to use.
 *
 * Limits: use is what lineage records say, so there is no advice to switch off while nothing records lineage at all. Object stores
 * without an end have no day on which they are full.
 */
import type { Scope } from '../scope/scope.ts';
import type { Band } from './forecast.ts';

const DAY_MS = 86_400_000;
const LOOK_BACK_DAYS = 28;
/** Below this, switching a dataset off saves less than talking about it. */
const SHARE_MIN = 0.1;

export interface Advice {
  readonly dataset: string | null;
  readonly kind: 'switch-off' | 'buy';
  readonly text: string;
}

/** `rowsOf` gives the forecast of a dataset's rows a day; null while there is none. */
export async function adviseOn(scope: Scope, rowsOf: (dataset: string) => Promise<Band | null>): Promise<Advice[]> {
  return [...(await diskAdvice(scope, rowsOf)), ...(await unusedAdvice(scope))];
}

async function diskAdvice(
  { lake, nowMs }: Scope,
  rowsOf: (dataset: string) => Promise<Band | null>,
): Promise<Advice[]> {
  const disk = await lake.disk();
  const sample = lake.latest;
  if (disk === null || sample === null) return [];
  const grow = async (line: 'point' | 'upper'): Promise<number[]> => {
    const daily: number[] = [];
    for (const { name, liveRows, liveBytes } of sample.datasets) {
      const bytesPerRow = liveRows === 0 ? 0 : (liveBytes ?? 0) / liveRows;
      for (const [day, rows] of ((await rowsOf(name))?.[line] ?? []).entries()) {
        daily[day] = (daily[day] ?? 0) + rows * bytesPerRow;
      }
    }
    return daily;
  };
  const expected = dayOf(await grow('point'), disk.freeBytes);
  const earliest = dayOf(await grow('upper'), disk.freeBytes);
  if (earliest === null) return [];
  const date = (day: number): string => new Date(nowMs + day * DAY_MS).toISOString().slice(0, 10);
  const then = expected === null ? 'not within this forecast if it goes as expected' : `${date(expected)} as expected`;
  const text = `the disk of ${disk.store} is full on ${date(earliest)} at the earliest, ${then}: buy space, or shorten a retention`;
  return [{ dataset: null, kind: 'buy', text }];
}

/** The day on which the sums reach `free`. */
function dayOf(daily: readonly number[], free: number): number | null {
  let sum = 0;
  const day = daily.findIndex((bytes) => (sum += bytes) >= free);
  return day === -1 ? null : day;
}

async function unusedAdvice({ lake, nowMs }: Scope): Promise<Advice[]> {
  const sinceMs = nowMs - LOOK_BACK_DAYS * DAY_MS;
  const cpu = new Map<string, number>();
  for (const run of await lake.runs()) {
    if (run.startedMs >= sinceMs) cpu.set(run.dataset, (cpu.get(run.dataset) ?? 0) + run.cpuSeconds);
  }
  const total = cpu.values().reduce((sum, seconds) => sum + seconds, 0);
  const used = new Set<string>();
  let isRecorded = false;
  for (const dataset of lake.datasetNames) {
    const uses = await lake.uses({ dataset });
    isRecorded ||= uses.length > 0;
    if (uses.some(({ recordedMs }) => recordedMs >= sinceMs)) used.add(dataset);
  }
  if (!isRecorded || total === 0) return [];
  return [...cpu]
    .filter(([dataset, seconds]) => !used.has(dataset) && seconds / total >= SHARE_MIN)
    .map(([dataset, seconds]) => ({
      dataset,
      kind: 'switch-off',
      text: `${dataset} took ${Math.round((seconds / total) * 100)} % of the CPU of the last ${LOOK_BACK_DAYS} days, and no job has recorded a use of it in them`,
    }));
}
