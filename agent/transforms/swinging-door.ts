/**
 * Swinging door: of a sensor's readings only those are kept that straight lines between them need, so that every reading left out
 * lies within `by` of the line between its kept neighbours.
 *
 * The *anchor* is the last kept reading, the *held* one the newest. The cone is the range of slopes from the anchor that pass all
 * readings since then within `by`. A reading inside the cone becomes the held one and narrows it; one outside has the held reading
 * kept, which becomes the anchor. (The usual variant moves the doors by each reading without asking whether the held one lies between
 * them, and can be off by twice `by`.)
 *
 * Invariants: a state is durable with the readings that it follows from, the held reading inside it; so a kill loses no held reading.
 * The bound holds for readings that come in the order of their event time: one that does not is kept at once, with what was held; so
 *   is an alarm, which is never held back.
 * Limits: HELD_BYTES_MAX: larger readings are passed on.
 */
import { z } from 'zod';
import { ALARM_PRIORITY, type NewReading } from '../spool/frame.ts';
import type { CheckpointState } from '../spool/spool-state.ts';
import { Draft, textOf } from './draft.ts';
import { SensorStates } from './sensor-states.ts';
import { sensorId, type Outlet, type Step } from './step.ts';
import { durableStateName, type ConfigOf } from './transform-config.ts';

/** States are written again with every segment. */
const HELD_BYTES_MAX = 1024;

const heldSchema = z.strictObject({
  topic: z.string(),
  key: z.string().nullable(),
  value: z.string(),
  eventUs: z.int(),
  arrivalUs: z.int(),
  priority: z.int(),
});
const doorSchema = z.strictObject({
  anchorUs: z.int(),
  anchor: z.number(),
  /** Of the cone, in units per microsecond; null: all slopes. */
  low: z.number().nullable(),
  high: z.number().nullable(),
  held: heldSchema.extend({ number: z.number() }).nullable(),
});
type Door = z.infer<typeof doorSchema>;

export function swingingDoorStep(config: ConfigOf<'swingingDoor'>): Step {
  return new SwingingDoor(config);
}

/** The reading that a state on the disk holds back. */
export function heldIn(state: CheckpointState): NewReading | null {
  const held = doorSchema.safeParse(state).data?.held;
  return held === null || held === undefined ? null : readingOf(held);
}

class SwingingDoor implements Step {
  readonly name: string;
  readonly on: string;
  readonly states: SensorStates<Door>;
  readonly #field: string;
  readonly #by: number;
  readonly #maxGapUs: number;

  constructor(config: ConfigOf<'swingingDoor'>) {
    const { on, field, by, maxGap, sensors } = config;
    this.name = `swingingDoor ${on}.${field}`;
    this.on = on;
    this.states = new SensorStates(sensors, {
      prefix: durableStateName(config),
      parse: (state) => doorSchema.safeParse(state).data,
    });
    this.#field = field;
    this.#by = by;
    this.#maxGapUs = maxGap * 1000;
  }

  apply(draft: Draft, out: Outlet): void {
    const number = draft.number(this.#field);
    const reading = draft.toReading();
    if (number === undefined || reading.value.length + (reading.key?.length ?? 0) > HELD_BYTES_MAX) {
      out.miss(draft);
      return;
    }
    const door = this.states.get(sensorId(draft));
    const isAlarm = draft.priority >= ALARM_PRIORITY;
    if (door === undefined || isAlarm || draft.eventUs <= (door.held?.eventUs ?? door.anchorUs)) {
      if (door !== undefined) keepHeld(door, out);
      this.#keep(draft, number, out);
      return;
    }
    let base = door;
    if (door.held !== null && !(isInside(door, draft, number) && this.#isInTime(door, draft))) {
      keepHeld(door, out);
      base = anchoredAt(door.held.eventUs, door.held.number);
    }
    if (!this.#isInTime(base, draft)) {
      this.#keep(draft, number, out);
      return;
    }
    out.drop();
    const us = draft.eventUs - base.anchorUs;
    const low = Math.max(base.low ?? -Infinity, (number - this.#by - base.anchor) / us);
    const high = Math.min(base.high ?? Infinity, (number + this.#by - base.anchor) / us);
    const held = { ...reading, value: textOf(reading.value), number };
    this.#remember(draft, { ...base, low, high, held }, out);
  }

  /** By the clock of the arrival, also one that was set back since: a sensor that has fallen silent shows its last reading. */
  overdue(nowUs: number, out: Outlet): void {
    this.#release((door) => Math.abs(nowUs - (door.held?.arrivalUs ?? nowUs)) >= this.#maxGapUs, out);
  }

  flush(out: Outlet): void {
    this.#release(() => true, out);
  }

  #release(isDue: (door: Door) => boolean, out: Outlet): void {
    for (const [sensor, door] of this.states.entries()) {
      if (door.held === null || !isDue(door)) continue;
      keepHeld(door, out);
      this.states.set(sensor, anchoredAt(door.held.eventUs, door.held.number));
    }
  }

  #isInTime(door: Door, draft: Draft): boolean {
    return draft.eventUs - door.anchorUs <= this.#maxGapUs;
  }

  #keep(draft: Draft, number: number, out: Outlet): void {
    out.pass(draft);
    this.#remember(draft, anchoredAt(draft.eventUs, number), out);
  }

  #remember(draft: Draft, door: Door, out: Outlet): void {
    const evicted = this.states.set(sensorId(draft), door);
    if (evicted !== undefined) keepHeld(evicted, out);
  }
}

function keepHeld({ held }: Door, out: Outlet): void {
  if (held === null) return;
  out.make(new Draft(readingOf(held)));
}

function isInside(door: Door, draft: Draft, number: number): boolean {
  const slope = (number - door.anchor) / (draft.eventUs - door.anchorUs);
  return slope >= (door.low ?? -Infinity) && slope <= (door.high ?? Infinity);
}

function anchoredAt(anchorUs: number, anchor: number): Door {
  return { anchorUs, anchor, low: null, high: null, held: null };
}

function readingOf({ topic, key, value, eventUs, arrivalUs, priority }: z.infer<typeof heldSchema>): NewReading {
  return { topic, key, value, eventUs, arrivalUs, priority };
}
