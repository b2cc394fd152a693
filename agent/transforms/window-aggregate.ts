/**
 * Window aggregates: the readings of a sensor in one tumbling window of event time become one reading,
 *
 *   { "sensor", "ts": start of the window (epoch ms), "windowMs", "count", "<field>_min", "_max", "_mean", "_last" for each field }
 *
 * A window is closed by the sensor's first reading of a later one, or when `wait` is over behind its end (counted from its last
 * arrival, so that a wrong clock of a sensor cannot keep it open; nor can one of this machine that was ahead when it arrived).
 *
 * Invariants: an open window is durable together with the positions of the sources whose readings are in it, so each reading is in it
 * once, also after a kill. A reading of a window that is closed becomes a window of its own: with `count`, `min`, `max` and
 * `mean * count` the parts of a window can be put together.
 * Failure: a reading with none of the fields is passed on. When a sensor is forgotten for others, its window is closed early.
 */
import { z } from 'zod';
import type { NewReading } from '../spool/frame.ts';
import type { CheckpointState } from '../spool/spool-state.ts';
import { Draft, emptyFields } from './draft.ts';
import { SensorStates } from './sensor-states.ts';
import { sensorId, type Outlet, type Step } from './step.ts';
import { durableStateName, type ConfigOf } from './transform-config.ts';

const windowSchema = z.strictObject({
  topic: z.string(),
  key: z.string().nullable(),
  priority: z.int(),
  startMs: z.int(),
  windowMs: z.int(),
  arrivalUs: z.int(),
  count: z.int(),
  /** Of the last reading by event time. */
  lastUs: z.int(),
  fields: z.array(z.tuple([z.string(), z.int(), z.number(), z.number(), z.number(), z.number()])),
});
type Window = z.infer<typeof windowSchema>;
type Sums = Window['fields'][number];

export function aggregateStep(config: ConfigOf<'aggregate'>): Step {
  return new WindowAggregate(config);
}

/** What a window on the disk amounts to. */
export function aggregateIn(state: CheckpointState): NewReading | null {
  const { data } = windowSchema.safeParse(state);
  return data === undefined ? null : readingOf(data);
}

class WindowAggregate implements Step {
  readonly name: string;
  readonly on: string;
  readonly states: SensorStates<Window>;
  readonly #fields: readonly string[];
  readonly #windowMs: number;
  readonly #waitMs: number;
  readonly #to: string;

  constructor(config: ConfigOf<'aggregate'>) {
    const { on, fields, window, wait, to = on, sensors } = config;
    this.name = `aggregate ${on}.${fields.join(',')}`;
    this.on = on;
    this.states = new SensorStates(sensors, {
      prefix: durableStateName(config),
      parse: (state) => windowSchema.safeParse(state).data,
    });
    this.#fields = fields;
    this.#windowMs = window;
    this.#waitMs = wait;
    this.#to = to;
  }

  apply(draft: Draft, out: Outlet): void {
    const single = this.#windowOf(draft);
    if (single === null) {
      out.miss(draft);
      return;
    }
    out.drop();
    const open = this.states.get(sensorId(draft));
    if (open?.startMs === single.startMs && open.priority === single.priority) {
      this.#remember(draft, merge(open, single), out);
    } else if (open !== undefined && open.startMs > single.startMs) close(single, out);
    else {
      if (open !== undefined) close(open, out);
      this.#remember(draft, single, out);
    }
  }

  overdue(nowUs: number, out: Outlet): void {
    const nowMs = nowUs / 1000;
    this.#release(({ startMs, arrivalUs }) => {
      const arrivalMs = arrivalUs / 1000;
      // The clock of the sensor may be wrong, by years: a window stays open no longer than its length behind the last arrival.
      const endMs = Math.max(arrivalMs, Math.min(startMs, arrivalMs) + this.#windowMs);
      // Set back since: all that comes now would be late for it, each reading a window of its own, until the clock is there again.
      const wasAhead = nowMs < arrivalMs - this.#windowMs - this.#waitMs;
      return wasAhead || nowMs >= endMs + this.#waitMs;
    }, out);
  }

  flush(out: Outlet): void {
    this.#release(() => true, out);
  }

  #release(isDue: (open: Window) => boolean, out: Outlet): void {
    for (const [sensor, open] of this.states.entries()) {
      if (!isDue(open)) continue;
      close(open, out);
      this.states.delete(sensor);
    }
  }

  #remember(draft: Draft, open: Window, out: Outlet): void {
    const evicted = this.states.set(sensorId(draft), open);
    if (evicted !== undefined) close(evicted, out);
  }

  /** The window of one reading alone; null when it has none of the fields. */
  #windowOf(draft: Draft): Window | null {
    const fields = this.#fields.flatMap((name): Sums[] => {
      const value = draft.number(name);
      return value === undefined ? [] : [[name, 1, value, value, value, value]];
    });
    if (fields.length === 0) return null;
    const { key, priority, eventUs, arrivalUs } = draft;
    return {
      topic: this.#to,
      key,
      priority,
      startMs: Math.floor(eventUs / 1000 / this.#windowMs) * this.#windowMs,
      windowMs: this.#windowMs,
      arrivalUs,
      count: 1,
      lastUs: eventUs,
      fields,
    };
  }
}

function merge(open: Window, next: Window): Window {
  const isNewer = next.lastUs >= open.lastUs;
  const added = new Map(next.fields.map((sums) => [sums[0], sums]));
  const known = new Set(open.fields.map(([name]) => name));
  const fields = open.fields.map((sums): Sums => {
    const [name, count, min, max, sum, last] = sums;
    const other = added.get(name);
    if (other === undefined) return sums;
    const [, , , , value] = other;
    // Each value is finite, their sum need not be; JSON has no infinity.
    const total = Math.min(Number.MAX_VALUE, Math.max(-Number.MAX_VALUE, sum + value));
    return [name, count + 1, Math.min(min, value), Math.max(max, value), total, isNewer ? value : last];
  });
  return {
    ...open,
    arrivalUs: Math.max(open.arrivalUs, next.arrivalUs),
    count: open.count + 1,
    lastUs: Math.max(open.lastUs, next.lastUs),
    fields: [...fields, ...next.fields.filter(([name]) => !known.has(name))],
  };
}

function close(open: Window, out: Outlet): void {
  out.make(new Draft(readingOf(open)));
}

function readingOf(open: Window): NewReading {
  const { topic, key, priority, startMs, windowMs, arrivalUs, count } = open;
  const value = Object.assign(emptyFields(), { sensor: key, ts: startMs, windowMs, count });
  for (const [name, numbers, min, max, sum, last] of open.fields) {
    value[`${name}_min`] = min;
    value[`${name}_max`] = max;
    value[`${name}_mean`] = sum / numbers;
    value[`${name}_last`] = last;
  }
  return { topic, key, value: JSON.stringify(value), eventUs: startMs * 1000, arrivalUs, priority };
}
