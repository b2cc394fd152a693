/** The screen of `penstock fs stats`: what a mount did since its worker began, or (`--watch`) in the last second. */
import { BUCKETS_US, type OperationMetrics } from '../../fs-gateway/fuse/metrics.ts';
import type { MountStats, VolumeStats, WorkerStats } from '../../fs-gateway/fuse/mount-stats.ts';
import { counted, formatBytes } from '../../lib/units.ts';
import { perSecond, secondsBetween, type Timed } from '../watch.ts';

const NOTHING: OperationMetrics = { count: 0, errors: 0, totalUs: 0, buckets: [] };
const PERCENTILE = 0.99;
const count = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** Since the worker began. */
export function drawStats(stats: MountStats): string {
  return draw(stats, (operation) => operation, 1);
}

/** Between the two looks; operations that nobody asked for are left out. */
export function drawRates(before: Timed<MountStats>, now: Timed<MountStats>): string {
  const earlier = workerOf(before.value);
  const seconds = secondsBetween(before, now);
  const known = earlier?.pid === workerOf(now.value)?.pid ? earlier?.operations : undefined;
  const moved = (name: string) => (of: MountStats) => Number(volumeOf(of)[name] ?? 0);
  const volume = volumeOf(now.value);
  const flows = FLOWS.filter(([name]) => name in volume).map(
    ([name, words]) => `${words} ${formatBytes(Math.round(perSecond(before, now, moved(name))))}/s`,
  );
  return draw(now.value, (operation, name) => difference(operation, known?.[name] ?? NOTHING), seconds, flows);
}

/** Counters of the volume that are rates when they are watched. */
const FLOWS = [
  ['fetchedBytes', 'from the store'],
  ['peerFetchedBytes', 'from peers'],
  ['uploadedBytes', 'to the store'],
] as const;

function draw(
  stats: MountStats,
  pick: (operation: OperationMetrics, name: string) => OperationMetrics,
  seconds: number,
  flows?: readonly string[],
): string {
  const worker = workerOf(stats);
  const rates = flows !== undefined;
  const lines = [heading(stats, worker), ...volumeLines(volumeOf(stats), flows)];
  const operations = Object.entries(worker?.operations ?? {})
    .map(([name, operation]) => ({ name, operation: pick(operation, name) }))
    .filter(({ operation }) => operation.count > 0)
    .sort((a, b) => b.operation.totalUs - a.operation.totalUs);
  lines.push(
    '',
    row('OPERATION', rates ? 'PER SECOND' : 'COUNT', 'ERRORS', 'MEAN', `${100 * PERCENTILE} % WITHIN`, 'TIME'),
  );
  const allUs = operations.reduce((sum, { operation }) => sum + operation.totalUs, 0);
  for (const { name, operation } of operations) {
    const { count: asked, errors, totalUs, buckets } = operation;
    const share = allUs === 0 ? '' : `${Math.round((100 * totalUs) / allUs)} %`;
    const times = rates ? rate(asked / seconds) : count.format(asked);
    lines.push(row(name, times, count.format(errors), microseconds(totalUs / asked), within(buckets, asked), share));
  }
  if (operations.length === 0) lines.push(rates ? 'nobody asks for anything' : 'nobody has asked for anything');
  return `${lines.join('\n')}\n`;
}

function heading(stats: MountStats, worker: WorkerStats | undefined): string {
  const { mountpoint, state, uptimeMs, restarts, workerPid } = stats;
  const problem = stats.worker !== undefined && 'error' in stats.worker ? `: ${stats.worker.error}` : '';
  const parts = [
    `${mountpoint}  ${state}${problem} for ${uptime(uptimeMs)}`,
    `worker ${workerPid ?? 'none'}${worker === undefined ? '' : `, ${formatBytes(worker.memoryBytes)}`}, ${restarts} restarts`,
    `${worker?.inFlight ?? 0} in flight`,
  ];
  return parts.join('   ');
}

function volumeLines(volume: VolumeStats, flows: readonly string[] | undefined): string[] {
  const { volume: name, stagedFiles, stagedBytes, cachedBytes, ...rest } = volume;
  if (name === undefined) return [];
  const hidden = new Set<string>(flows === undefined ? [] : FLOWS.map(([flow]) => flow));
  const others = Object.entries(rest)
    .filter(([key]) => !hidden.has(key))
    .map(([key, value]) => `${words(key)} ${figure(key, value)}`);
  const staged = `${counted(Number(stagedFiles), 'file')}, ${formatBytes(Number(stagedBytes))} staged`;
  return [
    [`volume ${name}`, `${formatBytes(Number(cachedBytes))} cached`, staged, ...(flows ?? [])].join('   '),
    others.join('   '),
  ].filter((line) => line !== '');
}

/** `peerServedBytes` -> `peer served`: the unit stands behind the figure. */
function words(key: string): string {
  return key.replace(/(Bytes|Ms)$/, '').replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

function figure(key: string, value: string | number): string {
  if (typeof value === 'string') return value;
  if (key.endsWith('Bytes')) return formatBytes(value);
  return key.endsWith('Ms') ? microseconds(value * 1000) : count.format(value);
}

function difference(now: OperationMetrics, before: OperationMetrics): OperationMetrics {
  return {
    count: now.count - before.count,
    errors: now.errors - before.errors,
    totalUs: now.totalUs - before.totalUs,
    buckets: now.buckets.map((n, i) => n - (before.buckets[i] ?? 0)),
  };
}

/** The smallest bound of the histogram that PERCENTILE of the requests keep. */
function within(buckets: readonly number[], asked: number): string {
  let sum = 0;
  for (const [i, n] of buckets.entries()) {
    sum += n;
    const bound = BUCKETS_US[i];
    if (bound !== undefined && sum >= asked * PERCENTILE) return microseconds(bound);
  }
  return `> ${microseconds(BUCKETS_US.at(-1) ?? 0)}`;
}

function workerOf({ worker }: MountStats): WorkerStats | undefined {
  return worker === undefined || 'error' in worker ? undefined : worker;
}

const volumeOf = (stats: MountStats): VolumeStats => workerOf(stats)?.volume ?? {};

function microseconds(us: number): string {
  if (us < 1000) return `${Math.round(us)} us`;
  return us < 1e6 ? `${(us / 1000).toFixed(1)} ms` : `${(us / 1e6).toFixed(1)} s`;
}

function uptime(ms: number): string {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return `${Math.round(ms / 1000)} s`;
  if (minutes < 120) return `${minutes} min`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} days`;
}

const rate = (perSecond: number): string => (perSecond < 10 ? perSecond.toFixed(1) : count.format(perSecond));

function row(name: string, ...cells: readonly string[]): string {
  return `${name.padEnd(16)}${cells.map((cell) => cell.padStart(13)).join('')}`;
}
