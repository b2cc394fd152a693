/**
 * Simulated machines: vibration, temperature and speed of rotating equipment, at a fixed rate. The values depend on the seed and the
 * number of the reading only, and the number goes on after a restart, so two runs of one seed give the same readings.
 */
import type { SimulatorSourceConfig } from '../config.ts';
import type { NewReading } from '../spool/frame.ts';
import { pause, type Source, type SourceOutput } from './source.ts';

/** Each turn makes what is due since the last one; shorter turns cost more per reading. */
const TURN_MS = 20;
const BATCH_MAX = 5000;
/** A source that was held up by a full spool does not make up for more than this. */
const CATCH_UP_MS = 1000;

export function simulatorSource(config: SimulatorSourceConfig, index: number): Source {
  const name = `simulator:${index}:${config.to}`;
  return { name, run: (output, signal) => simulate(name, config, output, signal) };
}

async function simulate(
  name: string,
  config: SimulatorSourceConfig,
  output: SourceOutput,
  signal: AbortSignal,
): Promise<void> {
  const { rate, count = Infinity } = config;
  const { clock } = output;
  let number = Number(output.checkpoint(name) ?? 0);
  let paidUntilMs = clock.monotonicMs();
  while (!signal.aborted && number < count) {
    const nowMs = clock.monotonicMs();
    paidUntilMs = Math.max(paidUntilMs, nowMs - CATCH_UP_MS);
    const due = Math.min(BATCH_MAX, count - number, Math.floor(((nowMs - paidUntilMs) * rate) / 1000));
    if (due > 0) {
      const readings = makeReadings(config, number, due, clock.nowMs());
      await output.deliver(readings, [{ source: name, state: number + due }]);
      number += due;
      paidUntilMs += (due * 1000) / rate;
    }
    if (due < BATCH_MAX) await pause(Math.max(TURN_MS, Math.min(1000, 1000 / rate)), signal);
  }
}

/** Readings `first` to `first + count - 1`. */
export function makeReadings(
  config: Pick<SimulatorSourceConfig, 'seed' | 'sensors' | 'to' | 'priority'>,
  first: number,
  count: number,
  nowMs: number,
): NewReading[] {
  const { seed, sensors, to: topic, priority } = config;
  const nowUs = nowMs * 1000;
  return Array.from({ length: count }, (_, offset) => {
    const number = first + offset;
    const sensor = number % sensors;
    const round = (number - sensor) / sensors;
    const noise = hash(seed, number) / 2 ** 32;
    // A machine's own character, a slow drift with the load, and noise; one in some thousand readings is a shock.
    const character = (hash(seed, sensor ^ 0x5bd1e995) >>> 8) / 2 ** 24;
    const load = 0.5 + 0.5 * Math.sin(round / 300 + character * 6.283);
    const shock = noise > 0.9997 ? 8 : 1;
    const rms = Math.round((0.4 + character + load * 0.8 + noise * 0.2) * shock * 1000) / 1000;
    const peak = Math.round(rms * (2.8 + noise) * 1000) / 1000;
    const temperature = Math.round((38 + character * 20 + load * 12 + noise) * 100) / 100;
    const rpm = Math.round(1450 + load * 40 + noise * 5);
    const key = `machine-${sensor}`;
    const value = `{"sensor":"${key}","ts":${nowMs},"n":${number},"rms":${rms},"peak":${peak},"temperature":${temperature},"rpm":${rpm},"state":"${load > 0.05 ? 'running' : 'idle'}","site":"plant-1","line":"line-${sensor % 8}"}`;
    return { topic, key, value, eventUs: nowUs, arrivalUs: nowUs, priority };
  });
}

/** A well-mixed 32-bit number from two (the finaliser of MurmurHash3). */
function hash(seed: number, number: number): number {
  let mixed = Math.imul(seed ^ Math.floor(number / 2 ** 32), 0x9e3779b1) ^ (number >>> 0);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
