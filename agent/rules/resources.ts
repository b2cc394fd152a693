/** What the rules ask of the machine: how busy its CPUs are, and its emptiest battery. */
import { readdir, readFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';

const POWER_SUPPLIES = '/sys/class/power_supply';

/** Percent of all CPUs since the last call; null at the first one, and where the system does not tell. */
export class CpuMeter {
  #busyMs = 0;
  #allMs = 0;

  sample(): number | null {
    let busyMs = 0;
    let idleMs = 0;
    for (const { times } of cpus()) {
      busyMs += times.user + times.nice + times.sys + times.irq;
      idleMs += times.idle;
    }
    const busy = busyMs - this.#busyMs;
    const all = busyMs + idleMs - this.#allMs;
    const isFirst = this.#allMs === 0;
    this.#busyMs = busyMs;
    this.#allMs = busyMs + idleMs;
    return isFirst || all <= 0 ? null : (100 * busy) / all;
  }
}

/** Percent; null where there is no battery. */
export async function batteryPercent(directory = POWER_SUPPLIES): Promise<number | null> {
  const names = await readdir(directory).catch(() => []);
  const capacities = await Promise.all(
    names.map(async (name) => {
      const text = await readFile(join(directory, name, 'capacity'), 'utf8').catch(() => '');
      return text.trim() === '' ? NaN : Number(text);
    }),
  );
  const known = capacities.filter((percent) => percent >= 0 && percent <= 100);
  return known.length === 0 ? null : Math.min(...known);
}
