/**
 * This machine as a sensor: CPU, memory, disks, network, load, temperature, from /proc and /sys. Each metric is a sensor of its own,
 * and its value is `{ "sensor", "ts", "value", "unit" }`.
 *
 * What a machine does not have (temperatures on a virtual one, /proc elsewhere than on Linux) is left out. Rates are over the time
 * since the last sample, by the monotonic clock; the first sample has none.
 */
import { readdir, readFile, statfs } from 'node:fs/promises';
import { availableParallelism, freemem, loadavg, totalmem, uptime } from 'node:os';
import { join } from 'node:path';
import type { HostSourceConfig } from '../config.ts';
import { pause, type Source, type SourceOutput } from './source.ts';

/** Sectors of /proc/diskstats have 512 bytes whatever the disk's are (Documentation/admin-guide/iostats.rst). */
const SECTOR_BYTES = 512;

interface Metric {
  readonly sensor: string;
  readonly value: number;
  readonly unit: string;
}

/** Ever growing counts, of which a rate is wanted. */
type Counters = Map<string, { readonly count: number; readonly unit: string; readonly scale: number }>;

export function hostSource(config: HostSourceConfig, index: number): Source {
  return { name: `host:${index}`, run: (output, signal) => sampleRepeatedly(config, output, signal) };
}

async function sampleRepeatedly(config: HostSourceConfig, output: SourceOutput, signal: AbortSignal): Promise<void> {
  const host = new HostMetrics();
  while (!signal.aborted) {
    const startMs = output.clock.monotonicMs();
    const metrics = await host.sample(startMs);
    const nowMs = output.clock.nowMs();
    await output.deliver(
      metrics.map(({ sensor, value, unit }) => ({
        topic: config.to,
        key: sensor,
        value: JSON.stringify({ sensor, ts: nowMs, value, unit }),
        eventUs: nowMs * 1000,
        arrivalUs: nowMs * 1000,
        priority: config.priority,
      })),
    );
    await pause(Math.max(0, config.interval - (output.clock.monotonicMs() - startMs)), signal);
  }
}

export class HostMetrics {
  #last: Counters = new Map();
  #lastMs = 0;

  async sample(monotonicMs: number): Promise<Metric[]> {
    const counters: Counters = new Map();
    const metrics: Metric[] = [
      { sensor: 'load.1m', value: round(loadavg()[0] ?? 0), unit: 'processes' },
      { sensor: 'memory.total', value: totalmem(), unit: 'bytes' },
      { sensor: 'cpu.count', value: availableParallelism(), unit: 'cpus' },
      { sensor: 'uptime', value: Math.round(uptime()), unit: 's' },
      ...(await memory()),
      ...(await filesystem()),
      ...(await temperatures()),
    ];
    await cpuCounters(counters);
    await diskCounters(counters);
    await networkCounters(counters);
    const seconds = (monotonicMs - this.#lastMs) / 1000;
    for (const [sensor, { count, unit, scale }] of counters) {
      const before = this.#last.get(sensor);
      // A counter that fell was reset (a device plugged in again): no rate rather than a wrong one.
      if (before === undefined || count < before.count || seconds <= 0) continue;
      metrics.push({ sensor, value: round(((count - before.count) / seconds) * scale), unit });
    }
    this.#last = counters;
    this.#lastMs = monotonicMs;
    return metrics;
  }
}

const round = (value: number): number => Math.round(value * 1000) / 1000;

async function lines(path: string): Promise<string[]> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.split('\n').filter((line) => line !== '');
}

/** /proc/stat: `cpu0 user nice system idle iowait irq softirq steal ...` in ticks of 10 ms. */
async function cpuCounters(counters: Counters): Promise<void> {
  for (const line of await lines('/proc/stat')) {
    const [name = '', ...fields] = line.split(/\s+/);
    if (!name.startsWith('cpu')) continue;
    const [user = 0, nice = 0, system = 0, , iowait = 0, irq = 0, softirq = 0, steal = 0] = fields.map(Number);
    // Ticks per second are hundredths of a CPU, so the rate is a percentage of one; the total is one of all.
    const scale = name === 'cpu' ? 1 / availableParallelism() : 1;
    const busy = user + nice + system + irq + softirq + steal;
    counters.set(`${name}.usage`, { count: busy, unit: '%', scale });
    if (name === 'cpu') counters.set('cpu.iowait', { count: iowait, unit: '%', scale });
  }
}

async function memory(): Promise<Metric[]> {
  const fields = new Map(
    (await lines('/proc/meminfo')).map((line): [string, number] => {
      const [name = '', value = ''] = line.split(/:\s*/);
      return [name, Number.parseInt(value, 10) * 1024];
    }),
  );
  const available = fields.get('MemAvailable') ?? freemem();
  const swapUsed = (fields.get('SwapTotal') ?? 0) - (fields.get('SwapFree') ?? 0);
  return [
    { sensor: 'memory.available', value: available, unit: 'bytes' },
    { sensor: 'memory.used', value: round((1 - available / totalmem()) * 100), unit: '%' },
    { sensor: 'memory.dirty', value: fields.get('Dirty') ?? 0, unit: 'bytes' },
    { sensor: 'swap.used', value: swapUsed, unit: 'bytes' },
  ];
}

async function filesystem(): Promise<Metric[]> {
  const stats = await statfs('/').catch(() => undefined);
  if (stats === undefined || stats.blocks === 0) return [];
  return [
    { sensor: 'disk.root.free', value: stats.bavail * stats.bsize, unit: 'bytes' },
    { sensor: 'disk.root.used', value: round((1 - stats.bfree / stats.blocks) * 100), unit: '%' },
  ];
}

/** Whole disks only: partitions are listed under their disk's folder, not in /sys/block. */
async function diskCounters(counters: Counters): Promise<void> {
  const disks = new Set(await readdir('/sys/block').catch(() => []));
  for (const line of await lines('/proc/diskstats')) {
    const fields = line.trim().split(/\s+/);
    const name = fields[2] ?? '';
    if (!disks.has(name) || /^(loop|ram|zram)/.test(name)) continue;
    counters.set(`disk.${name}.read`, { count: Number(fields[5]) * SECTOR_BYTES, unit: 'bytes/s', scale: 1 });
    counters.set(`disk.${name}.write`, { count: Number(fields[9]) * SECTOR_BYTES, unit: 'bytes/s', scale: 1 });
    // Milliseconds per second of doing I/O, as a percentage.
    counters.set(`disk.${name}.busy`, { count: Number(fields[12]), unit: '%', scale: 0.1 });
  }
}

/** /proc/net/dev: `eth0: bytes packets errs drop fifo frame compressed multicast | bytes ...`. */
async function networkCounters(counters: Counters): Promise<void> {
  for (const line of await lines('/proc/net/dev')) {
    const [name = '', rest] = line.trim().split(/:\s*/);
    if (rest === undefined) continue;
    const fields = rest.split(/\s+/).map(Number);
    counters.set(`net.${name}.receive`, { count: fields[0] ?? 0, unit: 'bytes/s', scale: 1 });
    counters.set(`net.${name}.transmit`, { count: fields[8] ?? 0, unit: 'bytes/s', scale: 1 });
  }
}

async function temperatures(): Promise<Metric[]> {
  const metrics: Metric[] = [];
  for (const zone of await readdir('/sys/class/thermal').catch(() => [])) {
    if (zone.startsWith('thermal_zone')) {
      await addTemperature(metrics, `temperature.${zone}`, join('/sys/class/thermal', zone, 'temp'));
    }
  }
  for (const chip of await readdir('/sys/class/hwmon').catch(() => [])) {
    const folder = join('/sys/class/hwmon', chip);
    for (const file of await readdir(folder).catch(() => [])) {
      const input = /^(temp\d+)_input$/.exec(file)?.[1];
      if (input !== undefined) await addTemperature(metrics, `temperature.${chip}.${input}`, join(folder, file));
    }
  }
  return metrics;
}

async function addTemperature(metrics: Metric[], sensor: string, path: string): Promise<void> {
  const text = (await lines(path))[0];
  const value = Number(text ?? NaN) / 1000;
  if (Number.isFinite(value)) metrics.push({ sensor, value, unit: '°C' });
}
